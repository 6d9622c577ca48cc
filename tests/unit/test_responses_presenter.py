"""Responses and their events, as the JSON that clients receive, checked by the types of OpenAI's SDK."""

import json
from collections.abc import Iterable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from openai.types.responses import Response as SdkResponse
from openai.types.responses import ResponseStreamEvent
from pydantic import TypeAdapter

from app.http.codec import encode
from domain.choices import join_deltas
from domain.errors import BackendTimeoutError, InternalError
from domain.openai.responses.presenter import ResponsePresenter
from domain.openai.responses.response import begin_response
from domain.openai.responses.sealing import seal, unseal
from domain.openai.responses.tools import callable_tools, read_tools
from domain.results import (
    FinishReason,
    GenerationDelta,
    GenerationResult,
    GenerationUsage,
    TokenLogprob,
    ToolCallDelta,
)
from tests.unit.responses_parts import body, decode, refuse

EVENTS: TypeAdapter[Any] = TypeAdapter(ResponseStreamEvent)
FUNCTION = {"type": "function", "name": "f"}
CUSTOM = {"type": "custom", "name": "patch"}
LARK = CUSTOM | {"format": {"type": "grammar", "syntax": "lark", "definition": "start: X"}}
USAGE = GenerationUsage(prompt_tokens=3, completion_tokens=5, reasoning_tokens=2, cached_tokens=1)
ENDS = ("response.completed", "response.incomplete", "response.failed")


def presenter(*, is_compaction: bool = False, **fields: Any) -> ResponsePresenter:
    request = body(**fields)
    tools = read_tools(request.tools or [], decode, refuse)
    response = begin_response(
        request, list(tools.values()), response_id="resp_1", model="m", is_stored=request.is_stored
    )
    callables = callable_tools(tools, request.tool_choice)
    return ResponsePresenter(response, request, callables, is_compaction=is_compaction)


def delta(text: str = "", **more: Any) -> GenerationDelta:
    return GenerationDelta(**{"index": 0, "text": text, **more})


def call(index: int, arguments: str = "", **more: Any) -> GenerationDelta:
    return delta(tool_calls=[ToolCallDelta(index=index, arguments=arguments, **more)])


STOP = delta(finish_reason=FinishReason.STOP)


def streamed(deltas: Iterable[GenerationDelta], **fields: Any) -> list[dict[str, Any]]:
    """The events of a whole stream, each of which is valid in the SDK."""
    shown = presenter(**fields)
    events = [*shown.first_chunks()]
    for each in [*deltas, USAGE]:
        events += shown.chunks(each)
    events += [*shown.end_output(), *shown.last_chunks()]
    decoded = [json.loads(encode(event)) for event in events]
    for event in decoded:
        EVENTS.validate_python(event)
    assert [event["sequence_number"] for event in decoded] == list(range(len(decoded)))
    return decoded


def whole(deltas: Iterable[GenerationDelta], **fields: Any) -> dict[str, Any]:
    result = GenerationResult(choices=join_deltas(deltas), usage=USAGE)
    found = json.loads(encode(presenter(**fields).whole(result)))
    SdkResponse.model_validate(found)
    return found


def names(events: list[dict[str, Any]]) -> list[str]:
    return [event["type"].removeprefix("response.") for event in events]


def without_ids(value: Any) -> Any:
    """An output without what differs from one response to the next."""
    return [{name: item[name] for name in item if name != "id"} for item in value]


def test_a_text_streams_in_openais_order():
    events = streamed([delta("He"), delta("llo"), STOP])
    assert names(events) == [
        "created", "in_progress", "output_item.added", "content_part.added", "output_text.delta",
        "output_text.delta", "output_text.done", "content_part.done", "output_item.done", "completed",
    ]  # fmt: skip
    assert [event["delta"] for event in events if "delta" in event] == ["He", "llo"]
    response = events[-1]["response"]
    assert without_ids(response["output"]) == [
        {
            "type": "message",
            "role": "assistant",
            "status": "completed",
            "content": [{"type": "output_text", "text": "Hello", "annotations": [], "logprobs": []}],
        }
    ]
    assert (response["status"], response["error"], response["incomplete_details"]) == ("completed", None, None)
    assert events[0]["response"]["status"] == "in_progress"


