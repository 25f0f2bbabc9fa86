"""tollctl as people and scripts use it: help, exit codes, stable JSON, declarative files."""

import json
import re

import pytest

import load
from stack import usd
from test_sdks import GPT, say

NOUNS = ["org", "team", "user", "key", "budget", "limit", "provider", "price", "model", "apply",
         "export", "spend", "holds", "suspense", "explain", "ledger", "audit", "webhook", "alerts"]


def test_help_of_every_noun(stack):
    top = stack.ctl.run("--help")
    assert top.returncode == 0
    for noun in NOUNS:
        assert re.search(r"\b%s\b" % noun, top.stdout), "%s is not in tollctl --help" % noun
        done = stack.ctl.run(noun, "--help")
        assert done.returncode == 0 and "tollctl " + noun in done.stdout, noun
        assert "xample" in done.stdout, "%s --help has no example" % noun


@pytest.mark.parametrize("argv", [("frobnicate",), ("budget", "set"), ("budget", "frob"), ("org", "create"),
                                  ("budget", "set", "x", "--nonsense"), ("key", "create", "x"),
                                  ("spend", "--output", "papyrus")])
def test_usage_errors_exit_2(stack, argv):
    done = stack.ctl.run(*argv)
    assert done.returncode == 2 and done.stderr.strip() and not done.stdout.strip()


@pytest.mark.parametrize("argv", [("org", "show", "nobody"), ("budget", "show", "nobody"),
                                  ("team", "create", "nobody/team"), ("explain", "no-such-request"),
                                  ("key", "revoke", "nobody/key", "--yes")])
def test_failures_exit_1_and_say_what(stack, argv):
    done = stack.ctl.run(*argv)
    assert done.returncode == 1, done
    assert "nobody" in done.stderr or "no-such-request" in done.stderr
    assert "Traceback" not in done.stderr and "grpc" not in done.stderr.lower()


def test_no_server_says_what_to_do(stack):
    done = stack.ctl.run("org", "list", env={"TOLLHOUSE_SERVER": "127.0.0.1:1"})
    assert done.returncode == 1 and "127.0.0.1:1" in done.stderr
    done = stack.ctl.run("org", "list", env={"TOLLHOUSE_TOKEN_FILE": "no/such/file"})
    assert done.returncode in (1, 2) and "no/such/file" in done.stderr


def test_wrong_token_is_refused(stack, tmp_path):
    wrong = tmp_path / "token"
    wrong.write_text("wrong")
    done = stack.ctl.run("org", "list", env={"TOLLHOUSE_TOKEN_FILE": str(wrong)})
    assert done.returncode == 1 and "token" in done.stderr.lower()


def test_the_secret_is_printed_once(stack, tenant):
    answer = stack.ctl("key", "create", tenant.user, "--name", "ci", "--expires", "90d")
    assert answer["key"]["path"] == tenant.user + "/ci" and answer["key"]["id"]
    assert answer["secret"].startswith("sk-toll-")
    shown = json.dumps(stack.ctl("key", "show", tenant.user + "/ci"))
    listed = stack.ctl.run("key", "list", tenant.user).stdout
    assert answer["secret"] not in shown + listed
    log = stack.house.log.read_text(errors="replace")
    assert answer["secret"] not in log


def test_budget_json_shape(stack, tenant):
    tenant.set_budget("team", 800 * 10**9, "--timezone", "Europe/Berlin", "--soft", "80,110",
                      window="month")
    budget, = stack.ctl("budget", "show", tenant.team)["budgets"]
    assert budget["id"] == tenant.team + "#month" and budget["path"] == tenant.team
    assert re.fullmatch(r"\d{4}-\d{2}@Europe/Berlin", budget["period"])
    assert budget["limit_nanousd"] == "800000000000" and budget["spent_nanousd"] == "0"
    assert budget["held_nanousd"] == budget["suspense_nanousd"] == "0"
    assert budget["available_nanousd"] == "800000000000"
    assert budget["mode"] == "enforce" and budget["hard_pct"] == 100 and budget["match"] == {}
    assert re.fullmatch(r"\d{4}-\d{2}-\d{2}T\d{2}:\d{2}:\d{2}(\.\d+)?Z", budget["resets_at"])
    again = tenant.set_budget("team", 900 * 10**9, "--timezone", "Europe/Berlin", window="month")
    assert again is not None
    budgets = stack.ctl("budget", "list", tenant.org)["budgets"]
    assert [b["limit_nanousd"] for b in budgets] == ["900000000000"], "an upsert, not a second one"


def test_spend_shape_and_groups(stack, tenant):
    for output in (10, 20):
        assert load.call_now(stack.edge, load.chat_request(tenant.secret, {
            "model": GPT, "max_tokens": 50, "messages": say("Hello", output=output)})).status == 200
    tenant.settled()
    spend = stack.ctl("spend", tenant.org, "--by", "team,model")
    row, = spend["rows"]
    assert row["group"] == {"team": tenant.team, "model": GPT}
    assert row["requests"] == "2" and row["output_tokens"] == "30"
    assert row["cost_nanousd"] == spend["total"]["cost_nanousd"] == str(tenant.billed())
    assert stack.ctl("spend", tenant.org, "--since", "1h")["total"]["requests"] == "2"
    for by in ("team", "user", "key", "model", "provider"):
        assert stack.ctl("spend", tenant.org, "--by", by)["total"]["requests"] == "2"


