"""Fixtures: clusters of separate processes, the simulated provider beside them."""

import pytest

import clusters
import seeds
from seeds import rng  # noqa: F401 a fixture


def pytest_addoption(parser):
    parser.addoption("--faults", type=int, default=0, help="so many in the test of chaos")


def pytest_configure(config):
    seeds.allow_many_sockets()


def pytest_report_header(config):
    return seeds.report_header()


@pytest.fixture(scope="module")
def stack(tmp_path_factory):
    """Two of each, shared by the tests of a module."""
    started = clusters.ClusterStack(tmp_path_factory.mktemp("cluster"), **clusters.TWO_OF_EACH)
    try:
        yield started.start()
    finally:
        started.stop()


@pytest.fixture
def fresh(tmp_path):
    """Makes clusters that one test may break: fresh(edges=2, ...)."""
    made = []

    def make(**options):
        made.append(clusters.ClusterStack(tmp_path / ("cluster%d" % len(made)), **options))
        return made[-1].start()

    try:
        yield make
    finally:
        for stack in made:
            stack.stop()


@pytest.fixture
def tenant(stack):
    """A new org > team > user > key on the shared cluster."""
    return stack.tenant()


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item, call):
    """A failing test shows the end of every log."""
    outcome = yield
    report = outcome.get_result()
    if report.failed:
        for stack in clusters.ClusterStack.alive:
            for name, text in stack.log_ends():
                report.sections.append(("end of %s.log" % name, text))
