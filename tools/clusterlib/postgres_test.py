#!/usr/bin/env python3
import os
import sys
import tempfile
import unittest

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

from clusterlib import postgres  # noqa: E402


class PostgresTest(unittest.TestCase):
    def setUp(self):
        self.directory = tempfile.TemporaryDirectory(prefix="tollhouse-")
        self.addCleanup(self.directory.cleanup)

    def server(self, name):
        server = postgres.Postgres(os.path.join(self.directory.name, name))
        self.addCleanup(server.kill)
        return server

    def test_commits_survive_a_kill_on_the_same_port(self):
        server = self.server("postgres")
        server.create(password=postgres.new_password())
        server.start()
        server.create_database("ledger")
        server.execute("CREATE TABLE t AS SELECT 7 AS x", "ledger")
        port = server.port
        again = postgres.Postgres(server.directory)  # as another process would
        again.kill()
        self.assertIsNone(server.pid())
        again.start()
        self.assertEqual(server.port, port)
        self.assertEqual(server.execute("SELECT x FROM t", "ledger"), "7")
        server.stop()
        self.assertIsNone(server.pid())

    def test_without_the_password_nobody_gets_in(self):
        server = self.server("postgres")
        server.create(password=postgres.new_password())
        server.start()
        os.rename(server.password_file, server.password_file + ".away")
        with self.assertRaises(postgres.PostgresError):
            server.execute("SELECT 1")

    def test_a_promoted_synchronous_standby_has_every_commit(self):
        primary, standby = self.server("primary"), self.server("standby")
        primary.create(password=postgres.new_password())
        primary.start()
        standby.create_standby(primary)
        standby.start()
        primary.follow_synchronously()
        primary.execute("CREATE TABLE t AS SELECT 7 AS x")
        primary.kill()
        standby.promote()
        self.assertEqual(standby.execute("SELECT x FROM t"), "7")
        standby.execute("INSERT INTO t VALUES (8)")  # waits for no standby of its own


if __name__ == "__main__":
    unittest.main()
