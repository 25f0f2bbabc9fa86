"""A dependency is away: what goes on, what is refused, and that nobody is told a false reason."""

import time

import pytest

import audit
import load
from clusterlib import redis
from stack import wait_until
from test_health import ready
from test_sdks import GPT, say

BUDGET = 100 * 10**9


def purchase(stack, tenant, edge=0, output=10):
    return load.call_now(stack.edges[edge], load.chat_request(tenant.secret, {
        "model": GPT, "max_tokens": 50, "messages": say("Hello", output=output)}))


def refused_as_infrastructure(reply):
    assert reply.status == 503, (reply.status, reply.body[:500])
    assert reply.headers["x-should-retry"] == "true" and int(reply.headers["retry-after"]) >= 1
    return True


def steadily(stack, tenant, seconds):
    """Buys at every edge, ten times a second, for a while; all must succeed on edges that are ready."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        for edge in range(len(stack.edges)):
            reply = purchase(stack, tenant, edge)
            assert reply.status == 200, reply.body[:1000]
            assert ready(stack, "edge-%d" % edge)[0] == 200
        time.sleep(0.1)  # lint: allow(sleep-in-test) the rate that leases are sized by


@pytest.fixture
def bought(stack):
    """A tenant whose budgets have leases that last: it has bought before."""
    tenant = stack.tenant()
    for level in ("org", "key"):
        tenant.set_budget(level, BUDGET)
    steadily(stack, tenant, 2)
    return tenant


def every(stack, kind, way):
    for name in stack.cluster.names(kind):
        getattr(stack.cluster, way)(name)


def restart(stack, kind):
    for name in stack.cluster.names(kind):
        stack.cluster.resume(name)
        if not stack.cluster.running(name):
            stack.cluster.start(name)


@pytest.mark.parametrize("store", ["ledger", "postgres"])
def test_leases_last_while_the_ledger_is_away(stack, bought, store):
    """Decisions go on from the leases, edges stay ready, settlements wait in their journals."""
    before = len(bought.records())
    every(stack, store, "kill")
    try:
        steadily(stack, bought, 6)
    finally:
        restart(stack, store)
    wait_until(lambda: not bought.unaccounted(), 30, "settlements are drained")
    assert audit.check_exact(bought) > before
    assert purchase(stack, bought).status == 200


def test_settlements_outlive_ledger_and_edge(stack, bought):
    """What the ledger could not take is in the journals of edges that were killed, and is posted later."""
    every(stack, "ledger", "kill")
    try:
        steadily(stack, bought, 1)
        every(stack, "edge", "kill")
    finally:
        restart(stack, "ledger")
        restart(stack, "edge")
    assert audit.check_exact(bought) >= 20


def test_without_leases_and_ledger_closed_budgets_are_refused(stack):
    tenant = stack.tenant()
    tenant.set_budget("org", BUDGET)
    stack.ctl("key", "list", tenant.org)
    warm = stack.tenant()  # the same edge knows a key of another org
    assert purchase(stack, warm).status == 200
    every(stack, "ledger", "kill")
    try:
        refused_as_infrastructure(purchase(stack, tenant))
    finally:
        restart(stack, "ledger")
    wait_until(lambda: purchase(stack, tenant).status == 200, 30, "service after the outage")


def test_enforcers_away(stack, bought):
    every(stack, "enforcer", "kill")
    try:
        refused_as_infrastructure(purchase(stack, bought))
    finally:
        restart(stack, "enforcer")
    wait_until(lambda: purchase(stack, bought).status == 200, 30, "service after the outage")
    audit.check_exact(bought)


def test_a_closed_budget_is_refused_while_redis_is_away(stack, bought):
    every(stack, "redis", "kill")
    try:
        refused_as_infrastructure(purchase(stack, bought))
    finally:
        restart(stack, "redis")
    wait_until(lambda: purchase(stack, bought).status == 200, 30, "service after the outage")
    audit.check_exact(bought)


@pytest.mark.parametrize("what", ["other enforcers", "FLUSHALL", "Redis restarted"])
def test_how_long_service_is_interrupted(stack, what):
    """Printed; measured from the moment at which it could go on. The bound is for a busy machine."""
    tenant = stack.tenant()
    tenant.set_budget("org", BUDGET)
    assert purchase(stack, tenant).status == 200
    kind = {"other enforcers": "enforcer", "Redis restarted": "redis"}.get(what)
    if kind:
        every(stack, kind, "kill")
    began = time.monotonic()
    if kind:
        for name in stack.cluster.names(kind):
            stack.cluster.start(name, wait=False)
    else:
        redis.flushall(stack.cluster._port("redis-0"))
    wait_until(lambda: purchase(stack, tenant).status == 200, 20, "service")
    print("%s: served again after %.2f s" % (what, time.monotonic() - began))


def test_an_open_budget_lets_requests_pass_and_accounts_for_them(stack):
    tenant = stack.tenant()
    tenant.set_budget("org", BUDGET, "--on-outage", "open")
    assert purchase(stack, tenant).status == 200
    every(stack, "redis", "kill")
    try:
        statuses = [purchase(stack, tenant).status for _ in range(10)]
    finally:
        restart(stack, "redis")
    assert statuses == [200] * 10
    wait_until(lambda: purchase(stack, tenant).status == 200, 30, "service after the outage")
    assert audit.check_exact(tenant) >= 12


def test_the_policy_outlives_the_router(stack, bought):
    every(stack, "router", "kill")
    try:
        for edge in range(len(stack.edges)):
            assert purchase(stack, bought, edge).status == 200
            assert ready(stack, "edge-%d" % edge)[0] == 200
    finally:
        restart(stack, "router")


def test_known_keys_outlive_the_vault_for_a_while(fresh):
    stack = fresh(settings={"edge": {"max_staleness": "3s"}})
    tenant = stack.tenant()
    tenant.set_budget("org", BUDGET)
    assert purchase(stack, tenant).status == 200
    every(stack, "vault", "kill")
    assert purchase(stack, tenant).status == 200, "a key that the edge knows"
    reply = wait_until(lambda: refused(purchase(stack, tenant)), 20, "stale keys are not served")
    refused_as_infrastructure(reply)
    wait_until(lambda: ready(stack, "edge-0") == (503, "not ready: cut off from vault or ledger\n"), 5,
               "the edge says so")
    restart(stack, "vault")
    wait_until(lambda: purchase(stack, tenant).status == 200, 20, "service after the outage")
    wait_until(lambda: ready(stack, "edge-0")[0] == 200, 5, "the edge is ready again")


def refused(reply):
    return reply if reply.status != 200 else None


def test_an_edge_whose_settlements_wait_too_long_stops_admitting(fresh):
    stack = fresh(settings={"edge": {"backlog_max": 20}})
    tenant = stack.tenant()
    tenant.set_budget("org", BUDGET)
    assert purchase(stack, tenant).status == 200
    every(stack, "ledger", "kill")
    statuses = [purchase(stack, tenant).status for _ in range(40)]
    assert set(statuses) == {200, 503} and statuses[-1] == 503, statuses
    restart(stack, "ledger")
    wait_until(lambda: purchase(stack, tenant).status == 200, 30, "service after the backlog is gone")
    audit.check_exact(tenant)


def test_a_full_journal_takes_an_edge_out_of_rotation(fresh):
    stack = fresh(settings={"edge": {"journal_segment_bytes": 65536, "journal_bytes_max": 262144}})
    tenant = stack.tenant()  # without a budget, so that no lease ends before the journal is full
    assert purchase(stack, tenant).status == 200
    every(stack, "ledger", "kill")
    reply = wait_until(lambda: refused(purchase(stack, tenant)), 60, "the journal is full")
    refused_as_infrastructure(reply)
    wait_until(lambda: ready(stack, "edge-0") == (503, "not ready: journal full\n"), 10, "not ready")
    restart(stack, "ledger")
    wait_until(lambda: purchase(stack, tenant).status == 200, 30, "room again")
    wait_until(lambda: ready(stack, "edge-0")[0] == 200, 10, "ready again")
    audit.check_exact(tenant)
