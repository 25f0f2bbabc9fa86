"""PostgreSQL 15 of Debian's packages in a directory of the caller's.

    server = Postgres(directory)
    server.create(password="...")     # or without one: whoever reaches the port is let in
    server.start()
    server.create_database("ledger")
    server.uri("ledger")              # postgresql://tollhouse@127.0.0.1:PORT/ledger

What it is rests in the directory alone: another process makes Postgres(directory) and goes on.
initdb runs once per machine and user, into the temporary directory; libs/testing/postgres_server.cc
uses the same copy. As root, the servers run as Debian's user `postgres`.
"""

import fcntl
import os
import pwd
import secrets
import shutil
import signal
import socket
import stat
import subprocess
import tempfile
import time
from urllib.parse import quote

BINARIES = "/usr/lib/postgresql/15/bin"
USER = "tollhouse"
PATIENCE_S = 60  # a machine may be busy with compilers
SETTINGS = {
    "listen_addresses": "127.0.0.1",
    "unix_socket_directories": "",
    "max_connections": "200",
    "shared_buffers": "128MB",
    "timezone": "UTC",
    "log_timezone": "UTC",
    "jit": "off",
    "wal_keep_size": "256MB",
    "wal_retrieve_retry_interval": "100ms",
}


class PostgresError(RuntimeError):
    """What failed, with the end of the server's log."""


def _account():
    """(uid, gid) of the servers, or None: as the caller."""
    if os.geteuid() != 0:
        return None
    entry = pwd.getpwnam("postgres")
    return entry.pw_uid, entry.pw_gid


def _as_server():
    account = _account()
    if account is None:
        return {}
    return {"user": account[0], "group": account[1], "extra_groups": []}


def _own(path):
    account = _account()
    if account is not None:
        os.chown(path, *account)


def _let_through(path):
    """The servers' user must get as far as `path`."""
    if _account() is None:
        return
    top = os.path.realpath(tempfile.gettempdir())
    parent = os.path.dirname(os.path.realpath(path))
    while parent != "/":
        mode = os.stat(parent).st_mode
        if not mode & stat.S_IXOTH:
            if not parent.startswith(top + "/"):
                raise PostgresError(f"{parent} cannot be entered by user `postgres`: chmod o+x it")
            os.chmod(parent, stat.S_IMODE(mode) | stat.S_IXOTH)
        parent = os.path.dirname(parent)


def _run(command, **more):
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                          cwd="/", **_as_server(), **more)
    if done.returncode != 0:
        raise PostgresError(f"{os.path.basename(command[0])}: {done.stdout.strip()[-2000:]}")
    return done.stdout


