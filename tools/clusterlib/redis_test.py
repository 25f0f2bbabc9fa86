#!/usr/bin/env python3
import os
import subprocess
import sys
import tempfile
import time
import unittest

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

from clusterlib import redis  # noqa: E402


class RedisTest(unittest.TestCase):
    def setUp(self):
        self.directory = tempfile.TemporaryDirectory(prefix="tollhouse-", ignore_cleanup_errors=True)
        self.addCleanup(self.directory.cleanup)

    def start(self, command):
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        self.addCleanup(process.wait)
        self.addCleanup(process.kill)
        return process

    def server(self, name, **options):
        directory, port = os.path.join(self.directory.name, name), redis.free_port()
        redis.prepare(directory, port, **options)
        process = self.start(redis.argv(directory, port))
        redis.await_ready(port)
        return directory, port, process

    def test_what_is_on_disk_survives_a_kill(self):
        directory, port, process = self.server("redis")
        self.assertEqual(redis.command(port, "SET", "k", "v"), "OK")
        redis.command(port, "CONFIG", "SET", "appendfsync", "always")
        redis.command(port, "SET", "k2", "v2")
        process.kill()
        process.wait()
        self.assertFalse(redis.ready(port))
        redis.prepare(directory, port)
        self.start(redis.argv(directory, port))
        redis.await_ready(port)
        self.assertEqual(redis.command(port, "GET", "k2"), "v2")
        redis.flushall(port)
        self.assertIsNone(redis.command(port, "GET", "k2"))

    def test_a_replica_that_was_cut_off_loses_acknowledged_writes(self):
        _, primary, process = self.server("primary")
        _, replica, _ = self.server("replica", replica_of=primary)
        redis.command(primary, "SET", "before", "1")
        redis.command(primary, "WAIT", 1, 5000)
        redis.cut_replication(replica)
        redis.command(primary, "SET", "after", "1")
        redis.promote(replica, others=[primary])
        self.assertEqual(redis.command(replica, "GET", "before"), "1")
        self.assertIsNone(redis.command(replica, "GET", "after"))
        redis.await_ready(primary)  # it follows, and has lost the write too
        with self.assertRaises(redis.RedisError):
            redis.command(primary, "SET", "x", "1")

    def test_a_sentinel_promotes_the_replica(self):
        _, primary, process = self.server("primary")
        _, replica, _ = self.server("replica", replica_of=primary)
        directory, port = os.path.join(self.directory.name, "sentinel"), redis.free_port()
        redis.prepare_sentinel(directory, port, primary)
        self.start(redis.sentinel_argv(directory))
        deadline = time.monotonic() + 30
        while not self.replicas_known(port) and time.monotonic() < deadline:
            pass
        process.kill()
        while time.monotonic() < deadline:
            if redis.command(port, "SENTINEL", "GET-MASTER-ADDR-BY-NAME", "main")[1] == str(replica):
                return
        self.fail("the sentinel promoted nobody")

    @staticmethod
    def replicas_known(port):
        try:
            fields = redis.command(port, "SENTINEL", "MASTER", "main")
        except OSError:
            return False
        return fields[fields.index("num-slaves") + 1] != "0"

    def test_a_slot_moves_with_its_keys(self):
        ports = [self.server(f"node-{i}", mode="cluster")[1] for i in range(3)]
        redis.make_cluster(ports)
        redis.make_cluster(ports)
        self.assertEqual(redis.uri(ports, "cluster").count("127.0.0.1"), 3)
        slot = redis.command(ports[0], "CLUSTER", "KEYSLOT", "foo")  # 12182: the third node's
        redis.command(ports[2], "SET", "foo", "bar")
        redis.move_slot(slot, ports[2], ports[0], ports)
        self.assertEqual(redis.command(ports[0], "GET", "foo"), "bar")
        with self.assertRaisesRegex(redis.RedisError, "MOVED"):
            redis.command(ports[2], "GET", "foo")


if __name__ == "__main__":
    unittest.main()
