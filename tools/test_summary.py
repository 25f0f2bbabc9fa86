#!/usr/bin/env python3
"""Adds up a run of tools/test: `test_summary.py RESULTS` reads RESULTS/ctest.xml, the GoogleTest
reports in RESULTS/gtest/, RESULTS/e2e.xml and RESULTS/cluster.xml, lists what failed and ends with
`N passed, N failed`.

A GoogleTest program counts case by case; one that died without a report counts as one failure. A
skipped test is a failure: a test that did not run has shown nothing. Exit 1 on any failure, and on
no test at all.
"""

import glob
import os
import sys
import xml.etree.ElementTree as ElementTree


def cases(path):
    """(name, outcome) of every test case of a JUnit file; outcome: passed, failed or skipped."""
    for case in ElementTree.parse(path).getroot().iter("testcase"):
        name = "%s.%s" % (case.get("classname", ""), case.get("name"))
        status = (case.get("status") or "").lower()
        if case.find("failure") is not None or case.find("error") is not None or status == "fail":
            yield name, "failed"
        elif (case.find("skipped") is not None or status in ("disabled", "notrun")
              or case.get("result") in ("skipped", "suppressed")):
            yield name, "skipped"
        else:
            yield name, "passed"


def ctest_cases(results):
    """The cases of ctest's run, with GoogleTest programs replaced by their own cases."""
    path = os.path.join(results, "ctest.xml")
    if not os.path.exists(path):
        return
    for case in ElementTree.parse(path).getroot().iter("testcase"):
        program = case.get("name")
        outcome = {"run": "passed", "fail": "failed"}.get((case.get("status") or "").lower(), "skipped")
        report = os.path.join(results, "gtest", program + ".xml")
        if not os.path.exists(report):
            yield program, outcome
            continue
        inner = list(cases(report))
        yield from (("%s: %s" % (program, name), state) for name, state in inner)
        if outcome != "passed" and all(state == "passed" for _, state in inner):
            yield program + " (the program itself)", "failed"


def main():
    results = sys.argv[1]
    rows = list(ctest_cases(results))
    for kind in ("e2e", "cluster"):
        report = os.path.join(results, kind + ".xml")
        if os.path.exists(report):
            rows += cases(report)
    for wanted, title in (("failed", "FAILED"), ("skipped", "SKIPPED (counts as failed)")):
        for name, outcome in rows:
            if outcome == wanted:
                print("%s: %s" % (title, name))
    passed = sum(1 for _, outcome in rows if outcome == "passed")
    print("%d passed, %d failed" % (passed, len(rows) - passed))
    return 0 if rows and passed == len(rows) else 1


if __name__ == "__main__":
    sys.exit(main())
