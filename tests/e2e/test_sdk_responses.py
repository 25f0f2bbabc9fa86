"""The openai SDK beyond chat: responses, structured output, embeddings, completions, moderations."""

import asyncio

import openai
import pydantic
import pytest

import audit
from test_sdks import GPT, WEATHER, openai_client, say

EMBEDDER, COMPLETER = "text-embedding-3-small", "gpt-3.5-turbo-instruct"
TOOLS = [{"type": "function", "name": "get_weather", "description": "Weather of a city",
          "parameters": WEATHER, "strict": False}]


class City(pydantic.BaseModel):
    name: str
    inhabitants: int


@pytest.fixture
def capped(tenant):
    """A tenant with a budget at every level: the whole path is held and settled."""
    for level in ("org", "team", "user", "key"):
        tenant.set_budget(level, 100 * 10**9)
    return tenant


def text(prompt, **directives):
    return say(prompt, **directives)[0]["content"]


def test_response(capped):
    raw = openai_client(capped).responses.with_raw_response.create(
        model=GPT, input=text("Hello", output=50, reasoning=20, cached=5), max_output_tokens=100)
    answer = raw.parse()
    assert answer.output_text and answer.usage.output_tokens == 50
    assert answer.usage.output_tokens_details.reasoning_tokens == 20
    assert audit.check_exact(capped) == 1
    assert raw.headers["x-tollhouse-cost-nanousd"] == capped.records()[0]["cost_nanousd"]


def test_streamed_response(capped):
    with openai_client(capped).responses.stream(
            model=GPT, input=text("Hello", output=60, chunks=12), max_output_tokens=100) as stream:
        pieces = [event.delta for event in stream if event.type == "response.output_text.delta"]
        final = stream.get_final_response()
    assert len(pieces) == 12 and "".join(pieces) == final.output_text
    assert final.usage.output_tokens == 60
    assert audit.check_exact(capped) == 1


def test_many_responses_at_once(capped):
    async def run():
        async with openai_client(capped, openai.AsyncOpenAI) as client:
            async def one(n):
                answer = await client.responses.create(
                    model=GPT, input=text("Hello", output=20 + n), max_output_tokens=100)
                return answer.usage.output_tokens
            return await asyncio.gather(*map(one, range(20)))
    assert asyncio.run(run()) == [20 + n for n in range(20)]
    assert audit.check_exact(capped) == 20


@pytest.mark.parametrize("stream", [False, True])
def test_response_with_tools(capped, stream):
    client = openai_client(capped)
    question = say("Weather in Paris?", output=30, tool="get_weather")
    arguments = {"model": GPT, "input": question, "tools": TOOLS, "max_output_tokens": 100}
    if stream:
        with client.responses.stream(**arguments) as events:
            events.until_done()
            answer = events.get_final_response()
    else:
        answer = client.responses.create(**arguments)
    call, = [item for item in answer.output if item.type == "function_call"]
    assert call.name == "get_weather" and call.arguments == '{"city":"sample"}'
    follow = client.responses.create(model=GPT, tools=TOOLS, max_output_tokens=100, input=[
        {"role": "user", "content": "Weather in Paris?"}, call.model_dump(exclude_none=True),
        {"type": "function_call_output", "call_id": call.call_id, "output": "sunny"}])
    assert follow.output_text
    assert audit.check_exact(capped) == 2


def test_structured_response(capped):
    answer = openai_client(capped).responses.parse(
        model=GPT, input=text("A city", output=30), text_format=City, max_output_tokens=100)
    assert answer.output_parsed == City(name="sample", inhabitants=1)
    assert audit.check_exact(capped) == 1


def test_searches_are_charged_by_the_call(capped):
    client = openai_client(capped)
    with pytest.raises(openai.PermissionDeniedError, match="max_tool_calls"):
        client.responses.create(model=GPT, input=text("News?"), tools=[{"type": "web_search"}])
    client.responses.create(model=GPT, input=text("News?", output=20, searches=2), max_tool_calls=3,
                            tools=[{"type": "web_search"}], max_output_tokens=100)
    assert audit.check_exact(capped) == 1
    assert capped.spent() > 2 * 35_000_000


