"""Budgets and limits as their owners set them: in force at once, matched, raised, alerted."""

import concurrent.futures
import datetime
import time

import pytest

import audit
import load
from receiver import Receiver
from stack import usd, wait_until
from test_sdks import CLAUDE, GPT, say

DOLLAR = 10**9


def ask(stack, secret, model=GPT, output=100, max_tokens=100, headers=None, **directives):
    body = {"model": model, "max_tokens": max_tokens,
            "messages": say("Hello", output=output, **directives)}
    make = load.messages_request if model.startswith("claude") else load.chat_request
    return load.call_now(stack.edge, make(secret, body, **(headers or {})))


def price_and_hold(tenant, **options):
    assert ask(tenant.stack, tenant.secret, **options).status == 200
    tenant.settled()
    entry = tenant.entries()[-1]
    return audit.cost(entry), int(entry["entry"]["hold_nanousd"])


# --- in force when the command returns -------------------------------------------------------------
def test_a_revoked_key_stops_within_a_second(stack, tenant):
    assert ask(stack, tenant.secret).status == 200
    began = time.monotonic()
    stack.ctl("key", "revoke", tenant.key, "--yes")
    assert ask(stack, tenant.secret).status == 401
    assert time.monotonic() - began < 1.0
    assert audit.check_exact(tenant) == 1


def test_a_revoked_key_stops_under_load(stack, tenant):
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        stop = time.monotonic() + 20

        def until_refused(_):
            while time.monotonic() < stop:
                status = ask(stack, tenant.secret).status
                if status != 200:
                    return status, time.monotonic()
            return None, None

        callers = [pool.submit(until_refused, n) for n in range(8)]
        wait_until(lambda: stack.sim.last_seq() > tenant.seq + 20, what="some traffic")
        stack.ctl("key", "revoke", tenant.key, "--yes")
        revoked = time.monotonic()
        for caller in callers:
            status, when = caller.result()
            assert status == 401 and when - revoked < 1.0
    audit.check_exact(tenant)


def test_a_rotated_key_overlaps(stack, tenant):
    new = stack.ctl("key", "rotate", tenant.key, "--overlap", "1h")["secret"]
    assert ask(stack, new).status == ask(stack, tenant.secret).status == 200
    newer = stack.ctl("key", "rotate", tenant.key, "--overlap", "0s")["secret"]
    assert ask(stack, newer).status == 200
    assert ask(stack, tenant.secret).status == 401


def test_a_key_expires(stack):
    tenant = stack.tenant("--expires", "2s")
    assert ask(stack, tenant.secret).status == 200
    wait_until(lambda: ask(stack, tenant.secret).status == 401, 10, "the key to expire")


def test_budget_set_is_in_force_when_it_returns(stack, tenant):
    price, hold = price_and_hold(tenant)
    for round_number in range(10):
        tenant.set_budget("team", 1)
        assert ask(stack, tenant.secret).status == 402
        tenant.set_budget("team", price * (round_number + 2) + hold)
        assert ask(stack, tenant.secret).status == 200
        tenant.settled()
    budget = tenant.budget("team")
    assert budget["spent_nanousd"] == 11 * price, "a new budget starts with what was spent before"
    assert audit.check_exact(tenant) == 11


def test_lowering_below_what_is_spent_stops_and_keeps_the_truth(stack, tenant):
    price, hold = price_and_hold(tenant)
    tenant.set_budget("org", 10 * DOLLAR)
    assert ask(stack, tenant.secret).status == 200
    tenant.settled()
    tenant.set_budget("org", price)
    reply = ask(stack, tenant.secret)
    assert reply.status == 402
    budget = tenant.budget()
    assert budget["spent_nanousd"] == 2 * price and budget["available_nanousd"] == 0
    assert stack.ctl("ledger", "verify")["ok"]


def test_a_deleted_budget_no_longer_refuses(stack, tenant):
    tenant.set_budget("user", 1)
    assert ask(stack, tenant.secret).status == 402
    stack.ctl("budget", "delete", tenant.user, "--window", "total", "--yes")
    assert ask(stack, tenant.secret).status == 200


def test_hard_percentage(stack, tenant):
    price, hold = price_and_hold(tenant)
    limit = 10 * (price + hold)
    tenant.set_budget("org", limit, "--hard", "50")
    budget = tenant.budget()
    assert budget["hard_pct"] == 50
    assert budget["available_nanousd"] == limit // 2 - price
    statuses = [ask(stack, tenant.secret).status for _ in range(30)]
    assert statuses[-1] == 402 and tenant.billed() <= limit // 2
    assert limit // 2 - tenant.billed() <= hold


