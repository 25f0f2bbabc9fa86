#!/usr/bin/env python3
"""Checks the house rules that a compiler cannot: who may include whom, what may not be written,
what must be listed where. ctest runs it; by hand:

    tools/lint/lint.py [ROOT]

Prints `path:line: [rule] message` per finding and exits 1 if there is one. A line that needs an
exception says so itself and why: `// lint: allow(rule) reason` (`#` in Python, CMake and YAML).
The rules are the functions below; lint_test.py plants a violation of each and sees it caught.
"""

import os
import re
import sys

# What a folder of libs/ may include besides itself. Adding a library means adding a row.
LIB_DEPS = {
    "base": set(),
    "config": {"base"},
    "obs": {"base"},
    "crypto": {"base"},
    "aio": {"base", "config", "obs"},
    "sql": {"base", "config", "obs", "aio"},
    "redis": {"base", "config", "obs", "aio"},
    "rpc": {"base", "config", "obs", "aio", "crypto", "sql", "identity", "proto"},
    "audit": {"base", "obs", "crypto", "sql", "rpc", "proto"},
    "http": {"base", "config", "obs", "aio", "crypto"},
    "identity": {"base", "obs", "http"},
    "policy": {"base", "proto"},
    "clients": {"base", "config", "obs", "aio", "crypto", "sql", "redis", "rpc", "http", "policy",
                "proto"},
    "testing": {"base", "config", "obs", "aio", "crypto", "sql", "redis", "rpc", "http", "policy",
                "clients", "proto"},
}
# Third-party headers a pure core may not see: I/O, RPC, SQL, HTTP, logging.
IMPURE_HEADERS = re.compile(
    r"^(grpc|grpcpp|boost/asio|boost/beast|sqlite3|pqxx|hiredis|curl|spdlog|prometheus|yaml-cpp|"
    r"tollhouse/|sys/socket|fstream|iostream|thread|chrono)")
CPP = (".cc", ".h")
TEXT = CPP + (".py", ".sh", ".proto", ".md", ".txt", ".cmake", ".json", ".yaml", ".yml", ".sql",
              ".lua", ".tpl", ".toml")
SKIPPED_DIRS = {".git", "build", "__pycache__", ".quickstart", ".venv", ".pytest_cache",
                "node_modules"}


class File:
    """One file of the tree: its path relative to the root, its text, its code without comments."""

    def __init__(self, root, path):
        self.path = path
        self.name = os.path.basename(path)
        self.executable = os.access(os.path.join(root, path), os.X_OK)
        with open(os.path.join(root, path), "rb") as f:
            raw = f.read()
        self.text = raw.decode("utf-8", "replace")
        self.lines = self.text.split("\n")
        self._code = None

    @property
    def is_cpp(self):
        return self.path.endswith(CPP)

    @property
    def is_test(self):
        """Code that never ships: tests, conformance suites, benchmarks, fuzzers, fakes for them."""
        return (self.path.startswith(("tests/", "libs/testing/"))
                or re.search(r"(_test|_conformance|_bench|_fuzz|_fake|_testing)\.(cc|h|py)$", self.path)
                or "conformance" in self.name)

    @property
    def code(self):
        """The lines of a C++ file with comments and string contents blanked out."""
        if self._code is None:
            self._code = blank_comments(self.text).split("\n")
        return self._code

    def includes(self):
        for number, line in enumerate(self.lines, 1):
            match = re.match(r'\s*#\s*include\s*["<]([^">]+)[">]', line)
            if match:
                yield number, match.group(1)


def blank_comments(text):
    """C++ text with comments and the insides of literals replaced by spaces; lines keep their
    numbers. Knows raw strings and digit separators."""
    token = re.compile(
        r'//[^\n]*|/\*.*?\*/|R"(?P<d>[^\s()\\]{0,16})\(.*?\)(?P=d)"|"(?:\\.|[^"\\\n])*"'
        r"|(?<![0-9A-Fa-f])'(?:\\.|[^'\\\n])+'", re.S)
    return token.sub(lambda m: re.sub(r"[^\n]", " ", m.group(0)), text)


def allowed(line, rule):
    return re.search(r"(//|#|--)\s*lint: allow\(%s\) \S" % re.escape(rule), line) is not None


class Findings:
    def __init__(self):
        self.rows = []

    def add(self, file, line, rule, message):
        if line and allowed(file.lines[line - 1], rule):
            return
        self.rows.append((file.path, line, rule, message))


# --- include directions --------------------------------------------------------------------------
def check_includes(tree, out):
    for f in tree:
        if not f.is_cpp:
            continue
        parts = f.path.split("/")
        for number, header in f.includes():
            inc = header.split("/")
            if header.startswith("libs/testing/") and not f.is_test and parts[0] in (
                    "libs", "services") or (header.startswith("libs/testing/") and not f.is_test
                                            and f.path.startswith("tools/tollctl/")):
                out.add(f, number, "include-testing", "production code includes libs/testing")
            if parts[0] == "libs" and len(parts) > 2:
                check_lib_include(f, number, parts[1], header, inc, out)
            if parts[0] == "services" and len(parts) > 2:
                check_service_include(f, number, parts, header, inc, out)
            if parts[0] == "tools" and inc[0] == "services":
                out.add(f, number, "include-service", "tools speak gRPC and HTTP to services, "
                        "they do not include them")


