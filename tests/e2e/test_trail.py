"""Who did what, and whether the record of it, and the journal, are as they were written."""

import json
import sqlite3

import load
from stack import usd
from test_sdks import GPT, say


def ask(stack, secret):
    return load.call_now(stack.edge, load.chat_request(secret, {
        "model": GPT, "max_tokens": 20, "messages": say("Hello", output=2)}))


def test_the_log_has_all_services_by_time_and_no_secret(stack, tenant):
    stack.ctl("budget", "set", tenant.team, "--limit", "5", "--window", "month")
    stack.ctl("budget", "set", tenant.team, "--limit", "7", "--window", "month")
    stack.ctl("price", "list")
    answer = stack.ctl("audit", "log", "--since", "1h")
    events = answer["events"]
    assert {event["service"] for event in events} == {"ledger", "router", "vault"}
    assert [event["at"] for event in events] == sorted((event["at"] for event in events), reverse=True)
    assert tenant.secret not in json.dumps(answer)
    change = next(event for event in events if event["resource"] == tenant.team + "#month")
    assert change["actor"] == "root" and change["method"] == "SetBudget" and change["result"] == "OK"
    assert json.loads(change["before"])["limit_nanousd"] == str(5 * 10**9)
    assert json.loads(change["after"])["limit_nanousd"] == str(7 * 10**9)
    mine = stack.ctl("audit", "log", "--resource", tenant.org)["events"]
    assert {event["method"] for event in mine} >= {"CreateAccount", "CreateKey", "SetBudget"}
    assert stack.ctl("audit", "log", "--actor", "nobody")["events"] == []


def test_refusals_are_on_record_and_a_lead_sees_his_part_only(stack, tenant, tmp_path):
    token = tmp_path / "lead.token"
    token.write_text(stack.ctl("token", "create", tenant.org + "-lead", "--role", "admin",
                               "--subtree", tenant.team)["secret"])
    lead = ("--token-file", token)
    refused = stack.ctl.run("budget", "set", tenant.team, "--limit", "1", *lead)
    assert refused.returncode == 1
    event = stack.ctl("audit", "log", "--actor", tenant.org + "-lead")["events"][0]
    assert event["result"] == "PERMISSION_DENIED FORBIDDEN" and event["subtree"] == tenant.team
    seen = stack.ctl("audit", "log", "--since", "1h", *lead)["events"]
    assert seen and all(e["account"] == tenant.team or e["account"].startswith(tenant.team + "/") for e in seen)
    assert stack.ctl.run("audit", "verify", *lead).returncode == 1, "the whole installation is not his"
    assert stack.ctl("holds", "list", tenant.team, *lead)["holds"] == []


def test_what_was_tampered_with_is_named(fresh, tmp_path):
    stack = fresh
    tenant = stack.tenant()
    for _ in range(3):
        assert ask(stack, tenant.secret).status == 200
    tenant.settled()
    heads, journal = tmp_path / "heads.json", tmp_path / "journal.json"
    assert stack.ctl("audit", "verify", "--save", heads)["ok"]
    assert stack.ctl("ledger", "verify", "--save", journal)["ok"]
    assert ask(stack, tenant.secret).status == 200
    tenant.settled()
    stack.ctl("team", "create", tenant.org + "/more")
    assert stack.ctl("audit", "verify", "--expect", heads)["ok"], "it has grown, no more"
    assert stack.ctl("ledger", "verify", "--expect", journal)["ok"]

    def tamper(database, *statements):
        with sqlite3.connect(stack.house.data / database) as db:
            for (trigger,) in db.execute("SELECT name FROM sqlite_master WHERE type = 'trigger'").fetchall():
                db.execute("DROP TRIGGER " + trigger)
            for statement in statements:
                db.execute(statement)

    tamper("vault.db", "UPDATE audit_event SET actor = 'nobody' WHERE sequence = 2")
    done = stack.ctl.run("audit", "verify")
    assert done.returncode == 1 and "vault: event 2 of chain 1" in done.stdout, done.stdout
    tamper("router.db", "DELETE FROM audit_event WHERE sequence = 1")
    assert "router: event 1 of chain 1 was removed" in stack.ctl.run("audit", "verify").stdout
    tamper("ledger.db", "UPDATE journal SET tags = 'x' WHERE rowid = (SELECT min(rowid) FROM journal)")
    done = stack.ctl.run("ledger", "verify")
    assert done.returncode == 1 and "was changed or put there" in done.stdout, done.stdout


def test_register_gives_a_key_a_budget_and_an_owner(stack, tenant):
    def argv(limit, owner="sarah@acme.example"):
        return ["register", "--owner", owner, "--team", tenant.team, "--use-case", "code-review",
                "--limit", usd(limit)]

    assert "secret" not in stack.ctl(*argv(10**9), "--dry-run")
    made = stack.ctl(*argv(10**9))
    assert made["created"] and made["key"]["path"] == tenant.team + "/code-review"
    assert made["key"]["owner"] == "sarah@acme.example" and made["budget"]["limit_nanousd"] == str(10**9)
    assert ask(stack, made["secret"]).status == 200
    again = stack.ctl(*argv(1))
    assert not again["created"] and "secret" not in again
    assert ask(stack, made["secret"]).status == 402, "the new limit is in force"
    other = stack.ctl.run(*argv(10**9, "bill@acme.example"))
    assert other.returncode == 1 and "sarah@acme.example" in other.stderr
    tenant.settled()
    assert tenant.entries()[0]["entry"]["tags"] == {"use_case": "code-review"}


def test_the_first_token_can_go(fresh, tmp_path):
    ctl = fresh.ctl
    assert ctl.run("token", "revoke", "root", "--yes").returncode == 1, "nobody else is owner yet"
    token = tmp_path / "paul.token"
    token.write_text(ctl("token", "create", "paul", "--role", "owner")["secret"])
    assert ctl.run("token", "revoke", "root", "--yes", "--token-file", token).returncode == 0
    assert ctl.run("org", "list").returncode == 1
    assert ctl.run("org", "list", "--token-file", token).returncode == 0