def test_stored_responses_belong_to_the_account_that_made_them(stack, capped):
    client = openai_client(capped)
    answer = client.responses.create(model=GPT, input=text("Hello", output=5), max_output_tokens=50)
    assert client.responses.retrieve(answer.id).id == answer.id
    again = client.responses.create(model=GPT, input=text("And?", output=5), max_output_tokens=50,
                                    previous_response_id=answer.id)
    assert again.output_text
    sibling = stack.tenant()
    other = openai_client(sibling)
    with pytest.raises(openai.NotFoundError):
        other.responses.retrieve(answer.id)
    with pytest.raises(openai.NotFoundError):
        other.responses.delete(answer.id)
    with pytest.raises(openai.NotFoundError) as refused:
        other.responses.create(model=GPT, input="And?", previous_response_id=answer.id)
    assert refused.value.body["param"] == "previous_response_id"
    with pytest.raises(openai.NotFoundError):
        client.responses.retrieve("resp_sim000000999999")
    assert not sibling.records()
    client.responses.delete(answer.id)
    with pytest.raises(openai.NotFoundError):
        client.responses.retrieve(answer.id)
    assert audit.check_exact(capped) == 2


def test_conversations_belong_to_the_account_that_made_them(stack, capped):
    client = openai_client(capped)
    conversation = client.conversations.create(metadata={"topic": "toll"})
    answer = client.responses.create(model=GPT, input=text("Hi", output=5), max_output_tokens=50,
                                     conversation=conversation.id)
    assert answer.output_text
    with pytest.raises(openai.NotFoundError):
        openai_client(stack.tenant()).responses.create(model=GPT, input="Hi",
                                                       conversation=conversation.id)
    assert audit.check_exact(capped) == 1


def test_background_answers_are_refused(capped):
    with pytest.raises(openai.PermissionDeniedError, match="background"):
        openai_client(capped).responses.create(model=GPT, input="Hi", background=True)
    assert not capped.records()


def test_embeddings(capped):
    answer = openai_client(capped).embeddings.create(model=EMBEDDER, input=["one", "two", "three"])
    assert len(answer.data) == 3 and answer.usage.prompt_tokens > 0
    assert audit.check_exact(capped) == 1


def test_embeddings_that_come_without_usage_are_never_free(capped):
    openai_client(capped).embeddings.create(model=EMBEDDER, input=text("one", fault="no_usage"))
    capped.settled()
    entry, = capped.entries()
    assert entry["entry"]["usage_source"] == "USAGE_SOURCE_ESTIMATED"
    assert int(entry["entry"]["cost_nanousd"]) >= capped.billed() > 0
    assert not capped.suspense()


@pytest.mark.parametrize("stream", [False, True])
def test_completions(capped, stream):
    answer = openai_client(capped).completions.create(
        model=COMPLETER, prompt=["Once", text("upon", output=20, chunks=4)], n=2, max_tokens=40,
        stream=stream)
    if stream:
        chunks = list(answer)
        assert not any(chunk.usage for chunk in chunks)
        assert {choice.index for chunk in chunks for choice in chunk.choices} == {0, 1, 2, 3}
    else:
        assert len(answer.choices) == 4 and answer.usage.completion_tokens == 80
    assert audit.check_exact(capped) == 1


def test_moderations_are_free(capped):
    answer = openai_client(capped).moderations.create(input="hello")
    assert not answer.results[0].flagged
    audit.check_exact(capped)
    assert capped.billed() == 0 and capped.budget()["spent_nanousd"] == 0


@pytest.mark.parametrize("path", ["/images/generations", "/audio/speech", "/files", "/batches",
                                  "/realtime/sessions", "/responses/compact", "/videos"])
def test_what_is_not_priced_is_refused(capped, path):
    with pytest.raises(openai.PermissionDeniedError, match="does not offer this endpoint"):
        openai_client(capped).post(path, body={"model": GPT}, cast_to=object)
    assert not capped.records()