@pytest.mark.parametrize("output", ["table", "json", "yaml", "csv"])
def test_every_output_format(stack, tenant, output):
    tenant.set_budget("org", 5 * 10**9)
    assert load.call_now(stack.edge, load.chat_request(tenant.secret, {
        "model": GPT, "max_tokens": 50, "messages": say("Hello", output=10)})).status == 200
    tenant.settled()
    for argv in (("budget", "list", tenant.org), ("spend", tenant.org), ("key", "list", tenant.org),
                 ("provider", "list"), ("org", "list")):
        done = stack.ctl.run(*argv, "--output", output)
        assert done.returncode == 0 and done.stdout.strip(), (argv, done.stderr)
    if output == "table":
        done = stack.ctl.run("budget", "list", tenant.org)
        assert tenant.org in done.stdout and "nanousd" not in done.stdout.lower(), "people read dollars"


def test_ledger_verify_shape(stack):
    verified = stack.ctl("ledger", "verify")
    assert verified["ok"] is True and verified["problems"] == [] and int(verified["entries"]) >= 0


def test_audit_log_names_what_was_done(stack, tenant):
    stack.ctl("key", "revoke", tenant.key, "--yes")
    log = json.dumps(stack.ctl("audit", "log"))
    assert tenant.key in log and "revoke" in log.lower()
    assert tenant.secret not in log


def test_price_and_model_lists(stack):
    prices = stack.ctl("price", "list")["prices"]
    assert len(prices) > 1000, "the whole price book"
    models = json.dumps(stack.ctl("model", "list"))
    assert GPT in models
    shown = stack.ctl("price", "show", GPT, "--vendor", "openai")
    assert "150000000" in json.dumps(shown), "0.15 USD per million tokens"


APPLIED = """
kind: Organization
name: {org}
spec: {{owner: cfo@example.com}}
---
kind: Team
name: {org}/web
spec: {{tags: {{cost: web}}}}
---
kind: Budget
name: {org}/web
spec: {{window: month, limit: "800", timezone: Europe/Berlin, soft: [50, 80]}}
---
kind: Limit
name: {org}/web
spec: {{rpm: 100}}
"""


def test_apply_and_export_round_trip(stack, tmp_path):
    document = tmp_path / "acme.yaml"
    document.write_text(APPLIED.format(org="declared"))
    dry = stack.ctl.run("apply", "-f", document, "--dry-run")
    assert dry.returncode == 0 and stack.ctl.run("org", "show", "declared").returncode == 1
    for _ in range(2):
        done = stack.ctl.run("apply", "-f", document)
        assert done.returncode == 0, done.stderr
    budget, = stack.ctl("budget", "show", "declared/web")["budgets"]
    assert budget["limit_nanousd"] == "800000000000"
    first = stack.ctl.run("export", "--output", "yaml")
    assert first.returncode == 0 and "declared/web" in first.stdout
    again = stack.ctl.run("apply", "-f", "-", stdin=first.stdout)
    assert again.returncode == 0, again.stderr
    assert stack.ctl.run("export", "--output", "yaml").stdout == first.stdout


def test_apply_names_what_is_wrong(stack, tmp_path):
    for text, word in (("kind: Planet\nname: x\nspec: {}\n", "Planet"),
                       ("kind: Budget\nname: x\nspec: {limit: '5', limt: '5'}\n", "limt"),
                       ("kind: Budget\nname: x\nspec: {limit: 5.5}\n", "limit"),
                       ("{[", "")):
        document = tmp_path / "bad.yaml"
        document.write_text(text)
        done = stack.ctl.run("apply", "-f", document)
        assert done.returncode in (1, 2) and word in done.stderr, done


def test_money_is_exact_to_the_nano(stack, tenant):
    for text, nanos in (("0.000000001", "1"), ("123456789.123456789", "123456789123456789"),
                        ("4000000000", "4000000000000000000")):
        stack.ctl("budget", "set", tenant.org, "--limit", text, "--window", "total")
        budget, = stack.ctl("budget", "show", tenant.org)["budgets"]
        assert budget["limit_nanousd"] == nanos
    assert usd(1) == "0.000000001"


def test_suspense_is_listed_and_resolved(stack, tenant):
    tenant.set_budget("org", 10**9)
    load.call_now(stack.edge, load.chat_request(tenant.secret, {
        "model": GPT, "max_tokens": 50, "messages": say("Hello", output=20, fault="cut_before_head")}))
    tenant.settled()
    row, = stack.ctl("suspense", "list", tenant.org)["rows"]
    assert int(row["amount_nanousd"]) > 0
    stack.ctl("suspense", "resolve", row["hold_id"], "--cost", "0.000001", "--reason", "invoice")
    assert stack.ctl("suspense", "list", tenant.org)["rows"] == []
    budget = tenant.budget()
    assert budget["spent_nanousd"] == 1000 and budget["suspense_nanousd"] == 0
    assert stack.ctl("ledger", "verify")["ok"]
