"""Fixtures: a stack per module, a tenant per test, one seed per run."""

import os
import random
import resource

import pytest

import stack as stacks

SEED = int(os.environ.get("TOLLHOUSE_TEST_SEED") or random.SystemRandom().randrange(2**32))


def pytest_configure(config):
    # A thousand callers are two thousand sockets: one end here, one in tollhoused.
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def pytest_report_header(config):
    return "seed %d (replay with --seed)%s" % (SEED, ", long" if stacks.LONG else "")


@pytest.fixture
def rng(request):
    """Random numbers that depend on the printed seed and the test's name only."""
    return random.Random("%d %s" % (SEED, request.node.nodeid))


@pytest.fixture(scope="module")
def stack(tmp_path_factory):
    """tollhoused and the simulated provider, shared by the tests of a module."""
    started = stacks.Stack(tmp_path_factory.mktemp("stack"))
    try:
        yield started.start()
    finally:
        started.stop()


@pytest.fixture
def fresh(tmp_path):
    """A stack that one test may break."""
    started = stacks.Stack(tmp_path)
    try:
        yield started.start()
    finally:
        started.stop()


@pytest.fixture
def tenant(stack):
    """A new org > team > user > key on the shared stack."""
    return stack.tenant()


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item, call):
    """A failing test shows the end of its servers' logs."""
    outcome = yield
    report = outcome.get_result()
    if report.failed:
        for name in ("stack", "fresh"):
            used = getattr(item, "funcargs", {}).get(name)
            if used is not None:
                for child in (used.house, used.sim):
                    report.sections.append(("end of %s.log" % child.name, child.tail(25)))
