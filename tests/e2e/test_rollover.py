"""Windows that end while the server runs. Its wall clock starts just before the end (libfaketime);
monotonic time runs as it is."""

import pathlib

import pytest

import audit
import load
from stack import Stack, usd, wait_until
from test_sdks import GPT, say

LIBRARY = next(pathlib.Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1"), None)


@pytest.fixture
def at(tmp_path):
    """at("2027-03-27 22:59:50") starts a stack whose wall clock shows that moment (UTC)."""
    stacks = []

    def start(moment):
        stack = Stack(tmp_path)
        stacks.append(stack)
        stack.house.env = {"LD_PRELOAD": str(LIBRARY), "FAKETIME": "@" + moment, "TZ": "UTC",
                           "FAKETIME_DONT_FAKE_MONOTONIC": "1"}
        return stack.start()

    yield start
    for stack in stacks:
        stack.stop()


def ask(stack, tenant, output=100, **directives):
    return load.call_now(stack.edge, load.chat_request(tenant.secret, {
        "model": GPT, "max_tokens": 100, "stream": bool(directives),
        "messages": say("Hello", output=output, **directives)}))


# (name, moment in UTC ten seconds before the end, window, zone, period before, period after)
ENDS = [
    ("day-utc", "2026-11-30 23:59:48", "day", "UTC", "2026-11-30@UTC", "2026-12-01@UTC"),
    ("month-utc", "2026-11-30 23:59:48", "month", "UTC", "2026-11@UTC", "2026-12@UTC"),
    ("day-before-spring-forward", "2027-03-27 22:59:48", "day", "Europe/Berlin",
     "2027-03-27@Europe/Berlin", "2027-03-28@Europe/Berlin"),
    ("day-of-spring-forward", "2027-03-28 21:59:48", "day", "Europe/Berlin",
     "2027-03-28@Europe/Berlin", "2027-03-29@Europe/Berlin"),
    ("day-of-fall-back", "2027-10-31 22:59:48", "day", "Europe/Berlin",
     "2027-10-31@Europe/Berlin", "2027-11-01@Europe/Berlin"),
    ("midnight-that-does-not-exist", "2027-03-27 21:59:48", "day", "Asia/Beirut",
     "2027-03-27@Asia/Beirut", "2027-03-28@Asia/Beirut"),
    ("month-new-york", "2026-12-01 04:59:48", "month", "America/New_York",
     "2026-11@America/New_York", "2026-12@America/New_York"),
]


@pytest.mark.parametrize("name,moment,window,zone,before,after", ENDS, ids=[end[0] for end in ENDS])
def test_a_window_ends(at, name, moment, window, zone, before, after):
    """An exhausted budget opens at midnight in its zone; a request that crosses it counts where it
    was admitted; nothing is lost and nothing stays blocked."""
    stack = at(moment)
    tenant = stack.tenant()
    assert ask(stack, tenant).status == 200
    tenant.settled()
    entry, = tenant.entries()
    price, hold = audit.cost(entry), int(entry["entry"]["hold_nanousd"])
    # Room for the one that crosses midnight and, after it, for no other.
    stack.ctl("budget", "set", tenant.org, "--limit", usd(price + hold + hold // 2), "--window", window,
              "--timezone", zone)
    stack.ctl("budget", "set", tenant.org, "--limit", "100", "--window", "total")
    assert tenant.budget("org", window)["period"] == before

    import concurrent.futures
    with concurrent.futures.ThreadPoolExecutor() as pool:
        crossing = pool.submit(ask, stack, tenant, output=80, chunks=40, chunk_delay_ms=400)
        wait_until(lambda: tenant.budget("org", window)["held_nanousd"] > 0, what="the hold")
        assert ask(stack, tenant).status == 429, "held by the one that runs"
        fresh = wait_until(lambda: (b := tenant.budget("org", window))["period"] == after and b, 30,
                           "the new period")
        assert fresh["spent_nanousd"] == 0, "the crossing request belongs to the old period"
        assert ask(stack, tenant).status == 200, "a new window is open at once"
        assert not crossing.done(), "the crossing request was to outlast midnight"
        reply = crossing.result()
    assert reply.status == 200 and reply.complete
    assert audit.check_exact(tenant) == 3
    spent = sorted(int(record["cost_nanousd"]) for record in tenant.records())
    assert tenant.budget("org", window)["spent_nanousd"] == price, "only the one after midnight"
    assert tenant.budget("org", "total")["spent_nanousd"] == sum(spent)
    assert stack.ctl("ledger", "verify")["ok"]
