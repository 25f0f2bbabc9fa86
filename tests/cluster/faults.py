"""What goes wrong: a schedule of faults drawn from a seed before anything starts, and how each is done
to a cluster and made good again.

A fault is (at, name, target, lasts, detail). It begins at `at` seconds of the run, lasts `lasts`
seconds, and then its process runs again as it should.
"""

import contextlib
import dataclasses
import random
import resource

from clusterlib import process, redis
from clusterlib.cluster import SERVICES

FAKETIME = "/usr/lib/x86_64-linux-gnu/faketime/libfaketimeMT.so.1"


@dataclasses.dataclass
class Fault:
    at: float
    name: str
    target: str
    lasts: float
    detail: float = 0.0

    def __str__(self):
        return "%.1f s: %s %s for %.1f s%s" % (
            self.at, self.name, self.target, self.lasts, " (%g)" % self.detail if self.detail else "")


# (name, kinds of targets, shortest and longest time)
DECK = (
    ("kill", ("edge",), 0.0, 2.0),
    ("kill", ("enforcer",), 0.0, 2.0),
    ("kill", ("ledger",), 0.0, 2.0),
    ("kill", ("router", "vault"), 0.0, 2.0),
    ("stop", SERVICES, 0.0, 1.0),
    ("pause", ("enforcer", "ledger"), 0.3, 5.0),
    ("pause", ("edge", "router", "vault"), 0.3, 5.0),
    ("clock", SERVICES, 1.0, 4.0),
    ("full_disk", ("edge",), 0.5, 3.0),
    ("backlog", ("edge",), 0.5, 2.0),
    ("kill_redis", ("redis",), 0.0, 2.0),
    ("pause_redis", ("redis",), 0.3, 4.0),
    ("flush", ("redis",), 0.0, 0.0),
    ("lossy_failover", ("redis-failover",), 0.2, 1.5),
    ("kill_postgres", ("postgres",), 0.0, 3.0),
    ("pause_postgres", ("postgres",), 0.3, 4.0),
    ("failover_postgres", ("postgres-failover",), 0.0, 0.0),
    ("cut", ("gate",), 0.0, 2.0),
    ("delay", ("gate",), 1.0, 4.0),
    ("hold", ("gate",), 0.5, 5.0),
    ("deaf", ("gate",), 0.5, 5.0),
)
# What only a Redis Cluster has, and what it shares with others.
CLUSTER_DECK = (
    ("move_slot", ("redis-cluster",), 0.5, 3.0),
    ("kill_redis", ("redis",), 0.0, 2.0),
    ("flush", ("redis",), 0.0, 0.0),
    ("move_slot", ("redis-cluster",), 0.5, 3.0),
    ("pause_redis", ("redis",), 0.3, 4.0),
    ("kill", ("edge", "enforcer", "ledger"), 0.0, 2.0),
)
CLOCKS_S = (-3600, -90, -5, 5, 90, 3600)


def targets_of(cluster):
    """{kind: [targets]} of what the cluster has."""
    found = {kind: cluster.names(kind) for kind in (*SERVICES, "redis")}
    found["gate"] = cluster.gates
    if cluster.state["options"]["redis"] == "replica":
        found["redis-failover"] = ["redis"]
    if cluster.state["options"]["redis"] == "cluster":
        found["redis-cluster"] = ["redis"]
    found["postgres"] = cluster.names("postgres")
    if cluster.state["options"]["postgres"] == "standby":
        found["postgres-failover"] = ["postgres"]
    return {kind: names for kind, names in found.items() if names}


def schedule(seed, targets, count, spacing, deck=DECK):
    """`count` faults, all of the deck that have a target before any is repeated."""
    rng = random.Random("faults %s" % seed)
    possible = [card for card in deck if any(kind in targets for kind in card[1])]
    faults, at, cards = [], 1.0, []
    for _ in range(count):
        if not cards:
            cards = rng.sample(possible, len(possible))
        name, kinds, shortest, longest = cards.pop()
        kind = rng.choice([k for k in kinds if k in targets])
        detail = {"clock": rng.choice(CLOCKS_S), "delay": rng.choice((20, 200, 1000))}.get(name, 0)
        faults.append(Fault(at, name, rng.choice(targets[kind]), rng.uniform(shortest, longest), detail))
        at += rng.uniform(0.5, 1.5) * spacing
    return faults