def test_usage_has_the_engines_numbers():
    assert whole([delta("x"), STOP])["usage"] == {
        "input_tokens": 3,
        "input_tokens_details": {"cached_tokens": 1, "cache_write_tokens": 0},
        "output_tokens": 5,
        "output_tokens_details": {"reasoning_tokens": 2},
        "total_tokens": 8,
    }


def test_reasoning_precedes_the_message():
    events = streamed([delta(reasoning="thi"), delta(reasoning="nk"), delta("x"), STOP])
    assert names(events)[2:9] == [
        "output_item.added", "content_part.added", "reasoning_text.delta", "reasoning_text.delta",
        "reasoning_text.done", "content_part.done", "output_item.done",
    ]  # fmt: skip
    reasoning, message = events[-1]["response"]["output"]
    assert reasoning["content"] == [{"type": "reasoning_text", "text": "think"}]
    assert (reasoning["summary"], message["content"][0]["text"]) == ([], "x")
    assert [event["output_index"] for event in events if event["type"].endswith("added")] == [0, 0, 1, 1]


def test_a_summary_shows_the_reasoning():
    events = streamed([delta(reasoning="think"), delta("x"), STOP], reasoning={"summary": "auto"})
    assert names(events)[2:8] == [
        "output_item.added", "reasoning_summary_part.added", "reasoning_summary_text.delta",
        "reasoning_summary_text.done", "reasoning_summary_part.done", "output_item.done",
    ]  # fmt: skip
    assert events[-1]["response"]["output"][0]["summary"] == [{"type": "summary_text", "text": "think"}]


def test_encrypted_reasoning_can_be_sent_back():
    output = whole([delta(reasoning="think"), delta("x"), STOP], include=["reasoning.encrypted_content"])["output"]
    assert output[0]["encrypted_content"] == seal("think")


def test_calls_are_items_of_their_own():
    deltas = [
        delta("I call."),
        call(0, id="c0", name="f"),
        call(0, '{"a"'),
        call(0, ":1}"),
        call(1, "{}", id="c1", name="f"),
        STOP,
    ]
    events = streamed(deltas, tools=[FUNCTION])
    assert names(events)[8:-1] == [
        "output_item.added", "function_call_arguments.delta", "function_call_arguments.delta",
        "function_call_arguments.done", "output_item.done",
        "output_item.added", "function_call_arguments.delta", "function_call_arguments.done", "output_item.done",
    ]  # fmt: skip
    calls = [(item["call_id"], item["name"], item["arguments"]) for item in events[-1]["response"]["output"][1:]]
    assert calls == [("c0", "f", '{"a":1}'), ("c1", "f", "{}")]


def test_without_parallel_calls_there_is_one():
    deltas = [call(0, "{}", id="c0", name="f"), call(1, "{}", id="c1", name="f"), STOP]
    output = whole(deltas, tools=[FUNCTION], parallel_tool_calls=False)["output"]
    assert [item["call_id"] for item in output] == ["c0"]


def test_a_custom_call_has_its_text():
    deltas = [call(0, '{"input": "a', id="c0", name="patch"), call(0, '\\n"}'), STOP]
    events = streamed(deltas, tools=[CUSTOM])
    assert names(events)[2:-1] == [
        "output_item.added", "custom_tool_call_input.delta", "custom_tool_call_input.delta",
        "custom_tool_call_input.done", "output_item.done",
    ]  # fmt: skip
    (item,) = events[-1]["response"]["output"]
    assert (item["type"], item["call_id"], item["name"], item["input"]) == (
        "custom_tool_call",
        "c0",
        "patch",
        "a\n",
    )


def test_a_custom_call_that_breaks_off_has_no_more_than_its_text():
    deltas = [call(0, '{"inp', id="c0", name="patch"), delta(finish_reason=FinishReason.LENGTH)]
    (item,) = streamed(deltas, tools=[CUSTOM])[-1]["response"]["output"]
    assert (item["input"], item["status"]) == ("", "incomplete")


def test_the_answer_to_a_forced_grammar_is_the_calls_input():
    events = streamed(
        [delta("ab"), delta("c"), STOP], tools=[LARK], tool_choice={"type": "custom", "name": "patch"}
    )
    (item,) = events[-1]["response"]["output"]
    assert (item["type"], item["name"], item["input"]) == ("custom_tool_call", "patch", "abc")


def test_an_answer_without_anything_is_an_empty_message():
    (message,) = streamed([STOP])[-1]["response"]["output"]
    assert message["content"][0]["text"] == ""


