"""The programs under test: tollhoused, tollhouse-simprovider and tollctl as a person would run them.

Every process dies with the test run (PDEATHSIG), binds a free loopback port and writes below a
temporary directory. Nothing here knows what a test checks.
"""

import contextlib
import json
import os
import pathlib
import signal
import subprocess
import time
import urllib.request

import secret_scan

ROOT = pathlib.Path(__file__).resolve().parents[2]
BIN = pathlib.Path(os.environ.get("TOLLHOUSE_BIN", ROOT / "build" / "bin"))
LONG = os.environ.get("TOLLHOUSE_TEST_LONG") == "1"


def wait_until(check, timeout=10.0, what="condition"):
    """Polls until check() is truthy and returns that; AssertionError after `timeout` seconds."""
    deadline = time.monotonic() + timeout
    while True:
        result = check()
        if result:
            return result
        if time.monotonic() > deadline:
            raise AssertionError("waited %.0f s in vain: %s" % (timeout, what))
        time.sleep(0.01)  # lint: allow(sleep-in-test) the one poll loop


def get(url, timeout=10):
    """The body of a GET; HTTP errors raise."""
    with urllib.request.urlopen(url, timeout=timeout) as answer:
        return answer.read()


def read_json(path):
    """The JSON in a file, None while it is not there or not whole."""
    with contextlib.suppress(OSError, ValueError):
        return json.loads(pathlib.Path(path).read_text())
    return None


class Child:
    """A process with its output in a file. start() must run on the main thread: the child dies
    with the thread that made it."""

    def __init__(self, name, log):
        self.name, self.log, self.process = name, pathlib.Path(log), None

    def start(self, argv, env=None):
        with open(self.log, "ab") as log:
            self.process = subprocess.Popen(
                ["setpriv", "--pdeathsig", "KILL", *map(str, argv)], stdout=log,
                stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, env=env)

    @property
    def pid(self):
        return self.process.pid

    @property
    def running(self):
        return self.process is not None and self.process.poll() is None

    def tail(self, lines=40):
        if not self.log.exists():
            return ""
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])

    def kill(self):
        """SIGKILL, at once."""
        self.process.kill()
        self.process.wait()

    def stop(self, timeout=20):
        """SIGTERM and the exit code; SIGKILL if it does not end."""
        if self.process is None or self.process.poll() is not None:
            return self.process.returncode if self.process else None
        self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(timeout)
        except subprocess.TimeoutExpired:
            self.kill()
            return None


class SimProvider(Child):
    """The simulated provider and its meter."""

    def __init__(self, directory):
        super().__init__("tollhouse-simprovider", directory / "simprovider.log")
        self.directory, self.url = directory, None

    def start(self, *arguments):
        endpoint = self.directory / "simprovider.json"
        endpoint.unlink(missing_ok=True)
        super().start([BIN / "tollhouse-simprovider", "--listen", "127.0.0.1:0", "--endpoint-file",
                       endpoint, *arguments])
        wait_until(lambda: not self.running or read_json(endpoint), what="the simulated provider")
        assert self.running, self.tail()
        self.url = read_json(endpoint)["url"]
        return self

    def totals(self):
        return json.loads(get(self.url + "/sim/meter"))

    def cost(self):
        """Everything billed so far, in nano-USD."""
        return int(self.totals()["cost_nanousd"])

    def records(self, after=0):
        """Every request the provider saw after that sequence number, oldest first."""
        text = get("%s/sim/meter/records?after=%d" % (self.url, after), timeout=60).decode()
        return [json.loads(line) for line in text.splitlines() if line]

    def last_seq(self):
        return int(self.totals()["last_seq"])


class TollctlError(AssertionError):
    def __init__(self, argv, done):
        super().__init__("tollctl %s: exit %d\n%s%s" % (" ".join(argv), done.returncode, done.stdout,
                                                        done.stderr))
        self.code, self.stdout, self.stderr = done.returncode, done.stdout, done.stderr


