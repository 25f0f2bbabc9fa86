"""The official SDKs with nothing changed but base URL and key."""

import asyncio

import anthropic
import openai
import pydantic
import pytest

import audit

GPT, CLAUDE = "gpt-4o-mini", "claude-haiku-4-5"
WEATHER = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
OPENAI_TOOLS = [{"type": "function", "function": {
    "name": "get_weather", "description": "Weather of a city", "parameters": WEATHER}}]
ANTHROPIC_TOOLS = [{"name": "get_weather", "description": "Weather of a city",
                    "input_schema": WEATHER}]


def openai_client(tenant, kind=openai.OpenAI, **options):
    return kind(api_key=tenant.secret, base_url=tenant.stack.edge + "/v1", max_retries=0, **options)


def anthropic_client(tenant, kind=anthropic.Anthropic, **options):
    return kind(api_key=tenant.secret, base_url=tenant.stack.edge, max_retries=0, **options)


def say(text, **directives):
    """A user message whose [[sim ...]] directive tells the simulated provider what to do."""
    words = " ".join("%s=%s" % item for item in directives.items())
    return [{"role": "user", "content": "%s [[sim %s]]" % (text, words) if words else text}]


@pytest.fixture
def capped(tenant):
    """A tenant with a budget at every level: the whole path is held and settled."""
    for level in ("org", "team", "user", "key"):
        tenant.set_budget(level, 100 * 10**9)
    return tenant


def test_openai_sync(capped):
    raw = openai_client(capped).chat.completions.with_raw_response.create(
        model=GPT, messages=say("Hello", output=50), max_completion_tokens=100)
    answer = raw.parse()
    assert answer.choices[0].message.content
    assert answer.usage.completion_tokens == 50
    assert audit.check_exact(capped) == 1
    record, = capped.records()
    assert raw.headers["x-tollhouse-cost-nanousd"] == record["cost_nanousd"]
    assert raw.headers["x-tollhouse-model"].endswith(GPT)
    assert raw.headers["x-tollhouse-request-id"]
    remaining = int(raw.headers["x-tollhouse-budget-remaining-nanousd"])
    assert 0 < remaining <= 100 * 10**9


def test_explain_tells_what_a_request_cost(capped):
    raw = openai_client(capped).chat.completions.with_raw_response.create(
        model=GPT, messages=say("Hello", output=50), max_completion_tokens=100,
        extra_headers={"x-tollhouse-request-id": "my-request-1"})
    assert raw.headers["x-tollhouse-request-id"] == "my-request-1"
    capped.settled()
    explained = capped.stack.ctl("explain", "my-request-1")
    record, = capped.records()
    assert explained["account"] == capped.key
    assert explained["model"] == GPT and explained["provider"] == "sim"
    assert explained["cost_nanousd"] == record["cost_nanousd"]
    assert int(explained["hold_nanousd"]) >= int(explained["cost_nanousd"])
    assert explained["usage_source"] == "final"
    assert explained["price_version"]
    assert int(explained["usage"]["output_tokens"]) == 50
    assert int(explained["usage"]["input_tokens"]) == record["usage"]["input_tokens"]


@pytest.mark.parametrize("include_usage", [True, False])
def test_openai_stream(capped, include_usage):
    options = {"stream_options": {"include_usage": True}} if include_usage else {}
    text, usages, empty = "", [], 0
    for chunk in openai_client(capped).chat.completions.create(
            model=GPT, messages=say("Hello", output=60, chunks=12), stream=True, max_tokens=100,
            **options):
        if chunk.usage:
            usages.append(chunk.usage)
        if chunk.choices:
            text += chunk.choices[0].delta.content or ""
        else:
            empty += 1
    assert text
    if include_usage:
        assert [usage.completion_tokens for usage in usages] == [60]
    else:
        assert not usages and not empty, "the edge's own usage chunk must not reach the client"
    assert audit.check_exact(capped) == 1


