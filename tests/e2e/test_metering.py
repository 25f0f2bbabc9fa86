"""Metering end to end: bounds against bills, estimates and their correction, prices by date, hours and
contract."""

import datetime
import http.client
import json
import statistics

import openai
import pytest

import audit
import load
import stack as stacks
from test_sdks import CLAUDE, GPT, openai_client, say

ROOM = 500 * 10**9
CALLS = 400 if stacks.LONG else 40


# --- bounds

def text_of(rng):
    """Words, tool results, code, other scripts: 10 bytes to 60 KB."""
    kind = rng.choice(["word ", "x" * 79 + "\n", "{\"key\": [1, 2.5, null]}, ", "\u0434\u0430 ", "\u6f22\u5b57", "\U0001f600 "])
    return kind * max(1, int(10 ** rng.uniform(1, 4.7)) // len(kind.encode()))


def random_call(rng, dialect):
    """Path and body of a call whose provider bills as much as it ever may: every token of output that
    was declared, and input up to one token per byte."""
    texts = [text_of(rng) for _ in range(rng.randrange(1, 4))]
    size = sum(len(text.encode()) for text in texts)
    maximum = rng.choice([1, 16, 256, 4096, 16_000])
    tokens = int(size * rng.choice([0.2, 0.25, 0.31, 0.37, 1.0])) + rng.choice([0, 8, 332, 494])
    cached, written = rng.choice([(0, 0), (tokens // 2, 0), (0, tokens // 3), (tokens // 2, tokens // 4)])
    directive = "input=%d output=%d" % (max(1, tokens), maximum)
    stream = rng.random() < 0.5
    tools = [{"name": "t%d" % n, "description": "d" * rng.randrange(300)} for n in range(rng.randrange(3))]
    schema = {"type": "object", "properties": {"a": {"type": "string"}}}
    if dialect == "messages":
        control = rng.choice([None, {"type": "ephemeral"}, {"type": "ephemeral", "ttl": "1h"}])
        if control:
            directive += " cached=%d %s=%d" % (
                cached, "cache_write_1h" if control.get("ttl") else "cache_write", written)
        blocks = [{"type": "text", "text": text} for text in [*texts, "go [[sim %s]]" % directive]]
        if control:
            blocks[-1]["cache_control"] = control
        return "/v1/messages", {
            "model": CLAUDE, "max_tokens": maximum, "stream": stream,
            "messages": [{"role": "user", "content": blocks}],
            **({"tools": [{**tool, "input_schema": schema} for tool in tools]} if tools else {})}
    directive += " cached=%d" % cached
    texts.append("go [[sim %s]]" % directive)
    if dialect == "responses":
        return "/v1/responses", {"model": GPT, "max_output_tokens": maximum, "stream": stream, "input": [
            {"role": "user", "content": text} for text in texts]}
    if dialect == "gemini":
        return "/v1beta/models/gemini-2.5-flash:" + (
            "streamGenerateContent?alt=sse" if stream else "generateContent"), {
                "contents": [{"role": "user", "parts": [{"text": text} for text in texts]}],
                "generationConfig": {"maxOutputTokens": maximum}}
    return "/v1/chat/completions", {
        "model": GPT, "max_tokens": maximum, "stream": stream, "n": rng.choice([1, 1, 3]),
        "messages": [{"role": "user", "content": text} for text in texts],
        **({"tools": [{"type": "function", "function": {**tool, "parameters": schema}} for tool in tools]}
           if tools else {})}


@pytest.mark.parametrize("dialect", ["chat", "responses", "messages", "gemini"])
def test_no_bill_is_above_its_strict_bound(stack, tenant, rng, capsys, dialect):
    """Holds of a strict and of a tight budget against the bills of a provider that takes all it may."""
    tenant.set_budget("org", ROOM)
    tenant.set_budget("team", ROOM, "--bound", "tight")
    connection = http.client.HTTPConnection(stack.edge.split("//")[1], timeout=60)
    for _ in range(CALLS):
        path, body = random_call(rng, dialect)
        connection.request("POST", path, json.dumps(body), {
            "authorization": "Bearer " + tenant.secret, "content-type": "application/json",
            **({"anthropic-version": "2023-06-01"} if dialect == "messages" else {})})
        answer = connection.getresponse()
        text = answer.read()
        assert answer.status == 200, (path, text[:300])
    tenant.settled()
    bills = {record["hold_id"]: int(record["cost_nanousd"]) for record in tenant.records()}
    tight_id = tenant.budget("team")["budget_id"]
    ratios = {"strict": [], "tight": []}
    for entry in tenant.entries():
        held = {"strict": int(entry["entry"]["hold_nanousd"])}
        for budget in entry["entry"]["budgets"]:
            if budget["budget_id"] == tight_id:
                held["tight"] = int(budget["amount_nanousd"])
        bill = bills[entry["hold_id"]]
        assert audit.cost(entry) == bill
        for bound, amount in held.items():
            ratios[bound].append(amount / bill)
    with capsys.disabled():
        for bound, of in ratios.items():
            over = [1 / ratio for ratio in of if ratio < 1]
            print("\n%s %s: %d of %d bills above the bound%s; bound/bill median %.2f, p90 %.2f" % (
                dialect, bound, len(over), len(of), ", by %.2fx at most" % max(over) if over else "",
                statistics.median(of), sorted(of)[int(0.9 * len(of))]), end="")
    assert len(ratios["strict"]) == CALLS and len(ratios["tight"]) == CALLS
    assert min(ratios["strict"]) >= 1


# --- what the provider does not say

def explained(tenant, request_id):
    return tenant.stack.ctl("explain", request_id)["attempts"]


@pytest.mark.parametrize("fault,stream", [("no_usage", False), ("no_usage", True), ("cut", True)])
def test_a_silent_provider_is_charged_an_estimate_until_the_truth_comes(tenant, fault, stream):
    tenant.set_budget("org", ROOM)
    request = load.chat_request(tenant.secret, {
        "model": GPT, "max_tokens": 2000, "stream": stream,
        "messages": say("Hello", output=400, chunks=20, cut_after=10, fault=fault)})
    reply = load.call_now(tenant.stack.edge, request)
    assert reply.status == 200
    tenant.settled()
    first, row = explained(tenant, reply.headers["x-tollhouse-request-id"])
    assert (first["state"], row["state"]) == ("estimated", "suspense")
    assert first["usage_source"] == "estimated"
    estimate = int(first["cost_nanousd"])
    assert estimate > 0 and tenant.spent() == estimate
    budget = tenant.budget()
    assert budget["spent_nanousd"] == estimate
    assert budget["spent_nanousd"] + budget["suspense_nanousd"] == int(first["hold_nanousd"])
    assert tenant.billed() <= budget["spent_nanousd"] + budget["suspense_nanousd"]

    tenant.stack.ctl("ledger", "adjust", first["hold_id"], "--cost", stacks.usd(tenant.billed()),
                     "--reason", "the provider's usage record")
    attempts = explained(tenant, reply.headers["x-tollhouse-request-id"])
    assert [(attempt["state"], attempt["reversing"]) for attempt in attempts] == [
        ("estimated", False), ("settled", True), ("settled", False)]
    budget = tenant.budget()
    assert (budget["spent_nanousd"], budget["suspense_nanousd"]) == (tenant.billed(), 0)
    assert tenant.spent() == tenant.billed()
    assert tenant.stack.ctl("ledger", "verify")["ok"]


# --- prices

def test_contract_prices_of_one_org(stack):
    """An org's own price counts for it alone, from its date on."""
    for contract, prices in ((True, (100, 500)), (False, (150, 600))):
        tenant = stack.tenant()
        tenant.set_budget("org", ROOM)
        if contract:
            stack.ctl("price", "set", GPT, "--vendor", tenant.org + ":openai", "--input-price", "0.1",
                      "--output-price", "0.5", "--max-input", "128000", "--max-output", "16384")
        answer = openai_client(tenant).chat.completions.create(
            model=GPT, max_tokens=50, messages=say("Hello", output=20))
        tenant.settled()
        entry, = tenant.entries()
        assert audit.cost(entry) == (answer.usage.prompt_tokens * prices[0]
                                     + answer.usage.completion_tokens * prices[1])


def test_off_peak_hours(stack, tenant):
    """The hours of a price's own discount begin with the request."""
    tenant.set_budget("org", ROOM)
    now = datetime.datetime.now(datetime.timezone.utc)
    hours = lambda first: "%02d:00-%02d:00" % ((now.hour + first) % 24, (now.hour + first + 3) % 24)
    for model, window, factor in (("off-peak", hours(-1), 2), ("on-peak", hours(6), 1)):
        book = ("price openai %s mode=chat max_input=100000 max_output=10000 input=2 output=8 "
                "off_peak=%s x.hours:off_peak=0.5\n" % (model, window))
        stack.ctl("price", "import", "-", stdin=book)
        answer = openai_client(tenant).chat.completions.create(
            model=model, max_tokens=50, messages=say("Hello", output=20))
        tenant.settled()
        entry = tenant.entries()[-1]
        assert audit.cost(entry) * factor == (
            2000 * answer.usage.prompt_tokens + 8000 * answer.usage.completion_tokens)


def test_a_new_price_is_shown_before_it_counts(stack, tmp_path):
    """diff and --dry-run change nothing; --at shows each day's price."""
    book = tmp_path / "book"
    book.write_text("price openai diffed mode=chat input=2 output=8\n")
    stack.ctl("price", "import", str(book))
    book.write_text("price openai diffed mode=chat input=2 output=8\n"
                    "price openai diffed from=2099-07-01 mode=chat input=1 output=8\n"
                    "price openai brand-new mode=chat input=3 output=9\n")
    diff = stack.ctl("price", "diff", str(book))
    assert json.dumps(diff).count("diffed") >= 1 and "brand-new" in json.dumps(diff)
    dry = stack.ctl("price", "import", str(book), "--dry-run")
    assert int(dry["added"]) == 2
    with pytest.raises(stacks.TollctlError):
        stack.ctl("price", "show", "brand-new")
    stack.ctl("price", "import", str(book))
    assert stack.ctl("price", "diff", str(book)) != diff

    def shown(*at):
        return json.dumps(stack.ctl("price", "show", "diffed", "--vendor", "openai", *at)["prices"])
    assert "2099" not in shown() and "2099" not in shown("--at", "2099-06-30")
    assert "2099" in shown("--at", "2099-07-02")
