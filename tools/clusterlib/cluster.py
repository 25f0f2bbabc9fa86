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
import sys
import time
import urllib.error
import urllib.request

from . import gate, process, redis
from .ports import free_ports
from .postgres import Postgres, PostgresError, new_password

ROOT = pathlib.Path(__file__).resolve().parents[2]
BIN = pathlib.Path(os.environ.get("TOLLHOUSE_BIN", ROOT / "build" / "bin"))
READY_S = 60  # a machine may be busy with compilers
STOP_S = 60
SERVICES = ("ledger", "router", "vault", "enforcer", "edge")
DATABASES = ("ledger", "router", "vault")
# Who calls whom.
PEERS = {"ledger": ("postgres", "vault"), "router": ("postgres", "vault"), "vault": ("postgres", "ledger"),
         "enforcer": ("ledger", "vault", "redis"), "edge": ("ledger", "enforcer", "router", "vault")}


class ClusterError(RuntimeError):
    """What went wrong and what to do, for people."""


class Cluster:
    def __init__(self, directory):
        self.directory = pathlib.Path(directory).absolute()
        self.file = self.directory / "cluster.json"
        self.state = {"options": {}, "gates": {}, "processes": {}}
        with contextlib.suppress(OSError, ValueError):
            self.state = json.loads((self.directory / "state.json").read_text())

    # --- as a whole

    def up(self, edges=1, enforcers=1, ledgers=1, routers=1, vaults=1, redis_mode="single",
           postgres_mode="single", gates=False, settings=None, owner=None):
        """Starts everything and returns when all are ready. `settings`: {service: {option: value}}
        besides the usual; `gates`: a gate between every two processes; `owner`: a pid, with whose end
        the cluster ends."""
        for name in SERVICES:
            if not (BIN / ("tollhouse-" + name)).exists():
                raise ClusterError("%s is missing: build first (cmake --preset release && "
                                   "cmake --build --preset release), or set TOLLHOUSE_BIN"
                                   % (BIN / ("tollhouse-" + name)))
        counts = {"ledger": ledgers, "router": routers, "vault": vaults, "enforcer": enforcers,
                  "edge": edges}
        if min(counts.values()) < 1:
            raise ClusterError("there must be at least one of each")
        if postgres_mode == "none" and max(ledgers, routers, vaults) > 1:
            raise ClusterError("several ledgers, routers or vaults need --postgres single or standby")
        if redis_mode == "none" and enforcers > 1:
            raise ClusterError("several enforcers need --redis single, replica or cluster")
        self._take_directory()
        self.state = {"options": {"redis": redis_mode, "postgres": postgres_mode,
                                  "redis_primary": "redis-0", "postgres_primary": "postgres"},
                      "gates": {}, "processes": {}}
        self._save()  # from here on the directory is known as ours
        try:
            self._make_secrets()
            self._allot(counts, gates)
            if owner is not None:
                self._guard(owner)
            self._start_stores()
            for name in self._services():
                self._write_config(name, settings or {})
            for service in DATABASES:
                self._migrate(service + "-0")
            for name in self._services():
                self._spawn(name)
            self._await_ready(self._services())
        except (OSError, PostgresError, redis.RedisError, subprocess.SubprocessError) as error:
            self.down()
            raise ClusterError(str(error)) from error
        except BaseException:
            self.down()
            raise
        return self

    def down(self):
        """Ends every process, edges first, by pid: those that do not end in time are killed."""
        records = self.state["processes"]
        for kind in (*reversed(SERVICES), "redis", "postgres", "gates", "guard"):
            members = [n for n in records if kind_of(n) == kind]
            for name in members:
                self.resume(name)
                if kind == "postgres":
                    self._postgres(name).kill()
                elif kind != "guard" or records[name].get("pid") != os.getpid():
                    process.send(records[name], signal.SIGTERM)
            for name in members:
                if kind != "postgres" and records[name].get("pid") != os.getpid():
                    process.reap(records[name], STOP_S if kind in SERVICES else 5)
                    process.kill(records[name])
        self.file.unlink(missing_ok=True)  # state.json stays: the directory may be used again

    def status(self):
        """[(name, state, ready or why not)]"""
        rows = []
        for name in self.names():
            state = process.state_of(self._record(name))
            rows.append((name, state, self.not_ready(name) or "ready" if state == "running" else ""))
        return rows

    # --- one process

    def kill(self, name):
        """SIGKILL; of a database server with all its processes, as an immediate stop."""
        if kind_of(name) == "postgres":
            self.resume(name)
            self._postgres(name).kill()
        else:
            process.kill(self._record(name))

    def stop(self, name):
        """SIGTERM; returns when it has ended."""
        record = self._record(name)
        if kind_of(name) == "postgres":
            self._postgres(name).stop()
            return
        process.send(record, signal.SIGTERM)
        if not process.reap(record, STOP_S):
            raise ClusterError("%s did not end within %d s of SIGTERM; its log ends:\n%s" % (
                name, STOP_S, process.tail(record)))

    def start(self, name, wait=True, prefix=(), env=None):
        """On the same address. `prefix` and `env`: of this start only, such as faketime's. A Redis
        that is not the primary any more follows the one that is."""
        record = self._record(name)
        if process.state_of(record) != "dead":
            raise ClusterError("%s is running (pid %d)" % (name, record["pid"]))
        if kind_of(name) == "redis":
            self._prepare_redis(name)
        self._spawn(name, prefix, env)
        if wait:
            self._await_ready([name])

    def pause(self, name):
        """SIGSTOP."""
        process.send_all(self._record(name), signal.SIGSTOP)

    def resume(self, name):
        """SIGCONT."""
        process.send_all(self._record(name), signal.SIGCONT)

    def promote(self, name):
        """Makes a primary of a replica (redis-1) or a standby (postgres-standby)."""
        if kind_of(name) == "postgres":
            self._postgres(name).promote()
            self.state["options"]["postgres_primary"] = name
            self._save()
            return
        others = [self._port(n) for n in self.names("redis") if n != name and self.running(n)]
        redis.promote(self._port(name), others)
        self.state["options"]["redis_primary"] = name
        self._save()

    def failover_postgres(self):
        """The primary dies, its standby takes over and gets a new standby in the old one's place."""
        primary = self.primary("postgres")
        standby = next(name for name in self.names("postgres") if name != primary)
        self.resume(standby)
        if not self.running(standby):
            self.start(standby)
        self.kill(primary)
        self.promote(standby)
        shutil.rmtree(self._postgres(primary).data)
        self._postgres(primary).create_standby(self._postgres(standby), port=self._port(primary))
        self._spawn(primary)
        self._postgres(standby).follow_synchronously()

    def primary(self, kind):
        """Of "redis" or "postgres": which process is it now."""
        return self.state["options"][kind + "_primary"]

    def gate(self, name, mode, ms=0):
        """Of the gate "edge-0>ledger-0": open, delay, hold, deaf or cut (tools/clusterlib/gate.py)."""
        if name not in self.state["gates"]:
            raise ClusterError("there is no gate %s; there are: %s" % (
                name, ", ".join(self.state["gates"]) or "none (up --gates makes them)"))
        gate.order(self.directory / "gates.sock", name, mode, ms)

    def running(self, name):
        return process.state_of(self._record(name)) != "dead"

    def names(self, kind=None):
        """Of the processes, in the order of their start."""
        return [name for name in self.state["processes"]
                if kind_of(name) == kind or kind is None and kind_of(name) not in ("gates", "guard")]

    def log(self, name):
        return pathlib.Path(self._record(name)["log"])

    def not_ready(self, name):
        """"" when it is ready, else why not."""
        record = self._record(name)
        if process.state_of(record) == "dead":
            return "not running"
        if kind_of(name) == "redis":
            return "" if redis.ready(self._port(name)) else "it does not answer"
        if "metrics" not in record:
            return ""
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

    @property
    def gates(self):
        return list(self.state["gates"])

    def metrics(self, name):
        """Of a service's page; "" if the process has none."""
        address = self._record(name).get("metrics")
        return "http://" + address if address else ""

    def port(self, name):
        return self._port(name)

    def address(self, name):
        return self._record(name)["address"]

    def _public(self):
        """cluster.json"""
        records = self.state["processes"]
        server = ",".join("%s=https://%s" % (kind_of(name), record["admin"])
                          for name, record in records.items() if "admin" in record)
        return {
            "env": {"TOLLHOUSE_SERVER": server, "TOLLHOUSE_TOKEN_FILE": str(self.token_file),
                    "TOLLHOUSE_SERVER_CA": str(self.certificates / "ca.pem")},
            "edges": ["http://" + records[name]["address"] for name in self.names("edge")],
            "processes": {
                name: {key: records[name][key]
                       for key in ("pid", "address", "admin", "metrics", "log") if key in records[name]}
                for name in self.names()},
            "gates": list(self.state["gates"]),
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

    def _allot(self, counts, gates):
        """Names and ports of everything: processes name each other."""
        records, options = self.state["processes"], self.state["options"]
        ports = iter(free_ports(3 * sum(counts.values()) + 8))

        def add(name, *fields, **more):
            records[name] = {"log": str(self.directory / "log" / (name + ".log")), **more,
                             **{field: "127.0.0.1:%d" % next(ports) for field in fields}}

        if options["postgres"] != "none":
            add("postgres", "address")
        if options["postgres"] == "standby":
            add("postgres-standby", "address")
        for name in self.names("postgres"):
            records[name]["log"] = self._postgres(name).log
        for number in range({"none": 0, "single": 1, "replica": 2, "cluster": 3}[options["redis"]]):
            name = "redis-%d" % number
            add(name, "address")
            records[name]["argv"] = redis.argv(self.directory / "data" / name, self._port(name))
        for service in SERVICES:
            for number in range(counts[service]):
                name = "%s-%d" % (service, number)
                add(name, "address", "metrics", *(() if service == "edge" else ("admin",)))
                records[name]["argv"] = [str(BIN / ("tollhouse-" + service)), "--config",
                                         str(self.directory / "config" / (name + ".yaml"))]
        if gates:
            self._allot_gates()

    def _allot_gates(self):
        pairs = [(name, peer) for name in self._services() for kind in PEERS[kind_of(name)]
                 for peer in self.names(kind)]
        ports = free_ports(len(pairs))
        self.state["gates"] = {"%s>%s" % pair: {"listen": port, "to": self._port(pair[1])}
                               for pair, port in zip(pairs, ports)}
        config = self.directory / "config" / "gates.json"
        config.write_text(json.dumps(self.state["gates"], indent=1))
        self.state["processes"]["gates"] = record = {
            "argv": [sys.executable, "-B", str(pathlib.Path(gate.__file__)), str(config),
                     str(self.directory / "gates.sock")],
            "log": str(self.directory / "log" / "gates.log")}
        process.spawn(record)
        if not process.wait_for((self.directory / "gates.sock").exists, READY_S):
            raise ClusterError("the gates did not start:\n" + process.tail(record))

    def _start_stores(self):
        options = self.state["options"]
        if options["postgres"] != "none":
            primary = self._postgres("postgres")
            primary.create(password=new_password(), port=self._port("postgres"))
            self._spawn("postgres")
            for database in DATABASES:
                primary.create_database(database)
        if options["postgres"] == "standby":
            standby = self._postgres("postgres-standby")
            standby.create_standby(primary, port=self._port("postgres-standby"))
            self._spawn("postgres-standby")
            primary.follow_synchronously()
        names = self.names("redis")
        for name in names:
            self._prepare_redis(name)
            self._spawn(name)
        self._await_ready(names)
        if options["redis"] == "cluster":
            redis.make_cluster([self._port(name) for name in names])

    def _prepare_redis(self, name):
        options = self.state["options"]
        following = options["redis"] == "replica" and name != options["redis_primary"]
        redis.prepare(self.directory / "data" / name, self._port(name),
                      mode="cluster" if options["redis"] == "cluster" else "single",
                      replica_of=self._port(options["redis_primary"]) if following else None)

    def _write_config(self, name, settings):
        values = {**self._settings(name), **settings.get(kind_of(name), {})}
        (self.directory / "config" / (name + ".yaml")).write_text(
            "".join("%s: %s\n" % (key, json.dumps(value)) for key, value in values.items()))

    def _settings(self, name):
        service, record, data = kind_of(name), self._record(name), self.directory / "data"
        options = self.state["options"]
        settings = {
            "listen": record["address"], "metrics_listen": record["metrics"],
            "tls_cert": str(self.certificates / (service + ".pem")),
            "tls_key": str(self.certificates / (service + ".key")),
            "tls_ca": str(self.certificates / "ca.pem"),
        }
        if service != "edge":
            settings["admin_listen"] = record["admin"]
            settings["admin_token_file"] = str(self.token_file)
        if service in DATABASES and options["postgres"] == "none":
            settings["database"] = "sqlite:%s" % (data / (service + ".db"))
        elif service in DATABASES:
            settings["database"] = self._database_uri(name)
            settings["database_password_file"] = str(data / "postgres" / "password")
        if service == "vault":
            settings["key_encryption_key_file"] = str(self.directory / "kek")
        if service == "enforcer":
            settings["enforcer_id"] = name
            if options["redis"] != "none":
                settings["redis"] = redis.uri([self._port_for(name, n) for n in self.names("redis")],
                                              options["redis"])
        if service == "edge":
            settings["data_dir"] = str(data / name)
        for peer in PEERS[service]:
            if peer in SERVICES:
                settings[peer] = ",".join("127.0.0.1:%d" % self._port_for(name, n) for n in self.names(peer))
        return settings

    def _database_uri(self, name):
        stores = [self._postgres(n) for n in self.names("postgres")]
        uri = stores[0].uri(kind_of(name), *stores[1:])
        for store in self.names("postgres"):
            uri = uri.replace(":%d" % self._port(store), ":%d" % self._port_for(name, store))
        return uri

    def _port_for(self, caller, peer):
        """Where the caller reaches its peer: directly or through their gate."""
        way = self.state["gates"].get("%s>%s" % (caller, peer))
        return way["listen"] if way else self._port(peer)

    def _migrate(self, name):
        argv = self._record(name)["argv"]
        done = subprocess.run([argv[0], "migrate", *argv[1:]], text=True, capture_output=True,
                              check=False, timeout=READY_S)
        if done.returncode != 0:
            raise ClusterError("%s migrate failed: %s" % (
                pathlib.Path(argv[0]).name, done.stderr.strip() or "exit %d" % done.returncode))

    def _guard(self, owner):
        """A process that ends the cluster once the owner is gone."""
        self.state["processes"]["guard"] = record = {
            "argv": [sys.executable, "-B", str(ROOT / "tools" / "cluster"), "guard", "--dir",
                     str(self.directory), "--owner", str(owner)],
            "log": str(self.directory / "log" / "guard.log")}
        process.spawn(record)
        self._save()

    def guard(self, owner):
        """Of the guard process itself."""
        while pathlib.Path("/proc/%d" % owner).exists():
            if not self.file.exists():
                return
            time.sleep(0.5)
        with self.locked():
            self.down()

    def _spawn(self, name, prefix=(), env=None):
        record = self._record(name)
        if kind_of(name) == "postgres":
            process.adopt(record, self._postgres(name).start())
        else:
            process.spawn(record, prefix, env)
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

    def _services(self):
        return [name for name in self.names() if kind_of(name) in SERVICES]

    def _postgres(self, name):
        return Postgres(self.directory / "data" / name)

    def _port(self, name):
        return int(self.address(name).rsplit(":", 1)[1])

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
        lock = self.directory.parent / (".%s.lock" % self.directory.name)
        lock.parent.mkdir(parents=True, exist_ok=True)
        with open(lock, "w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            self.__init__(self.directory)
            yield self


def kind_of(name):
    """"ledger" of "ledger-1", "postgres" of "postgres-standby"."""
    return name.split("-")[0]
