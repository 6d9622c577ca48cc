"""The Responses and Conversations APIs with a real model, through OpenAI's SDK and its types."""

import json
import time
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from openai import BadRequestError, NotFoundError, OpenAI
from openai.types.responses import Response, ResponseStreamEvent, ResponseUsage
from pydantic import TypeAdapter

from tests.compliance.conftest import EMBED, GENERATE

pytestmark = pytest.mark.integration

EVENT: TypeAdapter[Any] = TypeAdapter(ResponseStreamEvent)
QUESTION = "What is the capital of France?"
ASK: dict[str, Any] = {"model": GENERATE, "temperature": 0, "max_output_tokens": 16}
WEATHER: dict[str, Any] = {
    "type": "function",
    "name": "get_weather",
    "parameters": {
        "type": "object",
        "properties": {"city": {"type": "string", "maxLength": 20}},
        "required": ["city"],
        "additionalProperties": False,
    },
    "strict": True,
}
TOOLS: dict[str, Any] = {"tools": [WEATHER], "max_output_tokens": 80, "parallel_tool_calls": False}


def create(client: OpenAI, value: Any = QUESTION, **more: Any) -> Response:
    response = client.responses.create(input=value, **(ASK | more))
    assert isinstance(response, Response)
    Response.model_validate(response.model_dump(by_alias=True))
    return response


def events(http: httpx.Client, value: Any = QUESTION, **more: Any) -> Iterator[dict[str, Any]]:
    """The events of a stream, each of which is valid in the SDK."""
    answer = http.post("/v1/responses", json=ASK | {"input": value, "stream": True} | more)
    assert answer.status_code == 200, answer.text
    for number, block in enumerate(answer.text.removesuffix("\n\n").split("\n\n")):
        name, data = block.split("\n")
        event = json.loads(data.removeprefix("data: "))
        EVENT.validate_python(event)
        assert (name, event["sequence_number"]) == (f"event: {event['type']}", number)
        yield event


def test_a_text_is_answered(client: OpenAI) -> None:
    response = create(client)
    assert "Paris" in response.output_text
    assert (response.status, response.model, response.store) == ("completed", GENERATE, True)
    assert response.usage is not None
    assert response.usage.total_tokens == response.usage.input_tokens + response.usage.output_tokens


def test_a_stream_says_the_same_as_the_whole(client: OpenAI, http: httpx.Client) -> None:
    found = list(events(http))
    text = "".join(event["delta"] for event in found if event["type"] == "response.output_text.delta")
    final = found[-1]["response"]
    assert found[-1]["type"] == "response.completed"
    assert text == create(client).output_text == final["output"][0]["content"][0]["text"]


def test_a_chat_says_the_same(client: OpenAI) -> None:
    chat = client.chat.completions.create(
        model=GENERATE,
        messages=[{"role": "system", "content": "Be brief."}, {"role": "user", "content": QUESTION}],
        temperature=0,
        max_completion_tokens=16,
    )
    assert create(client, instructions="Be brief.").output_text == chat.choices[0].message.content


def test_the_limit_ends_it_as_incomplete(client: OpenAI) -> None:
    response = create(client, "Write a long story.", max_output_tokens=4)
    assert response.status == "incomplete"
    assert response.incomplete_details is not None
    assert response.incomplete_details.reason == "max_output_tokens"
    assert response.usage is not None
    assert response.usage.output_tokens == 4


def test_a_response_is_continued_by_its_id(client: OpenAI) -> None:
    first = create(client)
    second = create(client, "And of Italy?", previous_response_id=first.id)
    whole = create(
        client,
        [
            {"role": "user", "content": QUESTION},
            {"role": "assistant", "content": first.output_text},
            {"role": "user", "content": "And of Italy?"},
        ],
        store=False,
    )
    assert second.output_text == whole.output_text
    assert "Rome" in second.output_text
    listed = client.responses.input_items.list(second.id, order="asc").data
    assert [item.type for item in listed] == ["message"] * 3


def test_items_are_continued_by_reference(client: OpenAI) -> None:
    first = create(client)
    reference: Any = {"type": "item_reference", "id": first.output[0].id}
    second = create(
        client, [{"role": "user", "content": QUESTION}, reference, {"role": "user", "content": "And of Italy?"}]
    )
    assert "Rome" in second.output_text


def test_a_forced_call_follows_its_schema_and_is_answered(client: OpenAI) -> None:
    first = create(client, "How is the weather in Rome?", tool_choice="required", **TOOLS)
    (call,) = first.output
    assert call.type == "function_call"
    assert set(json.loads(call.arguments)) == {"city"}
    output: Any = {"type": "function_call_output", "call_id": call.call_id, "output": "sunny"}
    second = create(client, [output], previous_response_id=first.id, tool_choice="none", tools=[WEATHER])
    assert second.output_text


def test_a_streamed_call_is_the_same(client: OpenAI, http: httpx.Client) -> None:
    more = {"tool_choice": {"type": "function", "name": "get_weather"}, **TOOLS}
    found = list(events(http, "How is the weather in Rome?", **more))
    delta = "".join(e["delta"] for e in found if e["type"] == "response.function_call_arguments.delta")
    (call,) = create(client, "How is the weather in Rome?", **more).output
    assert call.type == "function_call"
    assert json.loads(delta) == json.loads(call.arguments)


