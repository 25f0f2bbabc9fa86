"""Redis 7 of Debian's packages in directories of the caller's.

    redis.prepare(directory, port)                       # once; mode="cluster" for a Cluster's node
    subprocess.Popen(redis.argv(directory, port))        # the caller starts, kills and restarts it
    redis.await_ready(port)
    redis.uri([port])                                    # redis://127.0.0.1:PORT

Append-only file written every second, nothing evicted, no password, loopback only. The functions
that speak to a server raise RedisError when it refuses and OSError when it is not there.
"""

import os
import socket
import time

from .postgres import free_port

PATIENCE_S = 60  # a machine may be busy with compilers
SLOTS = 16384


class RedisError(RuntimeError):
    """What Redis answered."""


# --- before the start

def prepare(directory, port, mode="single", replica_of=None, settings=None):
    """Writes redis.conf. Safe twice: the second time changes nothing but `replicaof`, so that a
    server which was made a primary or a replica meanwhile comes back as the caller wants it."""
    os.makedirs(directory, mode=0o700, exist_ok=True)
    path = os.path.join(directory, "redis.conf")
    lines = []
    if os.path.exists(path):
        with open(path) as file:
            lines = [line for line in file.read().splitlines() if not line.startswith("replicaof ")]
    else:
        lines = ["bind 127.0.0.1", f"dir {os.path.abspath(directory)}", "logfile redis.log",
                 "appendonly yes", "appendfsync everysec", 'save ""', "maxmemory-policy noeviction",
                 "repl-diskless-sync-delay 0", "repl-backlog-ttl 0", "enable-debug-command local"]
        if mode == "cluster":
            lines += ["cluster-enabled yes", "cluster-config-file nodes.conf",
                      "cluster-node-timeout 2000", f"cluster-port {free_port()}"]
        lines += [f"{name} {value}" for name, value in (settings or {}).items()]
    if replica_of is not None:
        lines.append(f"replicaof 127.0.0.1 {replica_of}")
    _write(path, lines)


def argv(directory, port):
    """A foreground server; SIGTERM ends it with everything written, SIGKILL loses up to a second."""
    return ["redis-server", os.path.join(os.path.abspath(directory), "redis.conf"),
            "--port", str(port)]


def prepare_sentinel(directory, port, primary_port, quorum=1, name="main"):
    """Writes sentinel.conf, which the sentinel itself goes on writing."""
    os.makedirs(directory, mode=0o700, exist_ok=True)
    path = os.path.join(directory, "sentinel.conf")
    if not os.path.exists(path):
        _write(path, ["bind 127.0.0.1", f"port {port}", f"dir {os.path.abspath(directory)}",
                      "logfile sentinel.log",
                      f"sentinel monitor {name} 127.0.0.1 {primary_port} {quorum}",
                      f"sentinel down-after-milliseconds {name} 500",
                      f"sentinel failover-timeout {name} 3000"])


def sentinel_argv(directory):
    return ["redis-sentinel", os.path.join(os.path.abspath(directory), "sentinel.conf")]


def uri(ports, mode="single", name="main"):
    """What the enforcer's `redis` wants: "single" and "replica" name every address, "sentinel" and
    "cluster" likewise."""
    addresses = ",".join(f"127.0.0.1:{port}" for port in ports)
    if mode == "sentinel":
        return f"redis+sentinel://{addresses}/{name}"
    return f"redis+cluster://{addresses}" if mode == "cluster" else f"redis://{addresses}"


# --- running servers

def command(port, *words):
    """Runs one command: str, int, None or a list of them."""
    with socket.create_connection(("127.0.0.1", port), timeout=PATIENCE_S) as connection:
        parts = [str(word).encode() for word in words]
        connection.sendall(b"*%d\r\n" % len(parts) +
                           b"".join(b"$%d\r\n%s\r\n" % (len(part), part) for part in parts))
        with connection.makefile("rb") as stream:
            return _read(stream)


def ready(port):
    """Whether it answers, has its data loaded and, as a replica, its primary's."""
    try:
        if command(port, "PING") != "PONG":
            return False
        replication = command(port, "INFO", "replication")
    except (OSError, RedisError):
        return False
    return "role:master" in replication or "master_link_status:up" in replication


def await_ready(port):
    _await(lambda: ready(port), f"redis on port {port} is not ready")


def flushall(port):
    command(port, "FLUSHALL")


def follow(port, primary_port):
    """Makes it a replica; returns when it has the primary's data."""
    command(port, "REPLICAOF", "127.0.0.1", primary_port)
    await_ready(port)


