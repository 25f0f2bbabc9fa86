#!/usr/bin/env python3
"""What tools/test_summary.py counts as passed and as failed."""

import os
import subprocess
import sys
import tempfile
import unittest

HERE = os.path.dirname(os.path.abspath(__file__))
CTEST = '<testsuite>%s</testsuite>'
CASE = '<testcase name="%s" status="%s"/>'
GTEST = ('<testsuites><testsuite><testcase name="A" classname="T" status="run" result="completed"/>'
         '<testcase name="B" classname="T" status="%s" result="%s">%s</testcase>'
         '</testsuite></testsuites>')
PYTEST = '<testsuites><testsuite><testcase name="e" classname="m">%s</testcase></testsuite></testsuites>'


class SummaryTest(unittest.TestCase):
    def summary(self, **files):
        """(exit code, last line) for result files given by name, "__" for "/"."""
        with tempfile.TemporaryDirectory() as results:
            for name, text in files.items():
                path = os.path.join(results, name.replace("__", "/") + ".xml")
                os.makedirs(os.path.dirname(path), exist_ok=True)
                with open(path, "w", encoding="utf-8") as f:
                    f.write(text)
            done = subprocess.run([sys.executable, "-B", HERE + "/test_summary.py", results],
                                  capture_output=True, text=True, check=False)
        self.assertEqual(done.stderr, "")
        return done.returncode, done.stdout.splitlines()[-1]

    def test_everything_passed(self):
        self.assertEqual(self.summary(
            ctest=CTEST % (CASE % ("x_test", "run") + CASE % ("lint", "run")),
            gtest__x_test=GTEST % ("run", "completed", ""), e2e=PYTEST % "", cluster=PYTEST % ""),
            (0, "5 passed, 0 failed"))

    def test_failures_of_every_kind(self):
        self.assertEqual(self.summary(
            ctest=CTEST % (CASE % ("x_test", "fail") + CASE % ("lint", "fail")),
            gtest__x_test=GTEST % ("run", "completed", "<failure/>"), e2e=PYTEST % "<error/>"),
            (1, "1 passed, 3 failed"))

    def test_a_program_that_died_is_a_failure(self):
        self.assertEqual(self.summary(ctest=CTEST % (CASE % ("x_test", "fail"))),
                         (1, "0 passed, 1 failed"))
        self.assertEqual(self.summary(ctest=CTEST % (CASE % ("x_test", "fail")),
                                      gtest__x_test=GTEST % ("run", "completed", "")),
                         (1, "2 passed, 1 failed"))

    def test_what_did_not_run_is_a_failure(self):
        self.assertEqual(self.summary(
            ctest=CTEST % (CASE % ("x_test", "run") + CASE % ("y_test", "notrun")),
            gtest__x_test=GTEST % ("notrun", "suppressed", ""), e2e=PYTEST % "<skipped/>"),
            (1, "1 passed, 3 failed"))

    def test_no_test_at_all_is_a_failure(self):
        self.assertEqual(self.summary(ctest=CTEST % ""), (1, "0 passed, 0 failed"))


if __name__ == "__main__":
    unittest.main()
