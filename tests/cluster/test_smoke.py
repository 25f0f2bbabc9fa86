"""The official SDKs against services in separate processes, over every edge."""

import anthropic
import openai
import pytest

import audit
from test_sdks import CLAUDE, GPT, say


@pytest.fixture
def capped(tenant):
    for level in ("org", "team", "user", "key"):
        tenant.set_budget(level, 100 * 10**9)
    return tenant


def test_openai_on_every_edge(capped):
    for edge in capped.stack.edges:
        client = openai.OpenAI(api_key=capped.secret, base_url=edge + "/v1", max_retries=0)
        answer = client.chat.completions.create(model=GPT, max_completion_tokens=100,
                                                messages=say("Hello", output=50))
        assert answer.usage.completion_tokens == 50
        stream = client.chat.completions.create(model=GPT, max_completion_tokens=100, stream=True,
                                                messages=say("Hello", output=30, chunks=10))
        assert "".join(chunk.choices[0].delta.content or "" for chunk in stream if chunk.choices)
    assert audit.check_exact(capped) == 2 * len(capped.stack.edges)


def test_anthropic_on_every_edge(capped):
    for edge in capped.stack.edges:
        client = anthropic.Anthropic(api_key=capped.secret, base_url=edge, max_retries=0)
        answer = client.messages.create(model=CLAUDE, max_tokens=100, messages=say("Hello", output=50))
        assert answer.usage.output_tokens == 50
        with client.messages.stream(model=CLAUDE, max_tokens=100,
                                    messages=say("Hello", output=30, chunks=10)) as stream:
            assert stream.get_final_text()
    assert audit.check_exact(capped) == 2 * len(capped.stack.edges)


def test_a_budget_is_refused_on_every_edge(tenant):
    tenant.set_budget("org", 1)
    for edge in tenant.stack.edges:
        with pytest.raises(openai.APIStatusError) as refused:
            openai.OpenAI(api_key=tenant.secret, base_url=edge + "/v1", max_retries=0).chat.completions.create(
                model=GPT, max_completion_tokens=100, messages=say("Hello"))
        assert refused.value.status_code == 402
        assert refused.value.response.headers["x-tollhouse-denied-by"].endswith("#total")
    assert tenant.billed() == 0


def test_a_revoked_key_stops_on_every_edge(tenant):
    stack = tenant.stack
    clients = [openai.OpenAI(api_key=tenant.secret, base_url=edge + "/v1", max_retries=0)
               for edge in stack.edges]
    for client in clients:
        client.chat.completions.create(model=GPT, max_completion_tokens=10, messages=say("Hello", output=5))
    stack.ctl("key", "revoke", tenant.key)
    for client in clients:
        with pytest.raises(openai.AuthenticationError):
            client.chat.completions.create(model=GPT, max_completion_tokens=10, messages=say("Hello"))
