"""Span attributes of requests and answers, by OpenTelemetry's conventions."""

import json
import time

import msgspec

from app.http.codec import BodyDecoder
from app.telemetry.request_attributes import answer_attributes, embedding_attributes, generation_attributes
from domain.openai.chat import ChatBody
from domain.openai.completions import CompletionBody
from domain.requests import EmbeddingRequest, GenerationRequest
from domain.results import FinishReason, GenerationDelta, ToolCallDelta

decoder, completion_decoder = BodyDecoder(ChatBody), BodyDecoder(CompletionBody)
CONTENT = {"gen_ai.input.messages", "gen_ai.output.messages", "gen_ai.tool.definitions"}


def requested(*messages: dict, **more) -> GenerationRequest:
    body = decoder.decode(msgspec.json.encode({"model": "m", "messages": messages, **more}), allow_unknown=False)
    return body.to_request(body.to_conversation())


def completion(**more) -> GenerationRequest:
    content = msgspec.json.encode({"model": "m", "prompt": "secret", **more})
    (request,) = completion_decoder.decode(content, allow_unknown=False).to_requests()
    return request


USER = {"role": "user", "content": "secret"}


def messages(request: GenerationRequest) -> list[dict]:
    return json.loads(generation_attributes(request, is_stream=False, content=True)["gen_ai.input.messages"])


def test_by_default_there_is_no_content():
    tool = {"type": "function", "function": {"name": "secret"}}
    for request in (requested(USER, tools=[tool]), completion()):
        attributes = generation_attributes(request, is_stream=False, content=False)
        assert not CONTENT & set(attributes)
        assert "secret" not in repr(attributes)


def test_unset_parameters_have_no_attributes():
    assert set(generation_attributes(requested(USER), is_stream=False, content=False)) <= {
        "gen_ai.request.temperature",
        "gen_ai.request.top_p",
        "gen_ai.request.top_k",
        "gen_ai.request.max_tokens",
        "gen_ai.request.frequency_penalty",
        "gen_ai.request.presence_penalty",
        "gen_ai.output.type",
    }


def test_all_values_are_valid_span_attributes():
    request = requested(USER, stop=["a", "b"], n=2, seed=1, stream=True, temperature=0, max_tokens=5)
    for value in generation_attributes(request, is_stream=False, content=True).values():
        assert isinstance(value, str | bool | int | float | list)
        assert not isinstance(value, list) or all(isinstance(each, str) for each in value)


def test_a_temperature_of_zero_and_a_single_choice():
    attributes = generation_attributes(requested(USER, temperature=0, n=1, seed=0), is_stream=False, content=False)
    assert attributes["gen_ai.request.temperature"] == 0
    assert attributes["gen_ai.request.seed"] == 0
    assert "gen_ai.request.choice.count" not in attributes
    assert "gen_ai.request.stream" not in attributes


def test_the_type_of_the_output():
    def kind(**more) -> object:
        return generation_attributes(requested(USER, **more), is_stream=False, content=False)["gen_ai.output.type"]

    schema = {"type": "json_schema", "json_schema": {"name": "s", "schema": {"type": "object"}}}
    assert kind() == kind(response_format={"type": "text"}) == "text"
    assert kind(response_format={"type": "json_object"}) == kind(response_format=schema) == "json"


