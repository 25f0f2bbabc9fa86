"""Redis and PostgreSQL that are not as they must be: each is refused or ridden out with a reason that
helps, nobody is told that money is exhausted, and nothing is lost."""

import contextlib

import pytest

import audit
from clusterlib import redis
from stack import TollctlError, get, wait_until
from test_outages import BUDGET, bought, purchase, refused_as_infrastructure, steadily  # noqa: F401 a fixture


@contextlib.contextmanager
def told(stack, *commands, back):
    """Commands for Redis, and those that make it good again."""
    port = stack.cluster._port("redis-0")
    for command in commands:
        redis.command(port, *command)
    try:
        yield
    finally:
        for command in back:
            redis.command(port, *command)


def refused_soon(stack, tenant):
    """503, once the enforcers have noticed; never as if over budget."""
    def refused():
        reply = purchase(stack, tenant)
        assert reply.status in (200, 503), reply.body[:500]
        return reply.status == 503 and reply
    refused_as_infrastructure(wait_until(refused, 20, "the enforcers leave such a Redis"))


def why(stack):
    """What the enforcers' logs and readiness say."""
    return " ".join(stack.cluster.log(name).read_text(errors="replace") + stack.cluster.not_ready(name)
                    for name in stack.cluster.names("enforcer"))


@pytest.mark.parametrize("commands,back,reason", [
    ([("CONFIG", "SET", "maxmemory", "1")], [("CONFIG", "SET", "maxmemory", "0")], "OOM command not allowed"),
    ([("CONFIG", "SET", "maxmemory-policy", "allkeys-lru")],
     [("CONFIG", "SET", "maxmemory-policy", "noeviction")], "REDIS_UNFIT"),
    ([("ACL", "SETUSER", "default", "-eval", "-evalsha"), ("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")],
     [("ACL", "SETUSER", "default", "+eval", "+evalsha")], "REDIS_UNFIT"),
    ([("CONFIG", "SET", "min-replicas-to-write", "3")], [("CONFIG", "SET", "min-replicas-to-write", "0")],
     "NOREPLICAS"),
], ids=["out of memory", "evicts", "refuses scripts", "too few replicas"])
def test_a_redis_that_will_not_do(stack, tenant, commands, back, reason):
    tenant.set_budget("org", BUDGET)
    assert purchase(stack, tenant).status == 200
    with told(stack, *commands, back=back):
        refused_soon(stack, tenant)
        wait_until(lambda: reason in why(stack), 10, "the reason is said")
    wait_until(lambda: purchase(stack, tenant).status == 200, 30, "service when it is mended")
    audit.check_exact(tenant)


def test_a_postgres_that_takes_no_writes(stack, bought):  # noqa: F811
    """Decisions go on from the leases, settlements wait, changes are refused with the reason."""
    postgres = stack.cluster._postgres("postgres")

    def read_only(on):
        postgres.execute("ALTER SYSTEM SET default_transaction_read_only = %s" % ("on" if on else "off"))
        postgres.execute("SELECT pg_reload_conf()")

    read_only(True)
    try:
        with pytest.raises(TollctlError) as refused:
            stack.ctl("budget", "set", bought.org, "--limit", "5", "--window", "day")
        assert "takes no writes" in refused.value.stderr, refused.value
        assert "postgres:" not in refused.value.stderr, "the driver's own text"
        steadily(stack, bought, 2)
    finally:
        read_only(False)
    assert audit.check_exact(bought) > 20
    bought.set_budget("org", BUDGET)


def test_a_postgres_without_standby_is_warned_of(stack):
    for name in stack.cluster.names("ledger"):
        metrics = "http://%s/metrics" % stack.cluster.state["processes"][name]["metrics"]
        wait_until(lambda: "tollhouse_ledger_synchronous_replication 0" in get(metrics).decode(),
                   timeout=60, what="the first audit of " + name)
        assert '"event":"postgres_asynchronous"' in stack.cluster.log(name).read_text()


@pytest.mark.parametrize("service", ["ledger", "router", "vault"])
def test_an_old_or_new_schema_is_refused_at_the_start(stack, service):
    """By the one that starts; the other goes on."""
    cluster, name = stack.cluster, service + "-1"
    postgres = cluster._postgres("postgres")
    newest = postgres.execute("SELECT max(version) FROM schema_version", service)
    cluster.stop(name)
    try:
        for change, undo, reason in (
                ("DELETE FROM schema_version WHERE version = " + newest,
                 "INSERT INTO schema_version (version) VALUES (%s)" % newest, "run its `migrate` command first"),
                ("INSERT INTO schema_version (version) VALUES (9999)",
                 "DELETE FROM schema_version WHERE version = 9999", "start a newer version")):
            postgres.execute(change, service)
            cluster.start(name, wait=False)
            wait_until(lambda: not cluster.running(name), 20, "it ends")
            postgres.execute(undo, service)
            assert reason in cluster.log(name).read_text(), cluster.log(name).read_text()[-1000:]
    finally:
        cluster.start(name)