def test_the_limit_makes_it_incomplete():
    events = streamed([delta("Hel"), delta(finish_reason=FinishReason.LENGTH)])
    response = events[-1]["response"]
    assert events[-1]["type"] == "response.incomplete"
    assert (response["status"], response["incomplete_details"]) == ("incomplete", {"reason": "max_output_tokens"})
    assert response["output"][0]["status"] == "incomplete"


def test_log_probabilities_are_shown_on_request():
    token = TokenLogprob("x", -0.5, [("x", -0.5), ("y", -1.0)])
    more = {"include": ["message.output_text.logprobs"], "top_logprobs": 1}
    events = streamed([delta("x", logprobs=[token]), STOP], **more)
    shown = {"token": "x", "logprob": -0.5, "bytes": [120]}
    expected = [shown | {"top_logprobs": [shown]}]
    assert [event["logprobs"] for event in events if "logprobs" in event] == [expected, expected]
    assert events[-1]["response"]["output"][0]["content"][0]["logprobs"] == expected


@pytest.mark.parametrize("blank", ["\n", " \n\n"])
def test_white_space_around_calls_is_no_message(blank):
    first, second = call(0, "{}", id="c0", name="f"), call(1, "{}", id="c1", name="f")
    deltas = [delta(blank), first, delta(blank), second, delta(blank), STOP]
    for output in (streamed(deltas, tools=[FUNCTION])[-1]["response"]["output"], whole(deltas)["output"]):
        assert [item["type"] for item in output] == ["function_call", "function_call"]


def test_white_space_before_a_call_is_no_part_of_a_later_text():
    deltas = [delta("\n"), call(0, "{}", id="c0", name="f"), delta("x"), STOP]
    _, message = streamed(deltas, tools=[FUNCTION])[-1]["response"]["output"]
    assert message["content"][0]["text"] == "x"


def test_white_space_before_a_text_is_part_of_it():
    token, word = TokenLogprob("\n", -0.5, []), TokenLogprob("x", -0.25, [])
    deltas = [delta(reasoning="r"), delta("\n", logprobs=[token]), delta("x", logprobs=[word]), STOP]
    events = streamed(deltas, include=["message.output_text.logprobs"])
    _, message = events[-1]["response"]["output"]
    assert message["content"][0]["text"] == "\nx"
    assert [one["token"] for one in message["content"][0]["logprobs"]] == ["\n", "x"]


@pytest.mark.parametrize("before", [[], [delta(reasoning="r")]])
def test_an_answer_of_white_space_alone_keeps_it(before):
    message = streamed([*before, delta(" "), delta("\n"), STOP])[-1]["response"]["output"][-1]
    assert message["content"][0]["text"] == " \n"


def test_tokens_without_text_after_a_call_are_no_message():
    token = TokenLogprob("", -0.5, [])
    deltas = [call(0, "{}", id="c0", name="f"), delta(logprobs=[token]), STOP]
    output = streamed(deltas, tools=[FUNCTION], include=["message.output_text.logprobs"])[-1]["response"]["output"]
    assert [item["type"] for item in output] == ["function_call"]


@pytest.mark.parametrize(
    ("deltas", "summary"),
    [
        ([delta(reasoning="We "), delta(reasoning="met."), STOP], "We met."),
        ([delta(reasoning="We met."), delta("\n"), STOP], "We met."),
        ([delta(reasoning="Hm."), delta("We met."), STOP], "We met."),
    ],
)
def test_a_summary_is_the_text_or_else_the_reasoning(deltas, summary):
    shown = presenter(is_compaction=True)
    for each in deltas:
        shown.chunks(each)
    shown.end_output()
    (item,) = json.loads(encode(shown.response))["output"]
    assert (item["type"], unseal(item["encrypted_content"])) == ("compaction", summary)


