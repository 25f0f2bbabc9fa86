"""How long service is interrupted by what interrupts it: printed; the bound is for a busy machine."""

import time

from clusterlib import redis
from stack import wait_until
from test_outages import BUDGET, purchase

PATIENCE_S = 20


def interrupted(stack, tenant, what, act, prepare=lambda: None):
    """Does it, buys until something is served again; how long that took from the moment it was possible."""
    wait_until(lambda: purchase(stack, tenant).status == 200, PATIENCE_S, "service before")
    prepare()
    began = time.monotonic()
    act()
    refused = 0
    while purchase(stack, tenant).status != 200:
        refused += 1
        assert time.monotonic() - began < PATIENCE_S, what
    print("%s: served again after %.2f s (%d refused)" % (what, time.monotonic() - began, refused))


def test_service_after_an_enforcer_or_redis_was_lost(fresh):
    stack = fresh(redis_mode="replica")
    cluster, tenant = stack.cluster, stack.tenant()
    tenant.set_budget("org", BUDGET)

    def spawn(name):
        return lambda: cluster.start(name, wait=False)

    def kill(*names):
        return lambda: [cluster.kill(name) for name in names]

    interrupted(stack, tenant, "another enforcer", spawn("enforcer-0"), kill("enforcer-0"))
    interrupted(stack, tenant, "FLUSHALL", lambda: redis.flushall(cluster._port("redis-0")))
    interrupted(stack, tenant, "Redis restarted", spawn("redis-0"), kill("redis-0"))
    interrupted(stack, tenant, "replica promoted", lambda: cluster.promote("redis-1"), kill("redis-0"))