def check_lib_include(f, number, lib, header, inc, out):
    deps = LIB_DEPS.get(lib)
    if deps is None:
        out.add(f, number, "include-lib", "libs/%s is not in LIB_DEPS of tools/lint/lint.py" % lib)
        return
    if inc[0] in ("services", "tools", "tests"):
        out.add(f, number, "include-lib", "a library includes %s" % header)
    elif inc[0] == "libs" and len(inc) > 2 and inc[1] != lib and inc[1] not in deps:
        if not (inc[1] == "testing" and f.is_test):
            out.add(f, number, "include-lib", "libs/%s may include %s, not libs/%s" % (
                lib, ", ".join(sorted(deps)) or "nothing else", inc[1]))
    elif inc[0] == "tollhouse" and "proto" not in deps and not f.is_test:
        out.add(f, number, "include-lib", "libs/%s may not know the protocol (%s)" % (lib, header))


def check_service_include(f, number, parts, header, inc, out):
    service = parts[1]
    if inc[0] == "services" and inc[1] != service and service != "standalone":
        out.add(f, number, "include-service",
                "services/%s includes services/%s; speak gRPC instead" % (service, inc[1]))
    if inc[0] in ("tools", "tests"):
        out.add(f, number, "include-service", "a service includes %s" % header)
    if parts[2] == "core" and not f.is_test:
        own = header.startswith("services/%s/core/" % service)
        if inc[0] == "libs" and inc[1] != "base" or (inc[0] == "services" and not own):
            out.add(f, number, "include-core", "a core may include libs/base and itself only")
        elif IMPURE_HEADERS.match(header):
            out.add(f, number, "include-core", "a core is pure: no %s" % header)


# --- ban list ------------------------------------------------------------------------------------
def in_money_path(f):
    return (re.match(r"(services/[^/]+/core|libs/base|services/ledger|services/budget-enforcer)/",
                     f.path) is not None
            or re.search(r"(money|price|cost|bound|bill)[^/]*\.(cc|h)$", f.path) is not None)


# (rule, regex, which files, message); matched against code without comments and literals.
CPP_BANS = [
    ("using-namespace-std", r"\busing\s+namespace\s+std\b", lambda f: True, "name what you use"),
    ("ato", r"\b(atoi|atol|atoll|atof|strtod|strtof|stod|stof|stold)\s*\(", lambda f: True,
     "no error reporting or floating point: absl::SimpleAtoi, base::NanoUsd"),
    ("float", r"\b(float|double)\b", in_money_path, "no floating point near money"),
    ("cout", r"\bstd::cout\b", lambda f: f.path.startswith(("services/", "libs/"))
     and f.name != "main.cc" and not f.is_test, "services log through libs/obs"),
    ("sleep-in-test", r"\b(sleep_for|sleep_until|usleep|nanosleep|sleep|SleepFor)\s*\(",
     lambda f: f.is_test, "wait for the event, not for the clock"),
    ("detach", r"(\.|->)\s*detach\s*\(\s*\)", lambda f: True, "every thread has an owner who joins"),
    ("skip", r"\bGTEST_SKIP\b|\bDISABLED_\w", lambda f: True,
     "a test that does not run does not exist"),
    ("delete-this", r"\bdelete\s+this\b", lambda f: True, "give it an owner"),
    ("unbounded-copy", r"\b(sprintf|vsprintf|strcpy|strcat|gets)\s*\(", lambda f: True,
     "unbounded write"),
    ("if-0", r"^\s*#\s*if\s+0\b", lambda f: True, "delete code, history keeps it"),
]
UNFINISHED = re.compile(r"\b(TODO|FIXME|XXX|HACK)\b")  # lint: allow(unfinished) the rule's own words
MACHINE_PATH = re.compile(r"(?<![\w.~}])/(?:home|root|Users|work)/[\w.]")
SECRET = re.compile(r"-----BEGIN (?:[A-Z]+ )?PRIVATE KEY-----|\bsk-(?:proj|ant)-[A-Za-z0-9_-]{24,}")
PY_SKIP = re.compile(r"pytest\.(?:mark\.)?(?:skip|skipif|xfail|importorskip)\b|unittest\.skip")
VAGUE = re.compile(r"(^|_)(utils?|helpers?|misc|stuff)(_|\.|$)")