@pytest.mark.parametrize(
    ("form", "expected"),
    [
        ({"type": "grammar", "syntax": "regex", "definition": "[a-c]{3}"}, {"a", "b", "c"}),
        ({"type": "grammar", "syntax": "lark", "definition": 'start: "x" Y\nY: "y" | "z"'}, {"x", "y", "z"}),
    ],
)
def test_a_custom_tool_follows_its_grammar(client: OpenAI, form: Any, expected: set[str]) -> None:
    tool: Any = {"type": "custom", "name": "code", "format": form}
    (call,) = create(
        client, "Call it.", tools=[tool], tool_choice={"type": "custom", "name": "code"}, max_output_tokens=80
    ).output
    assert call.type == "custom_tool_call"
    assert call.input
    assert set(call.input) <= expected


def test_the_text_follows_a_schema(client: OpenAI) -> None:
    schema = WEATHER["parameters"]
    form: Any = {"format": {"type": "json_schema", "name": "place", "schema": schema, "strict": True}}
    assert set(json.loads(create(client, text=form, max_output_tokens=60).output_text)) == {"city"}
    anything: Any = {"format": {"type": "json_object"}}
    json.loads(create(client, "Say {} as JSON.", text=anything, max_output_tokens=200).output_text)


def test_log_probabilities_are_those_of_the_text(client: OpenAI) -> None:
    response = create(client, include=["message.output_text.logprobs"], top_logprobs=2)
    (message,) = response.output
    assert message.type == "message"
    (part,) = message.content
    assert part.type == "output_text"
    assert "".join(entry.token for entry in part.logprobs or []) == part.text
    assert all(len(entry.top_logprobs) == 2 for entry in part.logprobs or [])


def test_a_background_response_runs_on_by_itself(client: OpenAI) -> None:
    response = create(client, background=True)
    deadline = time.monotonic() + 60
    while response.status in ("queued", "in_progress") and time.monotonic() < deadline:
        time.sleep(0.1)
        response = client.responses.retrieve(response.id)
    assert response.status == "completed"
    assert "Paris" in response.output_text
    events = list(client.responses.retrieve(response.id, stream=True, starting_after=2))
    assert (events[0].sequence_number, events[-1].type) == (3, "response.completed")


def test_a_background_response_is_cancelled(client: OpenAI) -> None:
    response = create(client, "Write a long story.", background=True, max_output_tokens=2000)
    assert client.responses.cancel(response.id).status == "cancelled"
    assert client.responses.retrieve(response.id).status == "cancelled"


def test_a_conversation_remembers(client: OpenAI) -> None:
    conversation = client.conversations.create(items=[{"role": "user", "content": QUESTION, "type": "message"}])
    create(client, [], conversation=conversation.id)
    assert "Rome" in create(client, "And of Italy?", conversation=conversation.id).output_text
    assert len(client.conversations.items.list(conversation.id).data) == 4
    assert client.conversations.delete(conversation.id).deleted
    with pytest.raises(NotFoundError):
        client.conversations.retrieve(conversation.id)


def test_tokens_are_counted_as_the_response_uses_them(client: OpenAI) -> None:
    usage = create(client).usage
    assert usage is not None
    assert client.responses.input_tokens.count(model=GENERATE, input=QUESTION).input_tokens == usage.input_tokens


def test_truncation_drops_what_does_not_fit(client: OpenAI) -> None:
    items: Any = [{"role": "user", "content": "word " * 100} for _ in range(4)]
    items.append({"role": "user", "content": QUESTION})
    # A long answer leaves little room for the input; it ends early.
    long = {"max_output_tokens": 8000, "extra_body": {"stop": [" "]}}
    with pytest.raises(BadRequestError) as refused:
        create(client, items, **long)
    assert refused.value.code == "context_length_exceeded"
    response = create(client, items, truncation="auto", **long)
    assert response.usage is not None
    assert response.usage.input_tokens <= 192


def test_a_conversation_is_compacted_and_continued(client: OpenAI, http: httpx.Client) -> None:
    items: Any = [{"role": "user", "content": "My dog is Rex."}, {"role": "assistant", "content": "Nice!"}]
    # The small model does not stop by itself.
    answer = http.post("/v1/responses/compact", json={"model": GENERATE, "input": items, "stop": ["."]}).json()
    # The SDK's type knows messages of the model only.
    assert answer["object"] == "response.compaction"
    ResponseUsage.model_validate(answer["usage"])
    assert [item["type"] for item in answer["output"]] == ["message", "compaction"]
    assert create(client, [*answer["output"], {"role": "user", "content": "Go on."}]).output_text


def test_what_is_refused(client: OpenAI) -> None:
    with pytest.raises(BadRequestError) as missing:
        create(client, previous_response_id="resp_missing")
    assert missing.value.code == "previous_response_not_found"
    with pytest.raises(NotFoundError):
        client.responses.retrieve("resp_missing")
    with pytest.raises(NotFoundError) as wrong:
        create(client, model=EMBED)
    assert "v1/embeddings" in wrong.value.message
    with pytest.raises(BadRequestError):
        create(client, [{"role": "user", "content": [{"type": "input_image", "image_url": "data:,"}]}])


def test_responses_are_deleted(client: OpenAI) -> None:
    response = create(client, max_output_tokens=1)
    client.responses.delete(response.id)
    with pytest.raises(NotFoundError):
        client.responses.retrieve(response.id)