def test_raise_opens_and_ends_by_itself(stack, tenant):
    price, hold = price_and_hold(tenant)
    tenant.set_budget("org", price + hold // 2)
    assert ask(stack, tenant.secret).status == 402
    until = datetime.datetime.now(datetime.timezone.utc) + datetime.timedelta(seconds=4)
    stack.ctl("budget", "raise", tenant.org, "--by", usd(10 * hold), "--until",
              until.strftime("%Y-%m-%dT%H:%M:%SZ"), "--reason", "quarter end")
    assert ask(stack, tenant.secret).status == 200
    wait_until(lambda: tenant.budget()["available_nanousd"] < hold, 15, "the raise to end")
    assert datetime.datetime.now(datetime.timezone.utc) >= until.replace(microsecond=0)
    wait_until(lambda: ask(stack, tenant.secret).status == 402, 2, "the enforcer to know")
    assert audit.check_exact(tenant) >= 2
    assert stack.ctl("ledger", "verify")["ok"]


def test_several_windows_on_one_account(stack, tenant):
    price, hold = price_and_hold(tenant)
    for window in ("day", "month", "quarter", "year", "week", "7d"):
        tenant.set_budget("org", 10 * DOLLAR, window=window)
    tenant.set_budget("org", price + hold // 2, window="total")
    reply = ask(stack, tenant.secret)
    assert reply.status == 402 and reply.headers["x-tollhouse-denied-by"] == tenant.org + "#total"
    tenant.set_budget("org", 10 * DOLLAR, window="total")
    tenant.set_budget("org", price + hold // 2, "--timezone", "Europe/Berlin", window="day")
    reply = ask(stack, tenant.secret)
    assert reply.status == 402 and reply.headers["x-tollhouse-denied-by"] == tenant.org + "#day"
    assert int(reply.headers.get("retry-after", 1)) >= 1
    budget = tenant.budget("org", "day")
    assert budget["period"].endswith("@Europe/Berlin") and budget["resets_at"].endswith("Z")
    assert not tenant.budget("org", "total").get("resets_at")
    assert ask(stack, tenant.secret).status == 402


# --- observe, match, templates ---------------------------------------------------------------------
def test_observe_mode_counts_and_never_refuses(stack, tenant):
    tenant.set_budget("org", 1, "--mode", "observe")
    for _ in range(3):
        assert ask(stack, tenant.secret).status == 200
    tenant.settled()
    wait_until(lambda: tenant.budget()["spent_nanousd"] == tenant.billed(), what="observed spend")
    assert tenant.budget()["mode"] == "observe" and tenant.billed() > 1


def test_match_on_tags_model_and_provider(stack, tenant):
    tagged = {"x-tollhouse-tags": "use_case=batch,ticket=PAY-12"}
    price, hold = price_and_hold(tenant, headers=tagged)
    low = price + hold // 2
    stack.ctl("budget", "set", tenant.org, "--limit", usd(low), "--window", "total",
              "--match", "use_case=batch")
    assert ask(stack, tenant.secret, headers=tagged).status == 402
    assert ask(stack, tenant.secret).status == 200
    assert ask(stack, tenant.secret, headers={"x-tollhouse-tags": "use_case=chat"}).status == 200
    stack.ctl("budget", "set", tenant.org, "--limit", "0.000000001", "--window", "total",
              "--match", "model=gpt-5-mini")
    assert ask(stack, tenant.secret, model="gpt-5-mini").status == 402
    assert ask(stack, tenant.secret).status == 200
    stack.ctl("budget", "set", tenant.org, "--limit", "0.000000001", "--window", "total",
              "--match", "provider=simant")
    assert ask(stack, tenant.secret, model=CLAUDE).status == 402
    assert ask(stack, tenant.secret).status == 200
    rows = stack.ctl("spend", tenant.org, "--by", "tag:use_case")["rows"]
    assert {row["group"].get("tag:use_case") for row in rows} >= {"batch", "chat"}
    audit.check_exact(tenant)


def test_metadata_becomes_tags_and_pinned_tags_win(stack):
    tenant = stack.tenant("--tag", "use_case=pinned")
    body = {"model": GPT, "max_tokens": 50, "messages": say("Hello", output=5),
            "metadata": {"use_case": "dodge", "feature": "search"}}
    assert load.call_now(stack.edge, load.chat_request(tenant.secret, body)).status == 200
    tenant.settled()
    entry, = tenant.entries()
    assert entry["entry"]["tags"]["use_case"] == "pinned"
    assert entry["entry"]["tags"]["feature"] == "search"


def test_for_each_gives_every_new_account_a_budget(stack, tenant):
    price, hold = price_and_hold(tenant)
    # Room for one hold, or for one bill and not quite another hold.
    stack.ctl("budget", "set", tenant.team, "--limit", usd(price + hold - 1), "--window", "total",
              "--for-each", "user")
    assert ask(stack, tenant.secret).status == 402, "an account that was there"
    user = tenant.team + "/new"
    stack.ctl("user", "create", user)
    secret = tenant.create_key("k", parent=user)
    assert ask(stack, secret).status == 200, "its own budget is fresh"
    tenant.settled()
    reply = ask(stack, secret)
    assert reply.status == 402 and user in reply.headers["x-tollhouse-denied-by"]


# --- limits ----------------------------------------------------------------------------------------
def test_rpm_refills_as_it_said(stack, tenant):
    stack.ctl("limit", "set", tenant.key, "--rpm", "20")
    statuses = [ask(stack, tenant.secret, output=1).status for _ in range(21)]
    assert statuses[:20] == [200] * 20 and 429 in statuses[20:] + [ask(stack, tenant.secret).status]
    refused = wait_until(lambda: (r := ask(stack, tenant.secret, output=1)).status == 429 and r,
                         5, "a refusal")
    wait = int(refused.headers["retry-after"])
    assert 1 <= wait <= 4, "20 a minute is one every three seconds"
    wait_until(lambda: ask(stack, tenant.secret, output=1).status == 200, wait + 1, "the refill")


def test_tpm(stack, tenant):
    stack.ctl("limit", "set", tenant.user, "--tpm", "3000")
    statuses = [ask(stack, tenant.secret, output=500, max_tokens=500).status for _ in range(12)]
    assert statuses[0] == 200 and statuses[-1] == 429
    assert sum(500 for status in statuses if status == 200) <= 3000 + 500


def test_limits_hold_for_everything_below(stack, tenant):
    """A limit of the team counts the requests of all its keys together."""
    stack.ctl("limit", "set", tenant.team, "--rpm", "3")
    other = tenant.create_key("second")
    statuses = [ask(stack, secret, output=1).status
                for secret in (tenant.secret, other, tenant.secret, other)]
    assert statuses == [200, 200, 200, 429]


def test_zero_removes_a_limit(stack, tenant):
    stack.ctl("limit", "set", tenant.key, "--rpm", "1")
    ask(stack, tenant.secret, output=1)
    assert ask(stack, tenant.secret, output=1).status == 429
    stack.ctl("limit", "set", tenant.key, "--rpm", "0")
    assert ask(stack, tenant.secret, output=1).status == 200


# --- soft alerts -----------------------------------------------------------------------------------
def test_soft_alert_once_per_threshold(stack, tenant):
    price, hold = price_and_hold(tenant)
    with Receiver() as receiver:
        stack.ctl("webhook", "set", tenant.org, "--url", receiver.url, "--allow-private")
        tenant.set_budget("org", 20 * price + hold, "--soft", "50,80")
        while ask(stack, tenant.secret).status == 200:
            tenant.settled()
        wait_until(lambda: len(receiver.delivered()) >= 2, 15, "both alerts")
        for _ in range(5):
            ask(stack, tenant.secret)
        alerts = stack.ctl("alerts", "list", tenant.org)["alerts"]
        assert sorted(alert["threshold_pct"] for alert in alerts) == [50, 80]
        wait_until(lambda: all(alert["delivery"] == "delivered" for alert in
                               stack.ctl("alerts", "list", tenant.org)["alerts"]), what="delivery")
        bodies = receiver.delivered()
        assert len(bodies) == 2, "once per window and threshold"
        assert sorted(body["threshold_pct"] for body in bodies) == [50, 80]
        assert all(body["budget"] == tenant.org + "#total" for body in bodies)


def test_an_alert_outlives_failures_and_a_restart(fresh):
    tenant = fresh.tenant()
    price, hold = price_and_hold(tenant)
    secret = fresh.directory / "hook-secret"
    secret.write_text("shared")
    with Receiver(500) as receiver:
        port = receiver.port
        fresh.ctl("webhook", "set", tenant.org, "--url", receiver.url, "--allow-private",
                  "--secret-file", secret)
        tenant.set_budget("org", 2 * price + hold, "--soft", "1")
        assert ask(fresh, tenant.secret).status == 200
        wait_until(lambda: receiver.attempts() >= 1, 15, "a first attempt")
        assert not receiver.delivered()
    fresh.house.kill()
    with Receiver(503, 200, port=port) as receiver:
        fresh.house.start()
        wait_until(receiver.delivered, 60, "the alert after the restart")
        assert receiver.signed_by("shared")
        wait_until(lambda: fresh.ctl("alerts", "list", tenant.org)["alerts"][0]["delivery"]
                   == "delivered", what="the ledger to know")
        assert len(receiver.delivered()) == 1


def test_alert_without_a_webhook_is_recorded(stack, tenant):
    price, hold = price_and_hold(tenant)
    tenant.set_budget("org", 3 * price + hold, "--soft", "10")
    assert ask(stack, tenant.secret).status == 200
    tenant.settled()
    alert, = wait_until(lambda: stack.ctl("alerts", "list", tenant.org)["alerts"], what="the alert")
    assert alert["threshold_pct"] == 10 and alert["delivery"] == "none"


# --- accounts --------------------------------------------------------------------------------------
def test_moving_an_account_rewrites_no_past(stack, tenant):
    price, _ = price_and_hold(tenant)
    stack.ctl("team", "create", tenant.org + "/search")
    stack.ctl("user", "move", tenant.user, tenant.org + "/search/sarah")
    assert ask(stack, tenant.secret).status == 200
    tenant.settled()
    rows = {row["group"]["team"]: int(row["cost_nanousd"])
            for row in stack.ctl("spend", tenant.org, "--by", "team")["rows"]}
    assert rows == {tenant.team: price, tenant.org + "/search": price}


def test_deleting_a_team_stops_its_keys_and_keeps_its_history(stack, tenant):
    price, _ = price_and_hold(tenant)
    stack.ctl("team", "delete", tenant.team, "--yes")
    assert ask(stack, tenant.secret).status == 401
    assert tenant.spent() == price
    assert stack.ctl("ledger", "verify")["ok"]


@pytest.mark.parametrize("limit", ["-1", "0.0000000001", "1e3", "ten", "", "nan", "99999999999999"])
def test_bad_limits_are_refused_with_a_reason(stack, tenant, limit):
    done = stack.ctl.run("budget", "set", tenant.org, "--limit=" + limit)
    assert done.returncode in (1, 2) and done.stderr.strip()
    assert stack.ctl("budget", "list", tenant.org)["budgets"] == []


def test_zero_limit_refuses_everything(stack, tenant):
    tenant.set_budget("org", 0)
    assert ask(stack, tenant.secret).status == 402
    assert tenant.budget()["available_nanousd"] == 0


@pytest.mark.parametrize("arguments", [
    ("--window", "fortnight"), ("--window", "0d"), ("--window", "month", "--timezone", "Mars/Olympus"),
    ("--window", "7d", "--anchor", "2026-02-30"), ("--soft", "0"), ("--soft", "x"), ("--hard", "-5"),
    ("--mode", "maybe"), ("--bound", "loose"), ("--on-outage", "shrug"), ("--match", "novalue"),
    ("--for-each", "planet")])
def test_bad_budget_arguments_are_refused(stack, tenant, arguments):
    done = stack.ctl.run("budget", "set", tenant.org, "--limit", "5", *arguments)
    assert done.returncode in (1, 2) and done.stderr.strip()
    assert stack.ctl("budget", "list", tenant.org)["budgets"] == []


def test_a_raise_in_the_past_is_refused(stack, tenant):
    tenant.set_budget("org", DOLLAR)
    done = stack.ctl.run("budget", "raise", tenant.org, "--by", "5", "--until", "2020-01-01",
                         "--reason", "late")
    assert done.returncode in (1, 2) and "2020-01-01" in done.stderr
    assert tenant.budget()["available_nanousd"] == DOLLAR


@pytest.mark.parametrize("name", ["a b", "a/b/c/d/e", "", "ä", "..%2f", "x" * 65, "a\tb", "'; --",
                                  "<b>", "a,b", "#month"])
def test_strange_account_names_are_refused(stack, tenant, name):
    done = stack.ctl.run("team", "create", tenant.org + "/" + name)
    assert done.returncode in (1, 2) and done.stderr.strip()