class Injector:
    """Does faults to a cluster and undoes them. One thread."""

    def __init__(self, cluster):
        self.cluster = cluster
        self.done = []
        self.moving = {}  # slot: (source, target)

    def begin(self, fault):
        getattr(self, "begin_" + fault.name)(fault)
        self.done.append(fault)

    def end(self, fault):
        getattr(self, "end_" + fault.name, lambda _: None)(fault)

    def heal(self):
        """Whatever is still wrong; returns when every process is ready."""
        cluster = self.cluster
        for gate in cluster.gates:
            cluster.gate(gate, "open")
        for name in cluster.names():
            cluster.resume(name)
        for name in cluster.names():
            self.start(name, wait=True)
        for slot in list(self.moving):
            self.end_move(slot)
        cluster._await_ready(cluster.names())

    # --- processes

    def start(self, name, **options):
        if not self.cluster.running(name):
            self.cluster.start(name, **options)

    def begin_kill(self, fault):
        self.cluster.kill(fault.target)

    def end_kill(self, fault):
        self.start(fault.target, wait=False)

    def begin_stop(self, fault):
        self.cluster.resume(fault.target)
        record = self.cluster._record(fault.target)
        process.send(record, 15)
        if not process.reap(record, 10):  # requests in flight may take their time
            process.kill(record)

    end_stop = end_kill

    def begin_pause(self, fault):
        self.cluster.pause(fault.target)

    def end_pause(self, fault):
        self.cluster.resume(fault.target)

    def begin_clock(self, fault):
        """Killed, and back with a clock that is `detail` seconds off."""
        self.cluster.kill(fault.target)
        self.cluster.start(fault.target, wait=False, env={
            "LD_PRELOAD": FAKETIME, "FAKETIME": "%+d" % fault.detail, "DONT_FAKE_MONOTONIC": "1"})

    def end_clock(self, fault):
        self.cluster.kill(fault.target)
        self.start(fault.target, wait=False)

    def begin_full_disk(self, fault):
        """No file of the process may grow."""
        self.limit_files(fault.target, 0)

    def end_full_disk(self, fault):
        self.limit_files(fault.target, resource.RLIM_INFINITY)

    def limit_files(self, name, size):
        if not self.cluster.running(name):
            return
        pid = self.cluster._record(name)["pid"]
        with contextlib.suppress(ProcessLookupError):
            _, hard = resource.prlimit(pid, resource.RLIMIT_FSIZE)
            resource.prlimit(pid, resource.RLIMIT_FSIZE, (size if size != resource.RLIM_INFINITY else hard, hard))

    def begin_backlog(self, fault):
        """No ledger answers, so that what edges settle is in their journals alone."""
        for ledger in self.cluster.names("ledger"):
            self.cluster.pause(ledger)

    def end_backlog(self, fault):
        """One of the edges dies with its backlog, and comes back after the ledgers have."""
        self.cluster.kill(fault.target)
        for ledger in self.cluster.names("ledger"):
            self.cluster.resume(ledger)
        self.start(fault.target, wait=False)

    # --- Redis

    begin_kill_redis, end_kill_redis = begin_kill, end_kill
    begin_pause_redis, end_pause_redis = begin_pause, end_pause

    def redis_port(self, name):
        return self.cluster._port(name)

    def begin_flush(self, fault):
        with contextlib.suppress(OSError, redis.RedisError):
            one = self.cluster.state["options"]["redis"] != "replica"
            name = fault.target if one else self.cluster.primary("redis")
            if process.state_of(self.cluster._record(name)) == "running":
                redis.flushall(self.redis_port(name))

    def redis_runs(self):
        return all(process.state_of(self.cluster._record(name)) == "running"
                   for name in self.cluster.names("redis"))

    def redis_ports(self):
        return [self.redis_port(name) for name in self.cluster.names("redis")]

    def begin_move_slot(self, fault):
        """The slot of an org that has holds begins to move; its keys follow when the fault ends."""
        if not self.redis_runs():
            return
        with contextlib.suppress(OSError, redis.RedisError):
            ports = self.redis_ports()
            orgs = sorted(key for port in ports for key in redis.command(port, "KEYS", "tollhouse:{*}:org"))
            slot = redis.slot_of(orgs[-1], ports[0]) if orgs else None
            if slot is None or slot in self.moving:
                return
            source = redis.owner(slot, ports)
            target = next(port for port in ports if port != source)
            self.moving[slot] = source, target
            redis.begin_move(slot, source, target)

    def end_move_slot(self, fault):
        for slot in list(self.moving):
            with contextlib.suppress(OSError, redis.RedisError):  # one of them is away: heal() goes on
                self.end_move(slot)

    def end_move(self, slot):
        if not self.redis_runs():
            return
        redis.end_move(slot, *self.moving[slot], self.redis_ports())
        del self.moving[slot]

    def begin_lossy_failover(self, fault):
        """The replica hears nothing more, so that what is acknowledged from now on will be lost."""
        replica = self.redis_roles()[1]
        self.start(replica)
        redis.cut_replication(self.redis_port(replica))

    def end_lossy_failover(self, fault):
        """The replica becomes the primary; the old one dies and comes back as its replica."""
        primary, replica = self.redis_roles()
        self.cluster.resume(replica)
        self.start(replica)
        self.cluster.kill(primary)
        self.cluster.promote(replica)
        self.start(primary, wait=False)

    def redis_roles(self):
        primary = self.cluster.primary("redis")
        return primary, next(name for name in self.cluster.names("redis") if name != primary)

    # --- Postgres

    begin_kill_postgres, end_kill_postgres = begin_kill, end_kill
    begin_pause_postgres, end_pause_postgres = begin_pause, end_pause

    def begin_failover_postgres(self, fault):
        """The primary dies, the standby takes over, the old primary is made anew as its standby."""
        self.cluster.failover_postgres()

    # --- gates

    def begin_cut(self, fault):
        self.cluster.gate(fault.target, fault.name, int(fault.detail))

    def end_cut(self, fault):
        self.cluster.gate(fault.target, "open")

    begin_delay = begin_hold = begin_deaf = begin_cut
    end_delay = end_hold = end_deaf = end_cut
