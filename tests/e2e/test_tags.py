"""Tag rules: a budget that matches on a tag is not dodged by leaving the tag out, in any dialect."""

import json

import pytest

import load
from stack import usd
from test_sdks import CLAUDE, GPT, say

TAGS = "x_tollhouse_tags"


def chat(secret, **headers):
    return load.chat_request(secret, {"model": GPT, "max_tokens": 20, "messages": say("Hello", output=2)},
                             **headers)


def responses(secret, **headers):
    path, sent, _ = chat(secret, **headers)
    return "/v1/responses", sent, json.dumps(
        {"model": GPT, "max_output_tokens": 20, "input": "Hello [[sim output=2]]"}).encode()


def messages(secret, **headers):
    return load.messages_request(
        secret, {"model": CLAUDE, "max_tokens": 20, "messages": say("Hello", output=2)}, **headers)


def gemini(secret, **headers):
    sent = {"host": "edge", "x-goog-api-key": secret, "content-type": "application/json",
            **{name.replace("_", "-"): value for name, value in headers.items()}}
    body = {"contents": [{"role": "user", "parts": [{"text": "Hello [[sim output=2]]"}]}],
            "generationConfig": {"maxOutputTokens": 20}}
    return "/v1beta/models/gemini-2.5-flash:generateContent", sent, json.dumps(body).encode()


def embeddings(secret, **headers):
    path, sent, _ = chat(secret, **headers)
    return "/v1/embeddings", sent, json.dumps({"model": "text-embedding-3-small", "input": "Hello"}).encode()


DIALECTS = [chat, responses, messages, gemini, embeddings]


def with_metadata(request, **tags):
    path, headers, body = request
    body = json.loads(body)
    body["labels" if "generateContent" in path else "metadata"] = tags
    return path, headers, json.dumps(body).encode()


@pytest.fixture
def ruled(stack):
    """An org whose requests must say batch or chat, with no money left for batch."""
    tenant = stack.tenant()
    stack.ctl("tags", "set", tenant.org, "--require", "use_case", "--allow", "use_case=batch,chat")
    stack.ctl("budget", "set", tenant.org, "--limit", usd(1), "--window", "total", "--match", "use_case=batch")
    return tenant


@pytest.mark.parametrize("make", DIALECTS, ids=lambda make: make.__name__)
def test_a_tag_budget_is_not_dodged(stack, ruled, make):
    def ask(request):
        return load.call_now(stack.edge, request)

    exhausted = 403 if make is gemini else 402
    assert ask(make(ruled.secret, **{TAGS: "use_case=batch"})).status == exhausted
    missing = ask(make(ruled.secret))
    assert missing.status == 400, missing.body
    assert b"use_case" in missing.body and b"batch, chat" in missing.body and ruled.org.encode() in missing.body
    for dodge in ("use_case=", "Use_Case=chat", "other=1"):
        assert ask(make(ruled.secret, **{TAGS: dodge})).status == 400, dodge
    for dodge in ("use_case=Batch", "use_case=batch2", "use_case=chat;", "use_case=chat batch"):
        refused = ask(make(ruled.secret, **{TAGS: dodge}))
        assert refused.status == 403, (dodge, refused.body)
        assert b"batch, chat" in refused.body
    # A name given twice keeps its first value; the body does not win over the header.
    assert ask(make(ruled.secret, **{TAGS: "use_case=batch,use_case=chat"})).status == exhausted
    if make is not embeddings:
        assert ask(with_metadata(make(ruled.secret, **{TAGS: "use_case=batch"}), use_case="chat")).status == exhausted
        assert ask(with_metadata(make(ruled.secret), use_case="batch")).status == exhausted
    assert ask(make(ruled.secret, **{TAGS: "use_case=chat"})).status == 200
    assert len(ruled.records()) == 1, "nothing that was refused reached the provider"


def test_a_pinned_tag_cannot_be_overridden(stack, ruled):
    pinned = ruled.create_key("pinned", "--tag", "use_case=batch")
    assert load.call_now(stack.edge, chat(pinned)).status == 402
    assert load.call_now(stack.edge, chat(pinned, **{TAGS: "use_case=chat"})).status == 402
    assert load.call_now(stack.edge, with_metadata(chat(pinned), use_case="chat")).status == 402
    stray = ruled.create_key("stray", "--tag", "use_case=other")
    assert load.call_now(stack.edge, chat(stray)).status == 403
    assert ruled.records() == []


def test_rules_are_in_force_at_once_and_come_from_documents(stack, tmp_path):
    tenant = stack.tenant()
    assert load.call_now(stack.edge, chat(tenant.secret)).status == 200
    document = tmp_path / "tags.yaml"
    document.write_text("kind: Tags\nname: %s\nspec: {require: [ticket], allow: {use_case: [a, b]}}\n" % tenant.team)
    assert stack.ctl("apply", "-f", document)["created"] == 1
    assert load.call_now(stack.edge, chat(tenant.secret)).status == 400
    assert load.call_now(stack.edge, chat(tenant.secret, **{TAGS: "ticket=PAY-1"})).status == 200
    assert load.call_now(stack.edge, chat(tenant.secret, **{TAGS: "ticket=PAY-1,use_case=c"})).status == 403
    assert stack.ctl("apply", "-f", document)["unchanged"] == 1
    exported = stack.ctl.run("export", tenant.org).stdout
    assert "kind: Tags" in exported
    assert stack.ctl("tags", "list", tenant.org)["rules"][0]["path"] == tenant.team
    stack.ctl("tags", "delete", tenant.team)
    assert load.call_now(stack.edge, chat(tenant.secret)).status == 200
