#!/usr/bin/env python3
"""Plants one violation of each lint rule in a temporary tree and sees exactly that rule fire."""

import os
import tempfile
import unittest

import lint

RPC = 'syntax = "proto3";\npackage tollhouse.ledger.v1;\nservice S {\n%s  rpc Do(A) returns (B);\n}\n'

# (rule, path, text): the smallest file that breaks the rule.
PLANTED = [
    ("include-testing", "services/edge/app.h", '#pragma once\n#include "libs/testing/seed.h"\n'),
    ("include-testing", "tools/tollctl/cli.h", '#pragma once\n#include "libs/testing/seed.h"\n'),
    ("include-lib", "libs/base/a.h", '#pragma once\n#include "libs/obs/log.h"\n'),
    ("include-lib", "libs/sql/a.h", '#pragma once\n#include "libs/rpc/b.h"\n'),
    ("include-lib", "libs/sql/a.h", '#pragma once\n#include "tollhouse/ledger/v1/ledger.pb.h"\n'),
    ("include-lib", "libs/http/a.h", '#pragma once\n#include "services/edge/app.h"\n'),
    ("include-lib", "libs/novel/a.h", '#pragma once\n#include "libs/base/clock.h"\n'),
    ("include-service", "services/edge/a.h", '#pragma once\n#include "services/ledger/app.h"\n'),
    ("include-service", "tools/tollctl/a.h", '#pragma once\n#include "services/ledger/app.h"\n'),
    ("include-core", "services/ledger/core/a.h", '#pragma once\n#include "libs/sql/db.h"\n'),
    ("include-core", "services/ledger/core/a.h", "#pragma once\n#include <grpcpp/grpcpp.h>\n"),
    ("include-core", "services/ledger/core/a.h",
     '#pragma once\n#include "services/ledger/store/store.h"\n'),
    ("using-namespace-std", "libs/base/a.h", "#pragma once\nusing namespace std;\n"),
    ("ato", "libs/base/a.h", "#pragma once\nint x = atoi(s);\n"),
    ("ato", "libs/config/a.h", "#pragma once\nauto x = std::stod(s);\n"),
    ("float", "services/budget-enforcer/core/a.h", "#pragma once\ndouble share;\n"),
    ("float", "services/edge/cost.h", "#pragma once\nfloat usd;\n"),
    ("float", "services/ledger/migrations/1.sql", "CREATE TABLE t (spent REAL);\n"),
    ("cout", "services/edge/a.h", "#pragma once\nstd::cout << 1;\n"),
    ("sleep-in-test", "libs/base/a_test.h", "#pragma once\nabsl::SleepFor(absl::Seconds(1));\n"),
    ("sleep-in-test", "tests/e2e/test_a.py", "import time\ntime.sleep(1)\n"),
    ("detach", "libs/base/a.h", "#pragma once\nt.detach();\n"),
    ("skip", "libs/base/a_test.h", "#pragma once\nGTEST_SKIP();\n"),
    ("skip", "libs/base/a_test.h", "#pragma once\nTEST(A, DISABLED_B) {}\n"),
    ("skip", "tests/e2e/test_a.py", "@pytest.mark.skip\ndef test_a(): pass\n"),
    ("delete-this", "libs/base/a.h", "#pragma once\ndelete this;\n"),
    ("unbounded-copy", "libs/base/a.h", "#pragma once\nstrcpy(a, b);\n"),
    ("if-0", "libs/base/a.h", "#pragma once\n#if 0\n#endif\n"),
    ("unfinished", "libs/base/a.h", "#pragma once\n// TODO later\n"),
    ("machine-path", "docs/a.md", "see /home/anna/x\n"),
    ("secret", "docs/a.md", "-----BEGIN RSA PRIVATE KEY-----\n"),
    ("vague-name", "libs/base/string_utils.h", "#pragma once\n"),
    ("pragma-once", "libs/base/a.h", "// A comment.\n#ifndef A\n#endif\n"),
    ("glob", "libs/CMakeLists.txt", "file(GLOB x *.cc)\n"),
    ("not-built", "libs/base/lost_test.cc", "int x;\n"),
    ("proto-package", "proto/tollhouse/vault/v1/a.proto", "package tollhouse.ledger.v1;\n"),
    ("proto-comment", "proto/tollhouse/ledger/v1/a.proto", RPC % ""),
    ("not-executable", "tools/thing", "#!/bin/sh\n"),
]

# (path, text): files that resemble violations and are none.
CLEAN = [
    ("libs/base/a.h", '// Says "TO" and DO.\n#pragma once\n// a float in a comment, std::cout too\n'
     'const char* s = "double"; // double\nconst char* r = R"x(using namespace std;)x";\n'
     "int64_t n = 1'000'000; char c = '\"';\n"),
    ("libs/base/b.h", "#pragma once\ndouble rate;  // lint: allow(float) a ratio for a log line\n"),
    ("libs/base/CMakeLists.txt", "tollhouse_library(base SRCS c.cc sub/d.cc)\n"),
    ("libs/base/c.cc", '#include "libs/base/a.h"\n'),
    ("libs/base/sub/d.cc", "#include <string>\n"),
    ("libs/policy/p.h", '#pragma once\n#include "tollhouse/router/v1/router.pb.h"\n'),
    ("libs/rpc/r_test.h", '#pragma once\n#include "libs/testing/seed.h"\n'),
    ("services/standalone/app.h", '#pragma once\n#include "services/ledger/app.h"\n'),
    ("services/ledger/core/c.h", '#pragma once\n#include "services/ledger/core/d.h"\n'
     '#include "libs/base/money.h"\n#include "absl/status/status.h"\n'),
    ("services/edge/metrics.h", "#pragma once\ndouble seconds;\nboost::asio::detached_t d;\n"),
    ("services/ledger/migrations/1.sql", "-- Money: double entry.\nCREATE TABLE t (n INTEGER); -- real\n"),
    ("proto/tollhouse/ledger/v1/a.proto", RPC % "  // Idempotent.\n"),
]


class LintTest(unittest.TestCase):
    def findings(self, files):
        with tempfile.TemporaryDirectory() as root:
            for path, text in files:
                full = os.path.join(root, path)
                os.makedirs(os.path.dirname(full), exist_ok=True)
                with open(full, "w", encoding="utf-8") as f:
                    f.write(text)
            return lint.lint(root)

    def test_every_planted_violation_is_caught_alone(self):
        for rule, path, text in PLANTED:
            with self.subTest(rule=rule, path=path):
                rows = self.findings([(path, text)])
                self.assertEqual([row[2] for row in rows], [rule], rows)

    def test_lookalikes_pass(self):
        self.assertEqual(self.findings(CLEAN), [])

    def test_every_rule_has_a_planted_violation(self):
        here = os.path.dirname(os.path.abspath(__file__))
        with open(os.path.join(here, "lint.py"), encoding="utf-8") as f:
            source = f.read()
        import re
        rules = set(re.findall(r'out\.add\([^"]*?"([a-z0-9-]+)"', source))
        rules |= {ban[0] for ban in lint.CPP_BANS}
        self.assertEqual(rules - {row[0] for row in PLANTED}, set())

    def test_an_exception_needs_a_reason(self):
        text = "#pragma once\ndouble x;  // lint: allow(float)\n"
        self.assertEqual(len(self.findings([("libs/base/a.h", text)])), 1)


if __name__ == "__main__":
    unittest.main()
