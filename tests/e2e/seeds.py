"""One seed per run, printed; what a test draws depends on it and on the test's name only."""

import os
import random
import resource

import pytest

import stack as stacks

SEED = int(os.environ.get("TOLLHOUSE_TEST_SEED") or random.SystemRandom().randrange(2**32))


def allow_many_sockets():
    """A thousand callers are two thousand sockets: one end here, one at the edge."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def report_header():
    return "seed %d (replay with --seed)%s" % (SEED, ", long" if stacks.LONG else "")


@pytest.fixture
def rng(request):
    """Random numbers that depend on the printed seed and the test's name only."""
    return random.Random("%d %s" % (SEED, request.node.nodeid))
