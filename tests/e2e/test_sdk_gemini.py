"""The google-genai SDK with nothing changed but base URL and key."""

import asyncio

import pydantic
import pytest
from google import genai
from google.genai import errors, types

import audit

MODEL, EMBEDDER = "gemini-2.5-flash", "gemini-embedding-001"


class City(pydantic.BaseModel):
    name: str
    inhabitants: int


CLIENTS = []  # a client that nobody names is closed


def client(tenant, key=None):
    CLIENTS.append(genai.Client(api_key=key or tenant.secret, vertexai=False,
                                http_options=types.HttpOptions(base_url=tenant.stack.edge)))
    return CLIENTS[-1]


def say(text, **directives):
    words = " ".join("%s=%s" % item for item in directives.items())
    return "%s [[sim %s]]" % (text, words) if words else text


def at_most(tokens, **more):
    return types.GenerateContentConfig(max_output_tokens=tokens, **more)


@pytest.fixture
def capped(tenant):
    """A tenant with a budget at every level: the whole path is held and settled."""
    for level in ("org", "team", "user", "key"):
        tenant.set_budget(level, 100 * 10**9)
    return tenant


def test_content(capped):
    answer = client(capped).models.generate_content(
        model=MODEL, contents=say("Hello", output=50, reasoning=20, cached=5), config=at_most(100))
    assert answer.text and answer.usage_metadata.thoughts_token_count == 20
    assert audit.check_exact(capped) == 1


def test_streamed_content(capped):
    chunks = list(client(capped).models.generate_content_stream(
        model=MODEL, contents=say("Hello", output=60, chunks=12), config=at_most(100)))
    assert "".join(chunk.text or "" for chunk in chunks)
    assert chunks[-1].usage_metadata.candidates_token_count == 60
    assert audit.check_exact(capped) == 1


def test_many_at_once(capped):
    async def run():
        models = client(capped).aio.models
        async def one(n):
            answer = await models.generate_content(
                model=MODEL, contents=say("Hello", output=20 + n), config=at_most(100))
            return answer.usage_metadata.candidates_token_count
        return await asyncio.gather(*map(one, range(20)))
    assert asyncio.run(run()) == [20 + n for n in range(20)]
    assert audit.check_exact(capped) == 20


def test_functions(capped):
    def get_weather(city: str) -> str:
        """Weather of a city."""
        return "sunny"
    off = types.AutomaticFunctionCallingConfig(disable=True)
    answer = client(capped).models.generate_content(
        model=MODEL, contents=say("Weather?", output=30, tool="get_weather"),
        config=at_most(100, tools=[get_weather], automatic_function_calling=off))
    call, = answer.function_calls
    assert call.name == "get_weather" and call.args == {"city": "sample"}
    assert audit.check_exact(capped) == 1


def test_structured_output(capped):
    answer = client(capped).models.generate_content(
        model=MODEL, contents=say("A city", output=30),
        config=at_most(100, response_mime_type="application/json", response_schema=City))
    assert answer.parsed == City(name="sample", inhabitants=1)
    assert audit.check_exact(capped) == 1


def test_embeddings(capped):
    answer = client(capped).models.embed_content(model=EMBEDDER, contents=["one", "two"])
    assert len(answer.embeddings) == 2
    assert audit.check_exact(capped) == 1


def test_counting_is_free(capped):
    counted = client(capped).models.count_tokens(model=MODEL, contents="Hello there")
    assert counted.total_tokens > 0
    audit.check_exact(capped)
    assert capped.billed() == 0 and capped.budget()["spent_nanousd"] == 0


def test_models(capped):
    names = [model.name for model in client(capped).models.list()]
    assert "models/" + MODEL in names


def test_exhausted_budget_is_403_with_a_quota_failure(tenant):
    tenant.set_budget("org", 1000)
    with pytest.raises(errors.ClientError) as refused:
        client(tenant).models.generate_content(model=MODEL, contents="Hello", config=at_most(100))
    assert refused.value.code == 403 and refused.value.status == "PERMISSION_DENIED"
    kinds = [detail["@type"] for detail in refused.value.details["error"]["details"]]
    assert any(kind.endswith("QuotaFailure") for kind in kinds)
    assert not [record for record in tenant.records() if record["billed"]]


def test_unknown_model_and_key(capped):
    with pytest.raises(errors.ClientError) as refused:
        client(capped).models.generate_content(model="gemini-none", contents="Hello")
    assert refused.value.code == 404
    with pytest.raises(errors.ClientError) as refused:
        client(capped, key="nobody").models.generate_content(model=MODEL, contents="Hello")
    assert refused.value.code == 400


def test_stored_content_of_others_is_not_found(capped):
    with pytest.raises(errors.ClientError) as refused:
        client(capped).models.generate_content(
            model=MODEL, contents="Hello", config=at_most(100, cached_content="cachedContents/x1"))
    assert refused.value.code == 404
    with pytest.raises(errors.ClientError) as refused:
        client(capped).caches.create(model=MODEL, config=types.CreateCachedContentConfig(
            contents="Hello", ttl="60s"))
    assert refused.value.code == 403