def test_a_conversation_is_captured_by_message():
    call = {"id": "call_1", "type": "function", "function": {"name": "weather", "arguments": '{"city":"Rome"}'}}
    request = requested(
        {"role": "system", "content": "Be kind."},
        {"role": "user", "content": [{"type": "text", "text": "Hi"}, {"type": "text", "text": "there"}]},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {
            "role": "tool",
            "tool_call_id": "call_1",
            "content": [{"type": "text", "text": "s"}, {"type": "text", "text": "un"}],
        },
        {"role": "assistant", "content": [{"type": "refusal", "refusal": "No."}]},
        {"role": "user", "content": "And now?"},
        tools=[{"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}],
    )
    assert messages(request) == [
        {"role": "system", "parts": [{"type": "text", "content": "Be kind."}]},
        {"role": "user", "parts": [{"type": "text", "content": "Hi"}, {"type": "text", "content": "there"}]},
        {
            "role": "assistant",
            "parts": [{"type": "tool_call", "id": "call_1", "name": "weather", "arguments": '{"city":"Rome"}'}],
        },
        {"role": "tool", "parts": [{"type": "tool_call_response", "id": "call_1", "response": "sun"}]},
        {"role": "assistant", "parts": [{"type": "text", "content": "No."}]},
        {"role": "user", "parts": [{"type": "text", "content": "And now?"}]},
    ]
    (tool,) = json.loads(generation_attributes(request, is_stream=False, content=True)["gen_ai.tool.definitions"])
    assert tool == {"type": "function", "name": "weather", "parameters": {"type": "object", "properties": {}}}


def test_without_tools_there_is_no_tool_attribute():
    assert "gen_ai.tool.definitions" not in generation_attributes(requested(USER), is_stream=False, content=True)


def test_a_prompt_is_captured_as_a_user_message():
    assert messages(completion()) == [{"role": "user", "parts": [{"type": "text", "content": "secret"}]}]


def test_token_ids_are_counted():
    (message,) = messages(completion(prompt=[1, 2, 3]))
    assert message["parts"] == [{"type": "text", "content": "[3 token ids]"}]


def delta(index: int = 0, text: str = "", **more) -> GenerationDelta:
    return GenerationDelta(index=index, text=text, **more)


def answers(*deltas: GenerationDelta) -> list[dict]:
    return json.loads(answer_attributes(deltas)["gen_ai.output.messages"])


def test_parts_of_an_answer_are_joined_by_choice():
    assert answers(
        delta(1, "b"),
        delta(0, "a", reasoning="hm"),
        delta(0, "a", reasoning="m", finish_reason=FinishReason.STOP),
        delta(1, "", finish_reason=FinishReason.LENGTH),
    ) == [
        {
            "role": "assistant",
            "parts": [{"type": "reasoning", "content": "hmm"}, {"type": "text", "content": "aa"}],
            "finish_reason": "stop",
        },
        {"role": "assistant", "parts": [{"type": "text", "content": "b"}], "finish_reason": "length"},
    ]


def test_tool_calls_are_joined_by_call():
    def part(index: int, **more) -> GenerationDelta:
        return delta(tool_calls=[ToolCallDelta(index=index, **more)])

    (found,) = answers(
        part(0, id="a", name="one", arguments="{"),
        part(1, id="b", name="two", arguments="[]"),
        part(0, arguments="}"),
        delta(finish_reason=FinishReason.STOP),
    )
    assert found["parts"] == [
        {"type": "tool_call", "id": "a", "name": "one", "arguments": "{}"},
        {"type": "tool_call", "id": "b", "name": "two", "arguments": "[]"},
    ]


def test_an_incomplete_answer_is_marked():
    assert answers(delta(text="a"))[0]["finish_reason"] == "error"
    assert answers() == []


def test_embeddings():
    request = EmbeddingRequest(inputs=["secret", "more"])
    assert embedding_attributes(request) == {"memoria.input.count": 2}
    shorter = msgspec.structs.replace(request, dimensions=8)
    assert embedding_attributes(shorter) == {"memoria.input.count": 2, "gen_ai.embeddings.dimension.count": 8}


def test_joining_a_long_answer_takes_linear_time():
    def took(parts: int) -> float:
        # Non-Latin letters: CPython can't extend such strings in place.
        deltas = [
            GenerationDelta(
                index=0,
                text="wörd€ ",
                tool_calls=[ToolCallDelta(index=0, id="c", name="f", arguments="€")],
            )
            for _ in range(parts)
        ]
        began = time.process_time()
        answer_attributes(deltas)
        return time.process_time() - began

    # In turn, so that what else runs on the machine slows both alike.
    rounds = [(took(4_000), took(40_000)) for _ in range(5)]
    short, long = (min(times) for times in zip(*rounds, strict=True))
    # A quadratic one would take 100 times as long.
    assert long < 25 * short