def _initialized_data():
    """A data directory fresh from initdb, to be copied."""
    account = _account()
    uid = os.geteuid() if account is None else account[0]
    base = os.path.join(tempfile.gettempdir(), f"tollhouse-postgres15-{uid}")
    os.makedirs(base, mode=0o700, exist_ok=True)
    _own(base)
    if os.lstat(base).st_uid != uid or not stat.S_ISDIR(os.lstat(base).st_mode):
        raise PostgresError(f"{base} belongs to somebody else")
    data = os.path.join(base, "data")
    with open(os.path.join(base, "lock"), "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not os.path.exists(data):
            fresh = data + ".new"
            shutil.rmtree(fresh, ignore_errors=True)
            _run([f"{BINARIES}/initdb", "--pgdata", fresh, "--username", USER, "--auth", "trust",
                  "--encoding", "UTF8", "--locale", "C.UTF-8", "--no-sync", "--no-instructions"])
            os.rename(fresh, data)
    return data


def free_port():
    """A port of 127.0.0.1 that nobody listens on at this moment."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


class Postgres:
    """One server. `directory` gets `data`, `server.log`, `port` and `password`."""

    def __init__(self, directory):
        self.directory = os.path.abspath(directory)
        self.data = os.path.join(self.directory, "data")
        self.log = os.path.join(self.directory, "server.log")
        self.password_file = os.path.join(self.directory, "password")

    # --- before the first start

    def create(self, password=None, fsync=False, settings=None, port=None):
        """The directory and a cluster in it, of the superuser `tollhouse`. Without fsync it survives
        kill() but no crash of the machine; with it, the start after a kill takes seconds."""
        os.makedirs(self.directory, mode=0o711, exist_ok=True)
        _let_through(self.data)
        _own(self.directory)
        _run(["/bin/cp", "-r", _initialized_data(), self.data])
        self._write("port", str(port or free_port()))
        self._configure({**SETTINGS, "fsync": "on" if fsync else "off", **(settings or {})})
        if password is not None:
            self._set_password(password)

    def create_standby(self, primary, name="standby", port=None):
        """A standby of the running `primary`, with its password. See follow_synchronously()."""
        os.makedirs(self.directory, mode=0o711, exist_ok=True)
        _let_through(self.data)
        _own(self.directory)
        _run([f"{BINARIES}/pg_basebackup", "--pgdata", self.data, "--checkpoint", "fast",
              "--no-sync", "--dbname", f"{primary.uri('postgres')}?application_name={name}"],
             env=primary.environment())
        self._write("port", str(port or free_port()))
        conninfo = f"host=127.0.0.1 port={primary.port} user={USER} application_name={name}"
        password = primary.password()
        if password is not None:
            self._write("password", password)
            conninfo += f" password={password}"
        with open(os.path.join(self.data, "postgresql.auto.conf"), "a") as auto:
            auto.write("\n# of this standby\nsynchronous_standby_names = ''\n")
            auto.write(f"primary_conninfo = '{conninfo}'\n")
        open(os.path.join(self.data, "standby.signal"), "w").close()

    def _configure(self, settings):
        with open(os.path.join(self.data, "postgresql.conf"), "a") as conf:
            conf.write("\n# of this cluster\n")
            for name, value in settings.items():
                conf.write(f"{name} = '{value}'\n")

    def _set_password(self, password):
        if not password.isalnum():
            raise PostgresError("a password is letters and digits here")
        self._write("password", password)
        subprocess.run([f"{BINARIES}/postgres", "--single", "-D", self.data, "postgres"],
                       input=f"ALTER ROLE {USER} PASSWORD '{password}'\n", text=True, check=True,
                       stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd="/",
                       **_as_server())
        with open(os.path.join(self.data, "pg_hba.conf"), "w") as hba:
            hba.write("host all all 127.0.0.1/32 scram-sha-256\n"
                      "host replication all 127.0.0.1/32 scram-sha-256\n")

    def _write(self, name, text):
        path = os.path.join(self.directory, name)
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
            file.write(text)

    # --- life

    def start(self):
        """Returns the pid once it accepts connections (or follows its primary)."""
        if self.pid() is not None:
            raise PostgresError("it is running")
        with open(self.log, "a") as log:
            process = subprocess.Popen(
                [f"{BINARIES}/postgres", "-D", self.data, "-p", str(self.port)],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd="/", start_new_session=True,
                **_as_server())
        deadline = time.monotonic() + PATIENCE_S
        while time.monotonic() < deadline:
            if process.poll() is not None:
                break
            if self._status().startswith(("ready", "standby")) and self.pid() == process.pid:
                process.returncode = 0  # from now on it is found by its pid file alone
                return process.pid
            time.sleep(0.01)  # lint: allow(sleep-in-test) polls another process
        self.kill()
        raise PostgresError(f"postgres does not start: {self._log_end()}")

    def stop(self):
        """Ends connections, writes a checkpoint, ends. Nothing if it does not run."""
        self._signal(signal.SIGINT)

    def kill(self):
        """Ends every process at once; the next start recovers from the WAL."""
        self._signal(signal.SIGQUIT)

    def promote(self):
        """Makes a primary of a standby, on the next timeline."""
        self.execute("SELECT pg_promote(true, 60)")
        if self.execute("SELECT pg_is_in_recovery()") != "f":
            raise PostgresError(f"it was not promoted: {self._log_end()}")

    def follow_synchronously(self, name="standby"):
        """From now on a commit waits for the standby `name`; returns when that is in force.
        "": for none."""
        self.execute(f"ALTER SYSTEM SET synchronous_standby_names = '{name}'")
        self.execute("SELECT pg_reload_conf()")
        deadline = time.monotonic() + PATIENCE_S
        query = ("SELECT count(*) FROM pg_stat_replication "
                 "WHERE state = 'streaming' AND sync_state = 'sync'")
        while name and self.execute(query) == "0":
            if time.monotonic() > deadline:
                raise PostgresError(f"the standby does not follow: {self._log_end()}")
            time.sleep(0.02)  # lint: allow(sleep-in-test) polls another process

    def pid(self):
        """Of the running server, else None."""
        lines = self._pid_file()
        if not lines:
            return None
        pid = int(lines[0])
        try:
            with open(f"/proc/{pid}/cmdline", "rb") as command:
                running = self.data.encode() in command.read().split(b"\0")
            with open(f"/proc/{pid}/stat") as state:
                running = running and state.read().rsplit(")", 1)[1].split()[0] != "Z"
        except OSError:
            return None
        return pid if running else None

    def _signal(self, number):
        pid = self.pid()
        if pid is None:
            return
        os.kill(pid, number)
        deadline = time.monotonic() + PATIENCE_S
        while self.pid() == pid:
            try:
                os.waitpid(pid, os.WNOHANG)  # where it is a child of this process
            except ChildProcessError:
                pass
            if time.monotonic() > deadline:
                raise PostgresError(f"postgres {pid} does not end: {self._log_end()}")
            time.sleep(0.01)  # lint: allow(sleep-in-test) polls another process

    def _pid_file(self):
        try:
            with open(os.path.join(self.data, "postmaster.pid")) as file:
                return file.read().split("\n")
        except OSError:
            return []

    def _status(self):
        lines = self._pid_file()
        return lines[7] if len(lines) > 7 else ""

    def _log_end(self):
        try:
            with open(self.log) as file:
                return file.read()[-2000:]
        except OSError:
            return ""

    # --- use

    @property
    def port(self):
        with open(os.path.join(self.directory, "port")) as file:
            return int(file.read())

    def password(self):
        try:
            with open(self.password_file) as file:
                return file.read()
        except OSError:
            return None

    def environment(self):
        """For psql and other programs of Postgres' own."""
        password = self.password()
        return {**os.environ, "PGPASSWORD": password} if password else dict(os.environ)

    def uri(self, database, *standbys):
        """Without password. With standbys: every address, and whichever of them accepts writes."""
        ports = [self.port] + [standby.port for standby in standbys]
        addresses = ",".join(f"127.0.0.1:{port}" for port in ports)
        wanted = "?target_session_attrs=read-write" if standbys else ""
        return f"postgresql://{USER}@{addresses}/{quote(database)}{wanted}"

    def execute(self, sql, database="postgres"):
        """The rows as text: columns separated by `|`, rows by newlines."""
        return _run([f"{BINARIES}/psql", "--no-psqlrc", "--quiet", "--tuples-only", "--no-align",
                     "--set", "ON_ERROR_STOP=1", "--command", sql, self.uri(database)],
                    env=self.environment()).strip()

    def create_database(self, name):
        self.execute(f'CREATE DATABASE "{name}"')


def new_password():
    return secrets.token_hex(16)
