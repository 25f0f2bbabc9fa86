"""Everything fails while requests run: no cap breaks, and afterwards every cent is explained.

A seed replays the schedule of faults (not the instant at which each request meets them):
tools/test --only cluster --seed N -- -k chaos
"""

import asyncio
import collections
import heapq
import random
import time

import pytest

import clusters
import faults
import load
import oracle
from seeds import SEED
from stack import LONG, get
from test_sdks import say

CALLERS = 16
# Faults, mean seconds between them.
COUNT, SPACING = (1000, 2.0) if LONG else (20, 2.5)
# What the accounts may spend per fault: some run out of money towards the end.
CAPS = {"": 3 * 10**8, "/red": 10**7, "/red/ann": 75 * 10**5, "/red/ann/k1": 3 * 10**6, "/red/bob": 5 * 10**6}


def purchase(key, rng):
    """A request of a random kind: JSON or stream, slow or quick, sometimes failing."""
    directives = {"output": rng.randrange(100, 400), "latency_ms": rng.randrange(0, 150)}
    chance = rng.random()
    if chance < 0.05:
        directives["fault"] = rng.choice(["500", "429"])
    elif chance < 0.055:  # what leaves suspense behind, of which the kills make enough
        directives["fault"] = rng.choice(["cut", "no_usage", "error_midstream"])
    stream = rng.random() < 0.6
    if stream:
        directives.update(chunks=rng.randrange(1, 15), chunk_delay_ms=rng.randrange(0, 60))
    body = {"model": key.model, "max_tokens": 500, "stream": stream, "messages": say("Hello", **directives)}
    request = load.chat_request if key.dialect == "openai" else load.messages_request
    return request(key.secret, body)


class Load:
    """Callers that buy with every key over every edge until they are told to stop."""

    def __init__(self, stack, house, rng):
        self.stack, self.house, self.rng = stack, house, rng
        self.statuses = collections.Counter()
        self.wrong = []
        self.answered = set()  # ids of requests whose callers have the whole answer
        self.stop = False

    async def run(self):
        await asyncio.gather(*(self.caller(n, random.Random(self.rng.random())) for n in range(CALLERS)))

    async def caller(self, number, rng):
        keys, edges = self.house.keys, self.stack.edges
        while not self.stop:
            key = keys[(number + rng.randrange(2)) % len(keys)]
            request = purchase(key, rng)
            reply = await load.call(rng.choice(edges), request, timeout=60)
            self.statuses[reply.status] += 1
            self.judge(key, reply)
            if reply.status == 200 and reply.complete and b"fault=" not in request[2]:
                self.answered.add(reply.headers["x-tollhouse-request-id"])
            if reply.status != 200:
                await asyncio.sleep(rng.uniform(0.01, 0.2))

    def judge(self, key, reply):
        if reply.status == 402 and self.house.rich(key):
            self.wrong.append("402 for %s although there is money: %s" % (key.path, reply.body[:400]))
        if reply.status in (401, 403, 404):
            self.wrong.append("%d for %s: %s" % (reply.status, key.path, reply.body[:400]))


async def inject(injector, plan):
    """Begins and ends every fault in its time; one after the other, each on a thread."""
    began = time.monotonic()
    queue = [(fault.at, 0, n, fault) for n, fault in enumerate(plan)]
    heapq.heapify(queue)
    while queue:
        at, phase, n, fault = heapq.heappop(queue)
        await asyncio.sleep(max(0.0, at - (time.monotonic() - began)))
        if phase == 0:
            await asyncio.to_thread(injector.begin, fault)
            print("%6.1f s" % (time.monotonic() - began), fault, flush=True)
            heapq.heappush(queue, (time.monotonic() - began + fault.lasts, 1, n, fault))
        else:
            await asyncio.to_thread(injector.end, fault)


def run_chaos(stack, plan, rng):
    house = oracle.House(stack, "acme", {path: cap * len(plan) for path, cap in CAPS.items()}).create()
    injector = faults.Injector(stack.cluster)
    work = Load(stack, house, rng)

    async def run():
        task = asyncio.create_task(work.run())
        try:
            await inject(injector, plan)
            await asyncio.to_thread(injector.heal)
            before = work.statuses[200]
            served = time.monotonic() + 30
            while work.statuses[200] < before + 20 and time.monotonic() < served:
                await asyncio.sleep(0.05)
            assert work.statuses[200] >= before + 20, "no service after everything was healed"
        finally:
            work.stop = True
            await task

    with oracle.Meter(house) as meter:
        asyncio.run(run())
        totals = oracle.at_rest(house, work.answered, 120)
    print("%d faults; answers %s; %d samples of the meter; highest %s; billed, spent, suspense %s" % (
        len(plan), dict(work.statuses), meter.samples,
        {path: "%d of %d" % (high, house.caps[path]) for path, high in meter.highest.items()}, totals))
    assert not meter.broken, meter.broken[:5]
    assert not work.wrong, work.wrong[:5]
    assert work.statuses[200] > len(plan), "the load never got through"
    verified = stack.ctl("ledger", "verify")
    assert verified["ok"] and verified["problems"] == [], verified
    assert not drift(stack.cluster), drift(stack.cluster)


def drift(cluster):
    """What the ledgers' auditors have found."""
    lines = [line for name in cluster.names("ledger")
             for line in get("http://%s/metrics" % cluster.state["processes"][name]["metrics"]).decode().splitlines()
             if line.startswith("tollhouse_ledger_drift") and not line.endswith(" 0")]
    return lines + [line for name in cluster.names("ledger")
                    for line in cluster.log(name).read_text(errors="replace").splitlines()
                    if '"event":"ledger_drift"' in line]


def test_chaos(fresh, rng, pytestconfig):
    stack = fresh(**clusters.TWO_OF_EACH, redis_mode="replica", postgres_mode="standby", gates=True)
    count = pytestconfig.getoption("--faults") or COUNT
    plan = faults.schedule(SEED, faults.targets_of(stack.cluster), count, SPACING)
    assert len(plan) >= 10
    run_chaos(stack, plan, rng)


def test_chaos_in_a_redis_cluster(fresh, rng, pytestconfig):
    """Slots move under load, nodes die, forget and stand still."""
    stack = fresh(**clusters.TWO_OF_EACH, redis_mode="cluster")
    count = pytestconfig.getoption("--faults") or (200 if LONG else 6)
    plan = faults.schedule(SEED, faults.targets_of(stack.cluster), count, SPACING, faults.CLUSTER_DECK)
    assert {"move_slot", "kill_redis"} <= {fault.name for fault in plan}
    run_chaos(stack, plan, rng)


def test_a_seed_replays_its_schedule():
    targets = {"edge": ["edge-0", "edge-1"], "ledger": ["ledger-0"], "gate": ["a>b"], "redis": ["redis-0"]}
    first, again, other = (faults.schedule(seed, targets, 50, 2.0) for seed in (7, 7, 8))
    assert first == again != other
    assert {fault.name for fault in first} >= {"kill", "stop", "pause", "clock", "cut", "hold", "flush"}
