"""Tollhouse as separate processes on this machine: what tools/cluster and tests/cluster use.

    cluster = Cluster(directory)
    cluster.up(edges=2, enforcers=2, ledgers=2)
    cluster.kill("ledger-1"); cluster.start("ledger-1")
    cluster.down()

Everything rests in the directory: configuration, logs, data, certificates, and cluster.json. Another
process makes Cluster(directory) and goes on.
"""

import contextlib
import fcntl
import json
import os
import pathlib
import secrets
import shutil
import signal
import subprocess
import time
import urllib.error
import urllib.request

from . import process
from .ports import free_ports

ROOT = pathlib.Path(__file__).resolve().parents[2]
BIN = pathlib.Path(os.environ.get("TOLLHOUSE_BIN", ROOT / "build" / "bin"))
READY_S = 60  # a machine may be busy with compilers
STOP_S = 60
SERVICES = ("ledger", "router", "vault", "enforcer", "edge")


class ClusterError(RuntimeError):
    """What went wrong and what to do, for people."""


class Cluster:
    def __init__(self, directory):
        self.directory = pathlib.Path(directory).absolute()
        self.file = self.directory / "cluster.json"
        self.state = {"options": {}, "processes": {}}
        with contextlib.suppress(OSError, ValueError):
            self.state = json.loads((self.directory / "state.json").read_text())

    # --- as a whole

    def up(self, edges=1, enforcers=1, ledgers=1, owner=None, edge_options=None):
        """Starts everything and returns when all are ready. `owner`: a pid; the cluster ends when that
        process does."""
        for name in SERVICES:
            if not (BIN / ("tollhouse-" + name)).exists():
                raise ClusterError("%s is missing: build first (cmake --preset release && "
                                   "cmake --build --preset release), or set TOLLHOUSE_BIN"
                                   % (BIN / ("tollhouse-" + name)))
        self._take_directory()
        counts = {"ledger": ledgers, "router": 1, "vault": 1, "enforcer": enforcers, "edge": edges}
        self.state = {"options": {"counts": counts}, "processes": {}}
        self._save()  # from here on the directory is known as ours
        try:
            self._make_secrets()
            self._configure(counts, edge_options or {})
            for service in ("ledger", "router", "vault"):
                self._migrate(service)
            if owner is not None:
                self._guard(owner)
            names = [name for name, record in self.state["processes"].items() if "service" in record]
            for name in names:
                self._spawn(name)
            self._await_ready(names)
        except BaseException:
            self.down()
            raise
        return self

    def down(self):
        """Ends every process, edges first, by pid: those that do not end in time are killed."""
        records = self.state["processes"]
        for service in ("guard", *reversed(SERVICES)):
            members = [r for n, r in records.items() if n.rsplit("-", 1)[0] == service]
            for record in members:
                process.send(record, signal.SIGCONT)
                process.send(record, signal.SIGTERM)
            for record in members:
                if not process.reap(record, STOP_S if service != "guard" else 0):
                    process.kill(record)
        for record in records.values():
            process.kill(record)
        self.file.unlink(missing_ok=True)  # state.json stays: the directory may be used again

    def status(self):
        """[(name, state, ready or why not)]"""
        rows = []
        for name, record in self.state["processes"].items():
            state = process.state_of(record)
            rows.append((name, state, self.not_ready(name) or "ready" if state == "running" else ""))
        return rows

    # --- one process

    def kill(self, name):
        """SIGKILL."""
        process.kill(self._record(name))

    def stop(self, name):
        """SIGTERM; returns when it has ended."""
        record = self._record(name)
        process.send(record, signal.SIGTERM)
        if not process.reap(record, STOP_S):
            raise ClusterError("%s did not end within %d s of SIGTERM; its log ends:\n%s" % (
                name, STOP_S, process.tail(record)))

    def start(self, name, wait=True, prefix=(), env=None):
        """On the same address. `prefix` and `env`: of this start only, such as faketime's."""
        if process.state_of(self._record(name)) != "dead":
            raise ClusterError("%s is running (pid %d)" % (name, self._record(name)["pid"]))
        self._spawn(name, prefix, env)
        if wait:
            self._await_ready([name])

    def pause(self, name):
        """SIGSTOP."""
        process.send(self._record(name), signal.SIGSTOP)

    def resume(self, name):
        """SIGCONT."""
        process.send(self._record(name), signal.SIGCONT)

    def running(self, name):
        return process.state_of(self._record(name)) != "dead"

    def names(self, service=None):
        return [name for name in self.state["processes"]
                if name != "guard" and service in (None, name.rsplit("-", 1)[0])]

    def log(self, name):
        return pathlib.Path(self._record(name)["log"])

    def not_ready(self, name):
        """"" when it is ready, else why not."""
        record = self._record(name)
        if process.state_of(record) == "dead":
            return "not running"
        try:
            with urllib.request.urlopen("http://%s/readyz" % record["metrics"], timeout=2):
                return ""
        except urllib.error.HTTPError as error:
            return error.read().decode(errors="replace").strip()
        except OSError as error:
            return str(error)

    # --- what callers need to know

    @property
    def env(self):
        """Of tollctl."""
        return self._public()["env"]

    @property
    def edges(self):
        return self._public()["edges"]

    @property
    def token_file(self):
        return self.directory / "admin.token"

    @property
    def certificates(self):
        return self.directory / "certs"

    def address(self, name):
        return self._record(name)["address"]

    def _public(self):
        """cluster.json"""
        records = self.state["processes"]
        server = ",".join("%s=https://%s" % (record["service"], record["admin"])
                          for record in records.values() if "admin" in record)
        return {
            "env": {"TOLLHOUSE_SERVER": server, "TOLLHOUSE_TOKEN_FILE": str(self.token_file),
                    "TOLLHOUSE_SERVER_CA": str(self.certificates / "ca.pem")},
            "edges": ["http://" + records[name]["address"] for name in self.names("edge")],
            "processes": {
                name: {key: record[key] for key in ("pid", "address", "admin", "metrics", "log")
                       if key in record}
                for name, record in records.items() if name != "guard"},
        }

    # --- how it is made

    def _take_directory(self):
        if any(process.state_of(record) != "dead" for record in self.state["processes"].values()):
            raise ClusterError("a cluster runs in %s: tools/cluster down --dir %s" % (
                self.directory, self.directory))
        if self.directory.exists() and any(self.directory.iterdir()):
            if not (self.directory / "state.json").exists():
                raise ClusterError("%s is not empty and was not made by tools/cluster; "
                                   "choose another --dir" % self.directory)
            shutil.rmtree(self.directory)  # of a cluster that is no more
        self.directory.mkdir(parents=True, exist_ok=True)
        self.directory.chmod(0o711)  # PostgreSQL runs as another user
        for name in ("config", "data", "log"):
            (self.directory / name).mkdir(mode=0o711)

    def _write_private(self, path, data):
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
            file.write(data)

    def _make_secrets(self):
        self._write_private(self.token_file, ("toll-admin-%s\n" % secrets.token_hex(32)).encode())
        self._write_private(self.directory / "kek", secrets.token_bytes(32))
        done = subprocess.run([str(ROOT / "tools" / "certs"), str(self.certificates)], text=True,
                              capture_output=True, check=False)
        if done.returncode != 0:
            raise ClusterError("tools/certs failed: " + done.stderr)

    def _configure(self, counts, edge_options):
        """One YAML file per process; addresses first, as they name each other."""
        ports = iter(free_ports(3 * sum(counts.values())))
        records = self.state["processes"]
        for service in SERVICES:
            for number in range(counts[service]):
                record = {"service": service}
                for port in ("address", "metrics") if service == "edge" else ("address", "admin", "metrics"):
                    record[port] = "127.0.0.1:%d" % next(ports)
                records["%s-%d" % (service, number)] = record
        for name, record in records.items():
            settings = self._settings(name, record)
            if record["service"] == "edge":
                settings.update(edge_options)
            file = self.directory / "config" / (name + ".yaml")
            file.write_text("".join("%s: %s\n" % (key, json.dumps(value))
                                    for key, value in settings.items()))
            record["argv"] = [str(BIN / ("tollhouse-" + record["service"])), "--config", str(file)]
            record["log"] = str(self.directory / "log" / (name + ".log"))

    def _settings(self, name, record):
        service, data = record["service"], self.directory / "data"
        certificates = self.certificates
        settings = {
            "listen": record["address"], "metrics_listen": record["metrics"],
            "tls_cert": str(certificates / (service + ".pem")),
            "tls_key": str(certificates / (service + ".key")), "tls_ca": str(certificates / "ca.pem"),
        }
        if service != "edge":
            settings["admin_listen"] = record["admin"]
            settings["admin_token_file"] = str(self.token_file)
        if service in ("ledger", "router", "vault"):
            settings["database"] = "sqlite:%s" % (data / (service + ".db"))
        if service == "vault":
            settings["key_encryption_key_file"] = str(self.directory / "kek")
        if service == "enforcer":
            settings["enforcer_id"] = name
        if service == "edge":
            settings["data_dir"] = str(data / name)
        for peer in {"vault": ["ledger"], "enforcer": ["ledger"],
                     "edge": ["ledger", "enforcer", "router", "vault"]}.get(service, []):
            settings[peer] = ",".join(self.address(n) for n in self.names(peer))
        return settings

    def _migrate(self, service):
        argv = self._record(service + "-0")["argv"]
        done = subprocess.run([argv[0], "migrate", *argv[1:]], text=True, capture_output=True,
                              check=False, timeout=READY_S)
        if done.returncode != 0:
            raise ClusterError("tollhouse-%s migrate failed: %s" % (service, done.stderr.strip()))

    def _guard(self, owner):
        """A process that ends the cluster once the owner is gone."""
        record = {"argv": [str(ROOT / "tools" / "cluster"), "guard", "--dir", str(self.directory),
                           "--owner", str(owner)],
                  "log": str(self.directory / "log" / "guard.log")}
        self.state["processes"]["guard"] = record
        self._save()
        process.spawn(record)
        self._save()

    def guard(self, owner):
        """Of the guard process itself."""
        while pathlib.Path("/proc/%d" % owner).exists():
            if not self.file.exists():
                return
            time.sleep(0.5)
        self.__init__(self.directory)
        self.state["processes"].pop("guard", None)
        self.down()

    def _spawn(self, name, prefix=(), env=None):
        process.spawn(self._record(name), prefix, env)
        self._save()

    def _await_ready(self, names):
        deadline = time.monotonic() + READY_S
        for name in names:
            record = self._record(name)
            why = "?"

            def settled(name=name, record=record):
                nonlocal why
                why = self.not_ready(name)
                return not why or process.state_of(record) == "dead"
            process.wait_for(settled, max(0.1, deadline - time.monotonic()))
            if why:
                what = "ended" if process.state_of(record) == "dead" else "is not ready (%s)" % why
                raise ClusterError("%s %s; its log (%s) ends:\n%s" % (
                    name, what, record["log"], process.tail(record)))

    def _record(self, name):
        record = self.state["processes"].get(name)
        if record is None:
            raise ClusterError("there is no process %s in %s; there are: %s" % (
                name, self.directory, ", ".join(self.names()) or "none (is it up?)"))
        return record

    def _save(self):
        for path, content in ((self.directory / "state.json", self.state), (self.file, self._public())):
            new = path.with_suffix(".new")
            self._write_private(new, json.dumps(content, indent=1).encode())
            new.rename(path)

    @contextlib.contextmanager
    def locked(self):
        """One command at a time changes a cluster."""
        self.directory.mkdir(parents=True, exist_ok=True)
        lock = self.directory.parent / (".%s.lock" % self.directory.name)
        with open(lock, "w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            try:
                self.__init__(self.directory)
                yield self
            finally:
                lock.unlink(missing_ok=True)