class Tollctl:
    """The CLI bound to one server. Calling it runs a command and returns its parsed JSON."""

    def __init__(self, server, token_file):
        self.env = {**os.environ, "TOLLHOUSE_SERVER": server, "TOLLHOUSE_TOKEN_FILE": str(token_file),
                    "HOME": str(pathlib.Path(token_file).parent)}

    def run(self, *argv, stdin=None, env=None, timeout=60):
        """The finished process, whatever its exit code."""
        return subprocess.run([str(BIN / "tollctl"), *map(str, argv)], input=stdin, text=True,
                              stdin=subprocess.DEVNULL if stdin is None else None,
                              capture_output=True, env={**self.env, **(env or {})}, timeout=timeout,
                              check=False)

    def __call__(self, *argv, **options):
        argv = [*map(str, argv), "--output", "json"]
        done = self.run(*argv, **options)
        if done.returncode != 0:
            raise TollctlError(argv, done)
        answer = json.loads(done.stdout) if done.stdout.strip() else None
        secret_scan.learn(answer)
        return answer


class Tollhoused(Child):
    """tollhoused on its own data directory. Restarts keep the addresses of the first start."""

    def __init__(self, directory, *arguments):
        super().__init__("tollhoused", directory / "tollhoused.log")
        self.data = directory / "data"
        self.arguments = arguments
        self.endpoints = None
        self.prefix = []
        self.env = None

    def launch(self):
        """Starts without waiting."""
        listen = {"edge": "127.0.0.1:0", "admin": "127.0.0.1:0", "metrics": "127.0.0.1:0"}
        if self.endpoints:
            listen = {name: self.endpoints[name].split("//")[-1] for name in listen}
        self.data.mkdir(exist_ok=True)
        super().start([*self.prefix, BIN / "tollhoused", "--data-dir", self.data,
                       "--edge-listen", listen["edge"], "--admin-listen", listen["admin"],
                       "--metrics-listen", listen["metrics"], *self.arguments],
                      env={**os.environ, **self.env} if self.env else None)

    def start(self, timeout=20):
        """Starts and returns when it is ready."""
        began = time.monotonic()
        self.launch()
        wait_until(lambda: not self.running or self.ready(), timeout, "tollhoused ready")
        assert self.running, "tollhoused ended at start:\n" + self.tail()
        self.started_in = time.monotonic() - began
        return self

    def ready(self):
        endpoints = read_json(self.data / "endpoints.json")
        if endpoints is None or endpoints["pid"] != self.pid:
            return False
        self.endpoints = endpoints
        return True

    @property
    def edge(self):
        return self.endpoints["edge"].rstrip("/")

    @property
    def metrics(self):
        return self.endpoints["metrics"].rstrip("/")

    @property
    def tollctl(self):
        return Tollctl(self.endpoints["admin"], self.data / "admin.token")


class Stack:
    """tollhoused with the simulated provider behind it as `sim` (OpenAI), `simant` (Anthropic) and
    `simgem` (Gemini)."""

    def __init__(self, directory, *arguments):
        self.directory = pathlib.Path(directory)
        self.sim = SimProvider(self.directory)
        self.house = Tollhoused(self.directory, *arguments)
        self.names = 0

    def start(self):
        self.sim.start()
        self.house.start()
        self.add_provider("sim", "openai", self.sim.url + "/v1")
        self.add_provider("simant", "anthropic", self.sim.url)
        self.add_provider("simgem", "gemini", self.sim.url)
        return self

    def add_provider(self, name, dialect, base_url, *arguments):
        secret = self.directory / ("credential-" + name)
        secret.write_text("sim-secret-" + name)
        secret_scan.remember("a provider's credential", "sim-secret-" + name)
        secret.chmod(0o600)
        self.ctl("provider", "set", name, "--dialect", dialect, "--base-url", base_url,
                 "--credential-file", secret, "--allow-private", *arguments)

    def stop(self):
        self.keep_metrics({"tollhoused": self.house.endpoints and self.house.metrics})
        self.house.stop()
        self.sim.stop()
        self.check_secrets()

    def keep_metrics(self, pages):
        """Writes the metrics of {name: URL} to files, to be searched like all that was written."""
        for name, url in pages.items():
            with contextlib.suppress(OSError, TypeError):
                (self.directory / (name + ".metrics")).write_bytes(get(url + "/metrics"))

    def written(self):
        """What the programs wrote."""
        return [self.house.data, *self.directory.glob("*.log"), *self.directory.glob("*.metrics")]

    def check_secrets(self):
        with contextlib.suppress(OSError):
            secret_scan.remember("a key-encryption key", (self.house.data / "kek").read_bytes())
            secret_scan.remember_key((self.house.data / "admin.token").read_text().strip())
        found = secret_scan.findings(*self.written())
        assert not found, "secrets where they may not be:\n" + "\n".join(found)

    @property
    def ctl(self):
        return self.house.tollctl

    @property
    def edge(self):
        return self.house.edge

    def tenant(self, *key_arguments):
        """A new org with one team, user and key."""
        self.names += 1
        return Tenant(self, "org%d" % self.names, key_arguments)


