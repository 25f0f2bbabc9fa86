"""Bounds before the call: a provider's counter asked before a budget refuses, and what that leaves."""

import anthropic
import openai
import pytest
from google import genai
from google.genai import types

import audit
from test_sdks import CLAUDE, anthropic_client, openai_client

TEXT = "word " * 8000  # 40,000 bytes, 10,000 tokens


def counted(tenant):
    """How many token counts the provider was asked for."""
    return sum("count" in record["path"] or "input_tokens" in record["path"]
               for record in tenant.records())


def test_a_count_lets_pass_what_bytes_would_refuse(tenant):
    # By bytes $0.043, by tokens $0.0108, and no more than $0.02 is left.
    tenant.set_budget("org", 20_000_000)
    answer = anthropic_client(tenant).messages.create(
        model=CLAUDE, max_tokens=100, messages=[{"role": "user", "content": TEXT}])
    assert answer.usage.input_tokens > 9_000
    assert counted(tenant) == 1
    assert audit.check_exact(tenant) == 1


def test_what_needs_no_count_asks_for_none(tenant):
    tenant.set_budget("org", 10**9)
    anthropic_client(tenant).messages.create(
        model=CLAUDE, max_tokens=100, messages=[{"role": "user", "content": TEXT}])
    assert counted(tenant) == 0


def test_what_no_count_could_save_is_refused_without_one(tenant):
    tenant.set_budget("org", 1_000)
    with pytest.raises(anthropic.APIStatusError) as refused:
        anthropic_client(tenant).messages.create(
            model=CLAUDE, max_tokens=5000, messages=[{"role": "user", "content": TEXT}])
    assert refused.value.status_code == 402
    assert not tenant.records()


def test_a_count_that_does_not_help_ends_in_the_same_refusal(tenant):
    tenant.set_budget("org", 5_000_000)
    with pytest.raises(anthropic.APIStatusError) as refused:
        anthropic_client(tenant).messages.create(
            model=CLAUDE, max_tokens=100, messages=[{"role": "user", "content": TEXT}])
    assert refused.value.status_code == 402
    assert counted(tenant) == 1 and tenant.billed() == 0


def test_responses_and_gemini_are_counted_too(tenant):
    tenant.set_budget("org", 6_000_000)
    answer = openai_client(tenant).responses.create(model="gpt-4o-mini", input=TEXT,
                                                    max_output_tokens=500)
    assert answer.usage.input_tokens > 9_000
    client = genai.Client(api_key=tenant.secret, vertexai=False, http_options=types.HttpOptions(
        base_url=tenant.stack.edge))
    answer = client.models.generate_content(
        model="gemini-2.5-flash", contents=TEXT, config=types.GenerateContentConfig(
            max_output_tokens=100))
    assert answer.usage_metadata.prompt_token_count > 9_000
    assert counted(tenant) == 2
    assert audit.check_exact(tenant) == 2


def test_an_embedding_is_bounded_by_its_text_alone(tenant):
    # At $0.02 per million: 800,000 nano-USD for these bytes, at most a window of 8,191 for each input.
    tenant.set_budget("org", 850_000)
    openai_client(tenant).embeddings.create(model="text-embedding-3-small", input="x" * 40_000)
    assert audit.check_exact(tenant) == 1
    with pytest.raises(openai.APIStatusError):
        openai_client(tenant).embeddings.create(model="text-embedding-3-small",
                                                input=["x" * 100_000] * 5)