def check_bans(tree, out):
    for f in tree:
        if f.is_cpp:
            for rule, pattern, applies, message in CPP_BANS:
                if applies(f):
                    for number, line in enumerate(f.code, 1):
                        if re.search(pattern, line):
                            out.add(f, number, rule, message)
        own = f.path.startswith("tools/lint/")
        for number, line in enumerate(f.lines, 1):
            if UNFINISHED.search(line) and not own:
                out.add(f, number, "unfinished", "finish it, or write it down in the tracker")
            if MACHINE_PATH.search(line) and not own:
                out.add(f, number, "machine-path", "names a path of one machine")
            if SECRET.search(line) and not own:
                out.add(f, number, "secret", "looks like a secret; make it at run time")
            if f.path.endswith(".py") and not own:
                if PY_SKIP.search(line):
                    out.add(f, number, "skip", "a test that does not run does not exist")
                if f.path.startswith("tests/") and re.search(r"\btime\.sleep\(", line):
                    out.add(f, number, "sleep-in-test", "wait for the event, not for the clock")
        for part in f.path.split("/"):
            if VAGUE.search(part):
                out.add(f, 0, "vague-name", "%r says nothing; name what it does" % part)
        if re.match(r"services/.*\.sql$", f.path):
            for number, line in enumerate(f.lines, 1):
                if re.search(r"\w\s+(REAL|FLOAT\d?|DOUBLE|NUMERIC|MONEY)\b", line.split("--")[0], re.I):
                    out.add(f, number, "float", "columns are integers or text")


# --- what must be listed, guarded, commented -----------------------------------------------------
def check_headers(tree, out):
    for f in tree:
        if f.path.endswith(".h"):
            first = next((line.strip() for line in f.code if line.strip()), "")
            if first != "#pragma once":
                out.add(f, 1, "pragma-once", "a header begins with #pragma once")


def check_cmake(tree, out):
    lists = {os.path.dirname(f.path): f for f in tree if f.name == "CMakeLists.txt"}
    for f in tree:
        if f.name == "CMakeLists.txt" or f.path.endswith(".cmake"):
            for number, line in enumerate(f.lines, 1):
                if re.search(r"\bfile\s*\(\s*GLOB", line, re.I):
                    out.add(f, number, "glob", "file lists are explicit")
        if not f.path.endswith(".cc"):
            continue
        folder, named = os.path.dirname(f.path), False
        while not named:
            if folder in lists:
                relative = os.path.relpath(f.path, folder or ".")
                text = re.sub(r"#[^\n]*", "", lists[folder].text)
                named = re.search(r"(?<![\w./-])%s(?![\w.])" % re.escape(relative), text) is not None
            if not folder:
                break
            folder = os.path.dirname(folder)
        if not named:
            out.add(f, 0, "not-built", "no CMakeLists.txt names it: it does not exist")


def check_protos(tree, out):
    for f in tree:
        if not f.path.endswith(".proto"):
            continue
        package = re.search(r"^package\s+([\w.]+);", f.text, re.M)
        expected = os.path.dirname(f.path).replace("proto/", "", 1).replace("/", ".")
        if not package or package.group(1) != expected:
            out.add(f, 1, "proto-package", "package must be %s" % expected)
        for number, line in enumerate(f.lines, 1):
            if re.match(r"\s*rpc\s+\w+", line):
                above = f.lines[number - 2].strip() if number > 1 else ""
                if not above.startswith("//") and not above.endswith("*/"):
                    out.add(f, number, "proto-comment",
                            "every rpc says: idempotent? consistency? errors by code and reason")


def check_scripts(tree, out):
    for f in tree:
        if f.text.startswith("#!") and not f.executable:
            out.add(f, 1, "not-executable", "has a #! line but is not executable")


CHECKS = [check_includes, check_bans, check_headers, check_cmake, check_protos, check_scripts]


def read_tree(root):
    """Every text file below root that belongs to the project, in path order."""
    files = []
    for folder, dirs, names in os.walk(root):
        dirs[:] = sorted(d for d in dirs if d not in SKIPPED_DIRS)
        for name in sorted(names):
            path = os.path.relpath(os.path.join(folder, name), root)
            if os.path.islink(os.path.join(root, path)):
                continue
            if name.endswith(TEXT) or is_script(os.path.join(root, path)):
                files.append(File(root, path))
    return files


def is_script(path):
    with open(path, "rb") as f:
        return f.read(2) == b"#!"


def lint(root):
    """All findings of the tree at root, as (path, line, rule, message)."""
    tree, out = read_tree(root), Findings()
    for check in CHECKS:
        check(tree, out)
    return sorted(out.rows)


def main():
    if len(sys.argv) > 2 or (len(sys.argv) == 2 and sys.argv[1].startswith("-")):
        print(__doc__.strip())
        return 0 if sys.argv[1] in ("-h", "--help") else 2
    root = sys.argv[1] if len(sys.argv) == 2 else os.path.dirname(
        os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    rows = lint(root)
    for path, line, rule, message in rows:
        print("%s:%d: [%s] %s" % (path, line, rule, message))
    print("lint: %d finding%s" % (len(rows), "" if len(rows) == 1 else "s"))
    return 1 if rows else 0


if __name__ == "__main__":
    sys.exit(main())