@pytest.mark.parametrize("end", ["failed", "cancelled"])
def test_a_response_that_breaks_off_keeps_what_it_has_and_ends_its_last_item(end):
    shown = presenter()
    events = [*shown.first_chunks(), *shown.chunks(delta("He"))]
    if end == "failed":
        shown.fail(BackendTimeoutError("It took too long."))
        events += shown.fail(BackendTimeoutError("It took too long."))
    else:
        events += shown.cancel()
    decoded = [json.loads(encode(event)) for event in [*events, *shown.last_chunks()]]
    assert [event["sequence_number"] for event in decoded] == list(range(len(decoded)))
    assert names(decoded)[4:] == [
        "output_text.delta", "output_text.done", "content_part.done", "output_item.done", end,
    ]  # fmt: skip
    response = decoded[-1]["response"]
    assert (response["status"], response["output"][0]["status"]) == (end, "incomplete")
    assert response["output"] == [decoded[-2]["item"]]
    error = {"code": "server_error", "message": "It took too long."}
    assert response["error"] == (error if end == "failed" else None)


def test_only_a_completed_response_has_a_time_of_completion():
    assert whole([delta("x"), STOP])["completed_at"] is not None
    assert whole([delta("x"), delta(finish_reason=FinishReason.LENGTH)])["completed_at"] is None
    failed, cancelled = presenter(), presenter()
    failed.fail(BackendTimeoutError("It took too long."))
    cancelled.cancel()
    assert (failed.response.completed_at, cancelled.response.completed_at) == (None, None)


def test_a_broken_stream_ends_with_an_error():
    event = json.loads(encode(presenter().error_chunk(InternalError("Broken."))))
    EVENTS.validate_python(event)
    assert event == {
        "type": "error", "sequence_number": 0, "code": None, "message": "Broken.", "param": None,
    }  # fmt: skip


def test_a_background_response_is_queued_first():
    events = [json.loads(encode(event)) for event in presenter(background=True).first_chunks()]
    assert names(events) == ["created", "queued", "in_progress"]
    assert [event["response"]["status"] for event in events] == ["queued", "queued", "in_progress"]


def test_the_request_is_shown_in_the_response():
    response = whole(
        [delta("x"), STOP],
        instructions="be brief",
        temperature=0.5,
        metadata={"a": "b"},
        tools=[FUNCTION],
        tool_choice="none",
        text={"format": {"type": "json_object"}},
        reasoning={"effort": "low"},
        store=False,
        truncation="auto",
        user="u",
        prompt_cache_key="k",
    )
    shown = {name: response[name] for name in ("instructions", "temperature", "metadata", "tool_choice", "store")}
    assert shown == {
        "instructions": "be brief",
        "temperature": 0.5,
        "metadata": {"a": "b"},
        "tool_choice": "none",
        "store": False,
    }
    assert response["tools"] == [FUNCTION | {"description": None, "parameters": None, "strict": None}]
    assert response["text"] == {"format": {"type": "json_object"}, "verbosity": "medium"}
    assert response["reasoning"] == {"effort": "low", "summary": None}
    assert (response["truncation"], response["user"], response["prompt_cache_key"]) == ("auto", "u", "k")


PARTS = st.one_of(
    st.builds(delta, st.text("ab \n", min_size=1, max_size=3)),
    st.builds(lambda text: delta(reasoning=text), st.text("r", min_size=1, max_size=2)),
)


@settings(max_examples=50)
@given(st.lists(PARTS, max_size=6), st.integers(0, 2), st.sampled_from(FinishReason))
def test_a_streamed_response_ends_as_the_whole_one(parts, calls, reason):
    # As a model answers: reasoning, then text, then calls.
    parts.sort(key=lambda part: not part.reasoning)
    deltas = [*parts]
    for index in range(calls):
        deltas += [call(index, id=f"c{index}", name="f"), call(index, "{}")]
    deltas.append(delta(finish_reason=reason))
    response = streamed(deltas, tools=[FUNCTION])[-1]["response"]
    expected = whole(deltas, tools=[FUNCTION])
    assert without_ids(response["output"]) == without_ids(expected["output"])
    assert [response[name] for name in ("status", "usage")] == [expected[name] for name in ("status", "usage")]


@pytest.mark.parametrize("end", ["completed", "incomplete"])
def test_each_item_begins_and_ends_once(end):
    reason = FinishReason.STOP if end == "completed" else FinishReason.LENGTH
    deltas = [delta(reasoning="r"), delta("x"), call(0, "{}", id="c0", name="f"), delta(finish_reason=reason)]
    events = streamed(deltas, tools=[FUNCTION])
    for what in ("added", "done"):
        indexes = [event["output_index"] for event in events if event["type"] == f"response.output_item.{what}"]
        assert indexes == [0, 1, 2]
    assert [name for name in names(events) if f"response.{name}" in ENDS] == [end]