def test_openai_async_many(capped):
    async def run():
        async with openai_client(capped, openai.AsyncOpenAI) as client:
            async def plain(n):
                answer = await client.chat.completions.create(
                    model=GPT, messages=say("Hello %d" % n, output=20 + n), max_tokens=100)
                return answer.usage.completion_tokens
            async def streamed(n):
                tokens = None
                async for chunk in await client.chat.completions.create(
                        model=GPT, messages=say("Hello %d" % n, output=20 + n, chunks=5),
                        stream=True, max_tokens=100, stream_options={"include_usage": True}):
                    tokens = chunk.usage.completion_tokens if chunk.usage else tokens
                return tokens
            return await asyncio.gather(*(plain(n) if n % 2 else streamed(n) for n in range(20)))
    assert asyncio.run(run()) == [20 + n for n in range(20)]
    assert audit.check_exact(capped) == 20


def test_openai_tools(capped):
    client = openai_client(capped)
    answer = client.chat.completions.create(
        model=GPT, messages=say("Weather in Paris?", output=30, tool="get_weather"),
        tools=OPENAI_TOOLS, max_tokens=100)
    call, = answer.choices[0].message.tool_calls
    assert call.function.name == "get_weather"
    follow = client.chat.completions.create(model=GPT, tools=OPENAI_TOOLS, max_tokens=100, messages=[
        {"role": "user", "content": "Weather in Paris?"}, answer.choices[0].message,
        {"role": "tool", "tool_call_id": call.id, "content": "sunny"}])
    assert follow.choices[0].message.content
    assert audit.check_exact(capped) == 2


def test_openai_streamed_tools(capped):
    name = ""
    for chunk in openai_client(capped).chat.completions.create(
            model=GPT, messages=say("Weather in Paris?", output=30, tool="get_weather"),
            tools=OPENAI_TOOLS, stream=True, max_tokens=100):
        for choice in chunk.choices:
            for call in choice.delta.tool_calls or []:
                name += call.function.name or ""
    assert name == "get_weather"
    assert audit.check_exact(capped) == 1


class City(pydantic.BaseModel):
    name: str
    inhabitants: int


def test_openai_structured_output(capped):
    answer = openai_client(capped).chat.completions.parse(
        model=GPT, messages=say("A city", output=30, tool="City"), max_tokens=100,
        tools=[openai.pydantic_function_tool(City)])
    call, = answer.choices[0].message.tool_calls
    assert isinstance(call.function.parsed_arguments, City)
    assert audit.check_exact(capped) == 1


def test_openai_streaming_helper(capped):
    with openai_client(capped).chat.completions.stream(
            model=GPT, messages=say("Hello", output=60, chunks=12), max_tokens=100) as stream:
        text = "".join(event.delta for event in stream if event.type == "content.delta")
        final = stream.get_final_completion()
    assert text and text == final.choices[0].message.content
    assert audit.check_exact(capped) == 1


def test_openai_long_body(capped):
    story = "All work and no play. " * 30_000
    answer = openai_client(capped).chat.completions.create(
        model="gpt-5-mini", messages=[{"role": "system", "content": story}, *say("Hi", output=10)],
        max_completion_tokens=100)
    assert answer.usage.prompt_tokens > 150_000
    assert audit.check_exact(capped) == 1


def test_openai_models(capped):
    names = [model.id for model in openai_client(capped).models.list()]
    assert GPT in names or "sim/" + GPT in names


def test_openai_named_provider(capped):
    answer = openai_client(capped).chat.completions.create(
        model="sim/" + GPT, messages=say("Hello", output=5), max_tokens=10)
    assert answer.usage.completion_tokens == 5
    record, = capped.records()
    assert record["model"] == GPT, "the provider receives its own name of the model"
    assert audit.check_exact(capped) == 1


def test_anthropic_sync(capped):
    raw = anthropic_client(capped).messages.with_raw_response.create(
        model=CLAUDE, max_tokens=100, messages=say("Hello", output=50))
    answer = raw.parse()
    assert answer.content[0].text
    assert answer.usage.output_tokens == 50
    assert audit.check_exact(capped) == 1
    assert raw.headers["x-tollhouse-cost-nanousd"] == capped.records()[0]["cost_nanousd"]


