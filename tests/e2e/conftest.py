"""Fixtures: a stack per module, a tenant per test, one seed per run."""

import pytest

import seeds
import stack as stacks
from seeds import rng  # noqa: F401 a fixture


def pytest_configure(config):
    seeds.allow_many_sockets()


def pytest_report_header(config):
    return seeds.report_header()


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
