"""Last-dollar blast: however many callers rush at a cap, the provider never bills more than it."""

import asyncio
import threading

import pytest

import audit
import load
from stack import LONG, wait_until
from test_sdks import GPT, say

OUTPUT = 1000


def chat(secret, stream=False):
    """Every purchase costs the same and, as the bodies differ by a byte at most, holds the same."""
    return load.chat_request(secret, {
        "model": GPT, "max_tokens": OUTPUT, "stream": stream,
        "messages": say("Hello", output=OUTPUT, latency_ms=20, chunks=10)})


def probe(stack, tenant):
    """(price, hold) of one purchase, made while nothing is capped."""
    assert load.call_now(stack.edge, chat(tenant.secret)).status == 200
    tenant.settled()
    entry, = tenant.entries()
    price, hold = audit.cost(entry), int(entry["entry"]["hold_nanousd"])
    assert 0 < price <= hold
    return price, hold


class Sampler:
    """Reads the provider's meter all the time and remembers the highest bill."""

    def __init__(self, sim):
        self.sim, self.highest, self.samples = sim, 0, 0
        self.stopped = threading.Event()
        self.thread = threading.Thread(target=self.run)

    def run(self):
        while not self.stopped.wait(0.01):
            self.highest = max(self.highest, self.sim.cost())
            self.samples += 1

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.stopped.set()
        self.thread.join()
        self.highest = max(self.highest, self.sim.cost())


async def rush(edge, secret, callers):
    """Every caller buys until it is told that the budget is exhausted; a caller that hears that the
    money is held waits as it is told and tries again. Returns (bought, held, exhausted) counts."""
    counts = {200: 0, 429: 0, 402: 0}
    everybody = asyncio.Barrier(callers)

    async def buy():
        await everybody.wait()
        while True:
            reply = await load.call(edge, chat(secret), timeout=180)
            assert reply.status in counts, (reply.status, reply.body[:500])
            counts[reply.status] += 1
            if reply.status == 402:
                assert reply.headers["x-should-retry"] == "false"
                return
            if reply.status == 429:
                assert b"budget_held" in reply.body
                await asyncio.sleep(min(float(reply.headers["retry-after"]), 1.0))

    await asyncio.gather(*(buy() for _ in range(callers)))
    return counts


SIZES = [(1, 5), (10, 7), (100, 60), (1000, 300)]


@pytest.mark.parametrize("level", ["org", "team", "user", "key"])
@pytest.mark.parametrize("callers,fit", SIZES, ids=["%d-callers" % size[0] for size in SIZES])
def test_last_dollar(stack, callers, fit, level):
    tenant = stack.tenant()
    price, hold = probe(stack, tenant)
    # Room for exactly `fit` more: the last one fits its hold, one more would not.
    cap = price + (fit - 1) * price + hold
    tenant.set_budget(level, cap)
    before = stack.sim.cost() - price
    with Sampler(stack.sim) as meter:
        counts = asyncio.run(rush(stack.edge, tenant.secret, callers))
    print("%d callers at %s: %s, price %d, hold %d, cap %d, highest %d in %d samples" % (
        callers, level, counts, price, hold, cap, meter.highest - before, meter.samples))
    assert meter.highest - before <= cap
    assert audit.check_exact(tenant) == fit + 1
    assert counts[200] == fit
    assert counts[402] == callers
    budget = tenant.budget(level)
    assert budget["spent_nanousd"] == tenant.billed() == (fit + 1) * price
    assert cap - budget["spent_nanousd"] <= hold, "refused although a hold would have fitted"
    assert budget["held_nanousd"] == 0 and budget["suspense_nanousd"] == 0
    assert budget["available_nanousd"] == cap - budget["spent_nanousd"]


@pytest.mark.parametrize("callers", [50, 1000] if LONG else [50])
def test_every_level_at_once_and_streams(stack, callers, rng):
    """Caps on all four levels, the tightest drawn by chance, JSON and streams mixed: no cap breaks."""
    tenant = stack.tenant()
    price, hold = probe(stack, tenant)
    caps = {level: price + rng.randrange(5, 60) * price + hold
            for level in ("org", "team", "user", "key")}
    for level, cap in caps.items():
        tenant.set_budget(level, cap)
    before = stack.sim.cost() - price

    async def caller(stream):
        while True:
            reply = await load.call(stack.edge, chat(tenant.secret, stream))
            if reply.status == 402:
                return reply.headers["x-tollhouse-denied-by"]
            if reply.status == 429:
                await asyncio.sleep(min(float(reply.headers["retry-after"]), 1.0))
            else:
                assert reply.status == 200 and reply.complete

    async def everyone():
        return await asyncio.gather(*(caller(n % 2 == 0) for n in range(callers)))

    with Sampler(stack.sim) as meter:
        denied = asyncio.run(everyone())
    assert meter.highest - before <= min(caps.values())
    tightest = min(caps, key=caps.get)
    assert all(tenant.path(tightest) + "#total" in names for names in denied), (caps, denied[:3])
    audit.check_exact(tenant)
    spent = tenant.billed()
    for level, cap in caps.items():
        budget = tenant.budget(level)
        assert budget["spent_nanousd"] == spent and budget["held_nanousd"] == 0
        assert budget["available_nanousd"] == cap - spent
    assert caps[tightest] - spent <= hold


def test_two_teams_share_the_orgs_cap(stack):
    """A cap on the org holds when the money goes out below different teams and keys."""
    tenant = stack.tenant()
    stack.ctl("team", "create", tenant.org + "/search")
    other = tenant.create_key("bot", parent=tenant.org + "/search")
    price, hold = probe(stack, tenant)
    assert load.call_now(stack.edge, chat(other)).status == 200
    tenant.settled()
    cap = 2 * price + 20 * price + hold
    tenant.set_budget("org", cap)
    before = stack.sim.cost() - 2 * price

    async def both():
        return await asyncio.gather(rush(stack.edge, tenant.secret, 20),
                                    rush(stack.edge, other, 20))

    with Sampler(stack.sim) as meter:
        first, second = asyncio.run(both())
    assert meter.highest - before <= cap
    assert first[200] + second[200] >= 20
    audit.check_exact(tenant)
    rows = stack.ctl("spend", tenant.org, "--by", "team")["rows"]
    assert sum(int(row["cost_nanousd"]) for row in rows) == tenant.billed()
    assert {row["group"]["team"] for row in rows} == {tenant.team, tenant.org + "/search"}
    wait_until(lambda: tenant.budget()["held_nanousd"] == 0, what="nothing held")