def test_anthropic_stream(capped):
    with anthropic_client(capped).messages.stream(
            model=CLAUDE, max_tokens=200, messages=say("Hello", output=60, chunks=12)) as stream:
        text = "".join(stream.text_stream)
        final = stream.get_final_message()
    assert text and final.usage.output_tokens == 60
    assert audit.check_exact(capped) == 1


def test_anthropic_async_many(capped):
    async def run():
        async with anthropic_client(capped, anthropic.AsyncAnthropic) as client:
            async def plain(n):
                answer = await client.messages.create(
                    model=CLAUDE, max_tokens=100, messages=say("Hello", output=20 + n))
                return answer.usage.output_tokens
            async def streamed(n):
                async with client.messages.stream(
                        model=CLAUDE, max_tokens=100, messages=say("Hi", output=20 + n)) as stream:
                    return (await stream.get_final_message()).usage.output_tokens
            return await asyncio.gather(*(plain(n) if n % 2 else streamed(n) for n in range(20)))
    assert asyncio.run(run()) == [20 + n for n in range(20)]
    assert audit.check_exact(capped) == 20


def test_anthropic_tools(capped):
    answer = anthropic_client(capped).messages.create(
        model=CLAUDE, max_tokens=200, tools=ANTHROPIC_TOOLS,
        messages=say("Weather in Paris?", output=30, tool="get_weather"))
    call = next(block for block in answer.content if block.type == "tool_use")
    assert call.name == "get_weather" and answer.stop_reason == "tool_use"
    assert audit.check_exact(capped) == 1


def test_anthropic_streamed_tools(capped):
    with anthropic_client(capped).messages.stream(
            model=CLAUDE, max_tokens=200, tools=ANTHROPIC_TOOLS,
            messages=say("Weather in Paris?", output=30, tool="get_weather")) as stream:
        final = stream.get_final_message()
    assert any(block.type == "tool_use" for block in final.content)
    assert audit.check_exact(capped) == 1


def test_anthropic_prompt_cache_is_priced_by_class(capped):
    answer = anthropic_client(capped).messages.create(
        model=CLAUDE, max_tokens=100,
        system=[{"type": "text", "text": "Rules. " * 2000, "cache_control": {"type": "ephemeral"}}],
        messages=say("Hello", output=10, cache_write=2000, cached=500))
    assert answer.usage.cache_creation_input_tokens == 2000
    assert answer.usage.cache_read_input_tokens == 500
    assert audit.check_exact(capped) == 1


def test_anthropic_long_body(capped):
    story = "All work and no play. " * 20_000
    answer = anthropic_client(capped).messages.create(
        model=CLAUDE, max_tokens=100, system=story, messages=say("Hi", output=10))
    assert answer.usage.input_tokens > 100_000
    assert audit.check_exact(capped) == 1


def test_anthropic_count_tokens_is_free(capped):
    counted = anthropic_client(capped).messages.count_tokens(model=CLAUDE, messages=say("Hello"))
    assert counted.input_tokens > 0
    audit.check_exact(capped)
    assert capped.billed() == 0 and capped.budget()["spent_nanousd"] == 0


def test_anthropic_models(capped):
    assert any(CLAUDE in model.id for model in anthropic_client(capped).models.list())


def test_key_is_taken_from_bearer_for_anthropic_too(capped):
    client = anthropic.Anthropic(auth_token=capped.secret, api_key=None,
                                 base_url=capped.stack.edge, max_retries=0)
    answer = client.messages.create(model=CLAUDE, max_tokens=10, messages=say("Hi", output=3))
    assert answer.usage.output_tokens == 3


def test_the_virtual_key_never_reaches_the_provider(capped):
    import hashlib
    openai_client(capped).chat.completions.create(
        model=GPT, messages=say("Hello", output=1), max_tokens=10)
    record, = capped.records()
    assert record["key_hash"] != hashlib.sha256(capped.secret.encode()).hexdigest()[:12]
    assert record["key_hash"] == hashlib.sha256(b"sim-secret-sim").hexdigest()[:12]
