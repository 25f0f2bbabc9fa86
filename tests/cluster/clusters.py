"""A cluster of tools/cluster with the simulated provider behind it; what tests ask of tollhoused, they
may ask of it too (tests/e2e/stack.py)."""

import contextlib
import os
import pathlib

import secret_scan
from clusterlib import redis
from clusterlib.cluster import Cluster
from stack import SimProvider, Stack, Tollctl

TWO_OF_EACH = {"edges": 2, "enforcers": 2, "ledgers": 2, "routers": 2, "vaults": 2}


class ClusterStack(Stack):
    alive = []

    def __init__(self, directory, **options):
        self.directory = pathlib.Path(directory)
        self.directory.mkdir(exist_ok=True)
        self.sim = SimProvider(self.directory)
        self.cluster = Cluster(self.directory / "c")
        self.options = options
        self.names = 0

    def start(self):
        self.alive.append(self)
        self.sim.start()
        self.cluster.up(owner=os.getpid(), **self.options)
        self.add_provider("sim", "openai", self.sim.url + "/v1")
        self.add_provider("simant", "anthropic", self.sim.url)
        return self

    def stop(self):
        self.keep_metrics({name: self.cluster.metrics(name) for name in self.cluster.names()
                           if self.cluster.metrics(name)})
        for name in self.cluster.names("redis"):
            with contextlib.suppress(OSError, redis.RedisError):
                redis.command(self.cluster.port(name), "SAVE")
        self.cluster.down()
        self.sim.stop()
        self.alive.remove(self)
        self.check_secrets()

    def written(self):
        return [self.cluster.directory / "data", self.cluster.directory / "log",
                *self.directory.glob("*.log"), *self.directory.glob("*.metrics")]

    def check_secrets(self):
        secret_scan.remember("a key-encryption key", (self.cluster.directory / "kek").read_bytes())
        secret_scan.remember_key(self.cluster.token_file.read_text().strip())
        found = secret_scan.findings(*self.written())
        assert not found, "secrets where they may not be:\n" + "\n".join(found)

    @property
    def ctl(self):
        tollctl = Tollctl(self.cluster.env["TOLLHOUSE_SERVER"], self.cluster.token_file)
        tollctl.env.update(self.cluster.env)
        return tollctl

    @property
    def edges(self):
        return self.cluster.edges

    @property
    def edge(self):
        return self.edges[0]

    def log_ends(self, lines=8):
        yield "simprovider", self.sim.tail(lines)
        for name in self.cluster.names():
            text = self.cluster.log(name).read_text(errors="replace")
            yield name, "\n".join(text.splitlines()[-lines:])