def cut_replication(port):
    """A replica that receives no more: what its primary acknowledges from now on is lost by
    promote()."""
    command(port, "REPLICAOF", "127.0.0.1", 1)


def promote(port, others=()):
    """Makes a primary of a replica; the `others` that run follow it."""
    command(port, "REPLICAOF", "NO", "ONE")
    for other in others:
        try:
            command(other, "REPLICAOF", "127.0.0.1", port)
        except OSError:
            pass


def make_cluster(ports):
    """Joins running servers of mode "cluster" and shares the slots out. Takes two seconds: Redis
    does. Nothing where they are a Cluster already."""
    if not _is_cluster(ports):
        for index, port in enumerate(ports):
            command(port, "CLUSTER", "SET-CONFIG-EPOCH", index + 1)
            command(port, "CLUSTER", "ADDSLOTSRANGE", SLOTS * index // len(ports),
                    SLOTS * (index + 1) // len(ports) - 1)
            if index > 0:
                bus = command(port, "CONFIG", "GET", "cluster-port")[1]
                command(ports[0], "CLUSTER", "MEET", "127.0.0.1", port, bus)
    _await(lambda: _is_cluster(ports), "the Redis Cluster does not come together")


def move_slot(slot, source, target, ports):
    """Moves a slot with its keys from one port to another; returns when every node knows (a slot
    that moves on before may end with no owner)."""
    begin_move(slot, source, target)
    end_move(slot, source, target, ports)


def slot_of(key, port):
    return command(port, "CLUSTER", "KEYSLOT", key)


def owner(slot, ports):
    """The port of the node that serves a slot."""
    ids = {command(port, "CLUSTER", "MYID"): port for port in ports}
    return ids[_owner(slot, ports[0])[0]]


def begin_move(slot, source, target):
    """From now on keys may be on either side, and new ones are made on the other."""
    command(target, "CLUSTER", "SETSLOT", slot, "IMPORTING", command(source, "CLUSTER", "MYID"))
    command(source, "CLUSTER", "SETSLOT", slot, "MIGRATING", command(target, "CLUSTER", "MYID"))


def end_move(slot, source, target, ports):
    """Moves the keys, then the slot itself. Safe to repeat, also after one of them has died."""
    ids = {port: command(port, "CLUSTER", "MYID") for port in ports}
    while keys := command(source, "CLUSTER", "GETKEYSINSLOT", slot, 100):
        command(source, "MIGRATE", "127.0.0.1", target, "", 0, 5000, "REPLACE", "KEYS", *keys)
    for port in [target, source] + [p for p in ports if p not in (source, target)]:
        command(port, "CLUSTER", "SETSLOT", slot, "NODE", ids[target])
    _await(lambda: len({_owner(slot, port) for port in ports}) == 1,
           "the nodes do not agree on the slot's owner")


def _owner(slot, port):
    """(id, epoch) of the node that serves a slot, as the one on `port` sees it."""
    for line in command(port, "CLUSTER", "NODES").splitlines():
        words = line.split()  # ID ADDRESS FLAGS PRIMARY PING PONG EPOCH LINK RANGE...
        for first, _, last in (word.partition("-") for word in words[8:] if word[0] != "["):
            if int(first) <= slot <= int(last or first):
                return words[0], words[6]
    return None


def _is_cluster(ports):
    for port in ports:
        info = command(port, "CLUSTER", "INFO")
        if "cluster_state:ok" not in info or f"cluster_known_nodes:{len(ports)}\r" not in info:
            return False
    return True


def _read(stream):
    line = stream.readline()
    if not line.endswith(b"\r\n"):
        raise ConnectionError("the connection ended")
    kind, rest = line[:1], line[1:-2]
    if kind == b"+":
        return rest.decode()
    if kind == b"-":
        raise RedisError(rest.decode())
    if kind == b":":
        return int(rest)
    size = int(rest)
    if size < 0:
        return None
    if kind == b"$":
        return stream.read(size + 2)[:-2].decode("utf-8", "replace")
    return [_read(stream) for _ in range(size)]


def _await(holds, otherwise):
    deadline = time.monotonic() + PATIENCE_S
    while not holds():
        if time.monotonic() > deadline:
            raise RedisError(otherwise)
        time.sleep(0.01)  # lint: allow(sleep-in-test) polls another process


def _write(path, lines):
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
        file.write("".join(line + "\n" for line in lines))
