"""Windows that end while requests run. Nobody's clock is touched: each test writes itself a time zone
whose midnight is some seconds away, and the server loads it like any other (TZDIR)."""

import concurrent.futures
import datetime
import struct
import time

import pytest

import audit
import load
from stack import Stack, usd, wait_until
from test_sdks import GPT, say

AHEAD = 6  # seconds from `budget set` to midnight


def tzif(first_offset, transitions):
    """A compiled time zone (RFC 8536, version 2): UTC offset in seconds, then (moment, offset)s."""
    offsets = [first_offset, *(offset for _, offset in transitions)]
    types = b"".join(struct.pack(">lBB", offset, 0, 0) for offset in offsets)
    one_type = struct.pack(">lBB", 0, 0, 0) + b"TST\0"
    first = b"TZif2" + bytes(15) + struct.pack(">6l", 0, 0, 0, 0, 1, 4) + one_type
    second = (b"TZif2" + bytes(15) + struct.pack(">6l", 0, 0, 0, len(transitions), len(offsets), 4)
              + b"".join(struct.pack(">q", moment) for moment, _ in transitions)
              + bytes(range(1, len(offsets))) + types + b"TST\0")
    return first + second + b"\n\n"


def zone_ending(kind, moment):
    """A zone whose day ends at that moment (seconds since 1970), on a day of that kind."""
    offset = -moment % 86400
    if offset > 14 * 3600:
        offset -= 86400
    hour = 3600
    return {
        "plain": tzif(offset, []),
        # Clocks went forward or back five hours ago: the day that ends has 23 or 25 hours.
        "23-hours": tzif(offset - hour, [(moment - 5 * hour, offset)]),
        "25-hours": tzif(offset + hour, [(moment - 5 * hour, offset)]),
        # Clocks go from midnight to one: the new day begins at 01:00.
        "no-midnight": tzif(offset, [(moment, offset + hour)]),
    }[kind]


@pytest.fixture(scope="module")
def zones(tmp_path_factory):
    return tmp_path_factory.mktemp("zoneinfo")


@pytest.fixture(scope="module")
def stack(zones, tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TZDIR", str(zones))
        started = Stack(tmp_path_factory.mktemp("stack"))
        try:
            yield started.start()
        finally:
            started.stop()


def ask(stack, tenant, output=100, **directives):
    return load.call_now(stack.edge, load.chat_request(tenant.secret, {
        "model": GPT, "max_tokens": 100, "stream": bool(directives),
        "messages": say("Hello", output=output, **directives)}))


@pytest.mark.parametrize("kind,window", [
    ("plain", "day"), ("plain", "1d"), ("23-hours", "day"), ("25-hours", "day"), ("no-midnight", "day")])
def test_a_window_ends(stack, zones, tenant, kind, window):
    """An exhausted budget opens at midnight in its zone; a request that crosses it counts where it
    was admitted; nothing is lost and nothing stays blocked."""
    assert ask(stack, tenant).status == 200
    tenant.settled()
    entry, = tenant.entries()
    price, hold = audit.cost(entry), int(entry["entry"]["hold_nanousd"])
    midnight = int(time.time()) + AHEAD
    zone = "Test/%s-%s" % (kind, tenant.org)
    (zones / "Test").mkdir(exist_ok=True)
    (zones / zone).write_bytes(zone_ending(kind, midnight))
    # Room for the one that crosses midnight and, beside it, for no other.
    stack.ctl("budget", "set", tenant.org, "--limit", usd(price + hold + hold // 2), "--window", window,
              "--timezone", zone)
    stack.ctl("budget", "set", tenant.org, "--limit", "100", "--window", "total")
    before = tenant.budget("org", window)
    assert before["spent_nanousd"] == price
    resets = datetime.datetime.fromisoformat(before["resets_at"].replace("Z", "+00:00"))
    assert resets.timestamp() == midnight

    with concurrent.futures.ThreadPoolExecutor() as pool:
        crossing = pool.submit(ask, stack, tenant, output=80, chunks=40,
                               chunk_delay_ms=25 * (AHEAD + 4))
        wait_until(lambda: tenant.budget("org", window)["held_nanousd"] > 0, what="the hold")
        held = ask(stack, tenant)
        assert held.status == 429 and time.time() < midnight, "held by the one that runs"
        fresh = wait_until(lambda: (b := tenant.budget("org", window))["period"] != before["period"]
                           and b, AHEAD + 5, "the new period")
        assert time.time() >= midnight
        assert fresh["spent_nanousd"] == 0, "the crossing request belongs to the old period"
        assert ask(stack, tenant).status == 200, "a new window is open at once"
        assert not crossing.done(), "the crossing request was to outlast midnight"
        reply = crossing.result()
    assert reply.status == 200 and reply.complete
    assert audit.check_exact(tenant) == 3
    assert tenant.budget("org", window)["spent_nanousd"] == price, "only the one after midnight"
    assert tenant.budget("org", "total")["spent_nanousd"] == tenant.billed()
    assert stack.ctl("ledger", "verify")["ok"]