class Tenant:
    """One org > team > user > key, with the questions tests ask about it."""

    def __init__(self, stack, name, key_arguments=()):
        self.stack = stack
        self.org, self.team = name, name + "/payments"
        self.user, self.key = name + "/payments/sarah", name + "/payments/sarah/laptop"
        ctl = stack.ctl
        ctl("org", "create", self.org)
        ctl("team", "create", self.team)
        ctl("user", "create", self.user)
        self.secret = self.create_key("laptop", *key_arguments)
        self.seq = stack.sim.last_seq()

    def create_key(self, name, *arguments, parent=None):
        answer = self.stack.ctl("key", "create", parent or self.user, "--name", name, *arguments)
        return answer["secret"]

    def path(self, level):
        return {"org": self.org, "team": self.team, "user": self.user, "key": self.key}[level]

    def set_budget(self, level, limit_nanos, *arguments, window="total"):
        return self.stack.ctl("budget", "set", self.path(level), "--limit", usd(limit_nanos),
                              "--window", window, *arguments)

    def budget(self, level="org", window="total"):
        """The one budget of that account and window, money as integers."""
        budgets = self.stack.ctl("budget", "show", self.path(level))["budgets"]
        found = [b for b in budgets if b["path"] == self.path(level) and b["window"] == window]
        assert len(found) == 1, budgets
        return integers(found[0])

    def entries(self):
        """Every journal entry below the org, as the ledger lists them."""
        return self.stack.ctl("ledger", "entries", self.org)["entries"]

    def records(self):
        """What the provider metered since this tenant was made (tests run one after another)."""
        return self.stack.sim.records(self.seq)

    def billed(self):
        return sum(int(record["cost_nanousd"]) for record in self.records())

    def spent(self):
        return int(self.stack.ctl("spend", self.org)["total"]["cost_nanousd"])

    def settled(self, timeout=30):
        """Waits until the provider has ended every request, nothing below the org is held, and all
        that the provider saw is in the journal or in suspense."""
        def quiet():
            return (self.stack.sim.totals()["in_flight"] == 0
                    and not self.stack.ctl("holds", "list", self.org).get("holds")
                    and not self.unaccounted())
        wait_until(quiet, timeout, "no request in flight, no hold open, every request accounted for")

    def unaccounted(self):
        """Holds that the provider saw and the ledger does not know."""
        seen = {record["hold_id"] for record in self.records() if record["hold_id"]}
        seen -= {entry["hold_id"] for entry in self.entries()}
        return seen and seen - {row["hold_id"] for row in self.suspense()}

    def suspense(self):
        return self.stack.ctl("suspense", "list", self.org)["rows"]


def integers(row):
    """A row with its *_nanousd fields as int."""
    return {name: int(value) if name.endswith("_nanousd") else value for name, value in row.items()}


def usd(nanos):
    """Decimal USD as the command line takes it."""
    return "%d.%09d" % divmod(nanos, 10**9)
