"""The real servers that tools/cluster and the tests run: each in a directory of its own, on a free
loopback port, started and stopped by pid."""
