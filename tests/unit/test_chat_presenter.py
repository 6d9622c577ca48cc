"""Chat completions and chunks, as the JSON that clients receive."""

from typing import Any

import msgspec
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from app.http.codec import BodyDecoder, encode
from domain.choices import join_deltas
from domain.conversation import Conversation, Function, ToolChoice, UserMessage
from domain.openai.chat import ChatBody
from domain.openai.chat_presenter import ChatPresenter
from domain.results import (
    FinishReason,
    GenerationDelta,
    GenerationResult,
    GenerationUsage,
    TokenLogprob,
    ToolCallDelta,
)

TOOLS = [Function(name="f"), Function(name="g")]


def presenter(*, top_logprobs: int = 0, include_usage: bool = False, **options: Any) -> ChatPresenter:
    conversation = Conversation(messages=[UserMessage(content="hi")], **options)
    return ChatPresenter(
        completion_id="chatcmpl-1",
        created=5,
        model="m",
        conversation=conversation,
        top_logprobs=top_logprobs,
        include_usage=include_usage,
    )


def delta(text: str = "", **more: Any) -> GenerationDelta:
    return GenerationDelta(**{"index": 0, "text": text, **more})


def call(index: int = 0, **more: Any) -> ToolCallDelta:
    return ToolCallDelta(index=index, **more)


def seen(struct: msgspec.Struct) -> dict:
    return msgspec.json.decode(encode(struct))


def chunks_of(*deltas: GenerationDelta, **options: Any) -> list[dict]:
    one = presenter(**options)
    return [seen(chunk) for delta in deltas for chunk in one.chunks(delta)]


def parts_of(*deltas: GenerationDelta, **options: Any) -> list[dict]:
    """The one choice of each chunk."""
    return [choice for chunk in chunks_of(*deltas, **options) for choice in chunk["choices"]]


NO_USAGE = GenerationUsage(prompt_tokens=0, completion_tokens=0)


def result(*deltas: GenerationDelta, usage: GenerationUsage = NO_USAGE) -> GenerationResult:
    """The result of a call with these deltas."""
    return GenerationResult(choices=join_deltas(deltas), usage=usage)


def whole(*deltas: GenerationDelta, **options: Any) -> dict:
    return seen(presenter(**options).whole(result(*deltas)))


def choice_of(*deltas: GenerationDelta, **options: Any) -> dict:
    (choice,) = whole(*deltas, **options)["choices"]
    return choice


STOPPED, CUT = {"finish_reason": FinishReason.STOP}, {"finish_reason": FinishReason.LENGTH}


# A complete response


def test_an_answer_has_openais_fields_and_no_others():
    one = presenter()
    usage = GenerationUsage(prompt_tokens=3, completion_tokens=4)
    assert seen(one.whole(result(delta("Hi", **STOPPED), usage=usage))) == {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 5,
        "model": "m",
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": "Hi", "refusal": None, "annotations": []},
                "logprobs": None,
                "finish_reason": "stop",
            }
        ],
        "usage": {"prompt_tokens": 3, "completion_tokens": 4, "total_tokens": 7},
    }


def test_reasoning_and_its_tokens_are_separate_from_the_text():
    one = presenter()
    usage = GenerationUsage(prompt_tokens=3, completion_tokens=4, reasoning_tokens=2)
    answer = seen(one.whole(result(delta("Hi", reasoning="Hm.", **STOPPED), usage=usage)))
    assert answer["choices"][0]["message"]["content"] == "Hi"
    assert answer["choices"][0]["message"]["reasoning_content"] == "Hm."
    assert answer["usage"]["completion_tokens_details"] == {"reasoning_tokens": 2}


def test_an_answer_with_only_reasoning_has_no_content():
    message = choice_of(delta(reasoning="Hm.", **CUT))["message"]
    assert (message["content"], message["reasoning_content"]) == (None, "Hm.")


def test_an_empty_answer_is_an_empty_text():
    message = choice_of(delta("", **STOPPED))["message"]
    assert message == {"role": "assistant", "content": "", "refusal": None, "annotations": []}


def test_reasoning_is_omitted_on_request():
    message = choice_of(delta("Hi", reasoning="Hm.", **STOPPED), include_reasoning=False)["message"]
    assert message == {"role": "assistant", "content": "Hi", "refusal": None, "annotations": []}


def test_content_is_null_with_a_tool_call():
    last = delta(tool_calls=[call(id="c1", name="f", arguments='{"a": 1}')], **STOPPED)
    choice = choice_of(last, tools=TOOLS, tool_choice=ToolChoice.AUTO)
    assert choice["finish_reason"] == "tool_calls"
    assert choice["message"] == {
        "role": "assistant",
        "content": None,
        "refusal": None,
        "annotations": [],
        "tool_calls": [{"id": "c1", "type": "function", "function": {"name": "f", "arguments": '{"a": 1}'}}],
    }


def test_a_tool_call_may_have_text():
    choice = choice_of(delta("See:", tool_calls=[call(id="c1", name="f", arguments="{}")], **STOPPED))
    assert choice["message"]["content"] == "See:"
    assert len(choice["message"]["tool_calls"]) == 1


def test_several_calls_keep_their_order():
    calls = [call(1, id="c1", name="g", arguments="1"), call(0, id="c0", name="f", arguments="0")]
    returned = choice_of(delta(tool_calls=calls, **STOPPED))["message"]["tool_calls"]
    assert [(one["id"], one["function"]["name"]) for one in returned] == [("c0", "f"), ("c1", "g")]


def test_partial_arguments_are_joined():
    calls = choice_of(
        delta(tool_calls=[call(id="c", name="f")]),
        delta(tool_calls=[call(arguments='{"a'), call(arguments='": ')]),
        delta(tool_calls=[call(arguments="1}")], **STOPPED),
    )["message"]["tool_calls"]
    assert calls == [{"id": "c", "type": "function", "function": {"name": "f", "arguments": '{"a": 1}'}}]


def test_choices_are_ordered_by_index():
    answer = whole(delta("b", index=1, **STOPPED), delta("a", **STOPPED))
    assert [(one["index"], one["message"]["content"]) for one in answer["choices"]] == [(0, "a"), (1, "b")]


# Finish reasons


@pytest.mark.parametrize(
    ("choice", "reason", "has_called", "expected"),
    [
        (ToolChoice.NONE, "stop", False, "stop"),
        (ToolChoice.NONE, "length", False, "length"),
        (ToolChoice.AUTO, "stop", False, "stop"),
        (ToolChoice.AUTO, "stop", True, "tool_calls"),
        (ToolChoice.AUTO, "length", True, "length"),
        (ToolChoice.REQUIRED, "stop", True, "tool_calls"),
        (ToolChoice.REQUIRED, "length", True, "length"),
        # OpenAI: the finish reason is "stop" if the client named the function to call.
        (ToolChoice.NAMED, "stop", True, "stop"),
        (ToolChoice.NAMED, "length", True, "length"),
    ],
)
def test_the_finish_reason_depends_on_tool_calls(choice, reason, has_called, expected):
    calls = [call(id="c", name="f", arguments="{}")] if has_called else []
    last = delta("" if calls else "x", tool_calls=calls, finish_reason=FinishReason(reason))
    name = "f" if choice is ToolChoice.NAMED else None
    options = {"tools": TOOLS, "tool_choice": choice, "tool_name": name}
    assert choice_of(last, **options)["finish_reason"] == expected
    assert parts_of(last, **options)[-1]["finish_reason"] == expected


def test_tool_calls_are_tracked_per_choice():
    deltas = [delta(tool_calls=[call(id="c", name="f")], **STOPPED), delta("x", index=1, **STOPPED)]
    assert [choice["finish_reason"] for choice in whole(*deltas)["choices"]] == ["tool_calls", "stop"]
    ends = {part["index"]: part["finish_reason"] for part in parts_of(*deltas) if part["finish_reason"]}
    assert ends == {0: "tool_calls", 1: "stop"}


def test_an_earlier_tool_call_determines_the_finish_reason():
    parts = parts_of(delta(tool_calls=[call(id="c", name="f")]), delta("", **STOPPED))
    assert [part["finish_reason"] for part in parts] == [None, None, "tool_calls"]


# Without parallel tool calls

TWO = [call(0, id="c0", name="f", arguments="{}"), call(1, id="c1", name="g", arguments="{}")]


def test_without_parallel_calls_only_the_first_is_returned():
    choice = choice_of(delta(tool_calls=TWO, **STOPPED), parallel_tool_calls=False)
    assert [one["id"] for one in choice["message"]["tool_calls"]] == ["c0"]
    assert choice["finish_reason"] == "tool_calls"


def test_without_parallel_calls_only_the_first_is_streamed():
    parts = parts_of(
        delta(tool_calls=[TWO[0]]), delta(tool_calls=[TWO[1]]), delta("", **STOPPED), parallel_tool_calls=False
    )
    calls = [one for part in parts for one in part["delta"].get("tool_calls", [])]
    assert [one["index"] for one in calls] == [0]
    assert all(part["delta"] != {} for part in parts[:-1]), "empty deltas are not sent"


# Chunks


def test_chunks_have_openais_fields_and_no_others():
    generated = [delta("Hi"), delta(" you", **STOPPED)]
    common = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 5, "model": "m"}
    deltas = [
        {"role": "assistant", "content": "", "refusal": None},
        {"content": "Hi"},
        {"content": " you"},
        {},
    ]
    assert chunks_of(*generated) == [
        common
        | {
            "choices": [
                {"index": 0, "delta": part, "logprobs": None, "finish_reason": None if part else "stop"},
            ]
        }
        for part in deltas
    ]


def test_an_empty_answer_still_has_a_role_and_an_end():
    parts = parts_of(delta("", **STOPPED))
    assert [part["delta"] for part in parts] == [{"role": "assistant", "content": "", "refusal": None}, {}]
    assert [part["finish_reason"] for part in parts] == [None, "stop"]


def test_each_choice_has_its_role_once_and_first():
    parts = parts_of(delta("a"), delta("b", index=1), delta("c"), delta("d", index=1))
    for index in (0, 1):
        own = [part["delta"] for part in parts if part["index"] == index]
        assert own[0]["role"] == "assistant"
        assert all("role" not in one for one in own[1:])


def test_reasoning_is_streamed_in_its_own_field():
    parts = parts_of(delta(reasoning="Hm"), delta(reasoning="."), delta("Hi", **STOPPED))
    assert [part["delta"] for part in parts[1:]] == [
        {"reasoning_content": "Hm"},
        {"reasoning_content": "."},
        {"content": "Hi"},
        {},
    ]


def test_reasoning_is_not_streamed_on_request():
    parts = parts_of(delta(reasoning="Hm"), delta("Hi", **STOPPED), include_reasoning=False)
    assert [part["delta"] for part in parts[1:]] == [{"content": "Hi"}, {}]


def test_only_the_first_part_of_a_call_has_id_and_name():
    parts = parts_of(
        delta(tool_calls=[call(id="c", name="f")]),
        delta(tool_calls=[call(arguments='{"a')]),
        delta(tool_calls=[call(arguments='": 1}')]),
        delta("", **STOPPED),
    )
    assert [part["delta"] for part in parts] == [
        {"role": "assistant", "content": None, "refusal": None},
        {"tool_calls": [{"index": 0, "id": "c", "type": "function", "function": {"name": "f", "arguments": ""}}]},
        {"tool_calls": [{"index": 0, "function": {"arguments": '{"a'}}]},
        {"tool_calls": [{"index": 0, "function": {"arguments": '": 1}'}}]},
        {},
    ]


def test_a_complete_call_is_one_chunk():
    part = parts_of(delta(tool_calls=[call(1, id="c", name="f", arguments="{}")]))[1]
    assert part["delta"]["tool_calls"] == [
        {"index": 1, "id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    ]


# Log probabilities

TOKEN = TokenLogprob("é", -1.5, [("é", -1.5), ("z", -9.0), ("b", -0.5), ("c", -2.0)])


def test_log_probabilities_have_openais_fields_and_order():
    expected = {
        "content": [
            {
                "token": "é",
                "logprob": -1.5,
                "bytes": [0xC3, 0xA9],
                "top_logprobs": [
                    {"token": "b", "logprob": -0.5, "bytes": [98]},
                    {"token": "é", "logprob": -1.5, "bytes": [0xC3, 0xA9]},
                ],
            }
        ],
        "refusal": None,
    }
    last = delta("é", logprobs=[TOKEN], **STOPPED)
    assert choice_of(last, top_logprobs=2)["logprobs"] == expected
    role, text, end = parts_of(last, top_logprobs=2)
    assert (role["logprobs"], text["logprobs"], end["logprobs"]) == (None, expected, None)


@pytest.mark.parametrize("count", [0, 1, 2, 20])
def test_top_logprobs_limits_the_tokens(count):
    (item,) = choice_of(delta("é", logprobs=[TOKEN]), top_logprobs=count)["logprobs"]["content"]
    numbers = [one["logprob"] for one in item["top_logprobs"]]
    assert numbers == [-0.5, -1.5, -2.0, -9.0][:count]


def test_tokens_without_text_have_log_probabilities():
    # Special tokens and incomplete characters.
    parts = parts_of(delta("", logprobs=[TOKEN]), delta("x", logprobs=[TOKEN], **STOPPED))
    assert [len((part["logprobs"] or {"content": []})["content"]) for part in parts] == [0, 1, 1, 0]


def test_invalid_unicode_has_bytes():
    (item,) = (
        presenter()
        .whole(result(delta("x", logprobs=[TokenLogprob("\udce9", -1.0, [])])))
        .choices[0]
        .logprobs.content
    )
    assert all(0 <= byte < 256 for byte in item.bytes)


def test_without_log_probabilities_there_are_none():
    assert choice_of(delta("x", **STOPPED))["logprobs"] is None
    assert all(part["logprobs"] is None for part in parts_of(delta("x", **STOPPED)))


# Usage


def test_chunks_have_no_usage_by_default():
    assert all("usage" not in chunk for chunk in chunks_of(delta("x", **STOPPED)))


def test_usage_is_null_in_all_chunks_but_the_last():
    one = presenter(include_usage=True)
    assert [seen(chunk)["usage"] for chunk in one.chunks(delta("x", **STOPPED))] == [None] * 3
    assert one.chunks(GenerationUsage(prompt_tokens=1, completion_tokens=2, reasoning_tokens=0)) == []
    (last,) = one.last_chunks()
    assert seen(last) == {
        "id": "chatcmpl-1",
        "object": "chat.completion.chunk",
        "created": 5,
        "model": "m",
        "choices": [],
        "usage": {
            "prompt_tokens": 1,
            "completion_tokens": 2,
            "total_tokens": 3,
            "completion_tokens_details": {"reasoning_tokens": 0},
        },
    }


# Joined chunks equal the complete response

tokens = st.builds(
    TokenLogprob, st.text(max_size=2), st.floats(-9, 0), st.lists(st.tuples(st.text(max_size=2), st.floats(-9, 0)))
)


@st.composite
def generations(draw: st.DrawFn) -> list[GenerationDelta]:
    """Deltas as the port specifies them: id and name in a call's first, finish reason in a choice's last."""
    by_choice: list[list[GenerationDelta]] = []
    for index in range(draw(st.integers(1, 3))):
        started: set[int] = set()
        own: list[GenerationDelta] = []
        for _ in range(draw(st.integers(1, 5))):
            calls = []
            for number in draw(st.lists(st.integers(0, len(started)), max_size=2)):
                if number > len(started):
                    continue
                head = {} if number in started else {"id": f"c{index}{number}", "name": f"f{number}"}
                started.add(number)
                calls.append(call(number, arguments=draw(st.text(max_size=3)), **head))
            own.append(
                delta(
                    draw(st.text(max_size=3)),
                    index=index,
                    reasoning=draw(st.text(max_size=3)),
                    tool_calls=calls,
                    logprobs=draw(st.none() | st.lists(tokens, max_size=2)),
                )
            )
        reason = draw(st.sampled_from(FinishReason))
        by_choice.append([*own[:-1], msgspec.structs.replace(own[-1], finish_reason=reason)])
    # Interleaved, as choices arrive.
    mixed: list[GenerationDelta] = []
    while any(by_choice):
        mixed.append(draw(st.sampled_from([own for own in by_choice if own])).pop(0))
    return mixed


def joined(parts: list[dict]) -> dict[int, dict]:
    """The choices of a stream, joined as a client does."""
    choices: dict[int, dict] = {}
    for part in parts:
        empty = {"content": "", "reasoning": "", "calls": {}, "logprobs": [], "reason": None}
        own = choices.setdefault(part["index"], empty)
        assert own["reason"] is None, "no part follows the finish reason"
        delta = part["delta"]
        own["content"] += delta.get("content") or ""
        own["reasoning"] += delta.get("reasoning_content", "")
        for one in delta.get("tool_calls", []):
            if one["index"] not in own["calls"]:
                own["calls"][one["index"]] = (one["id"], one["function"]["name"], "")
            id_, name, arguments = own["calls"][one["index"]]
            own["calls"][one["index"]] = (id_, name, arguments + one["function"]["arguments"])
        own["logprobs"] += (part["logprobs"] or {"content": []})["content"]
        own["reason"] = part["finish_reason"]
    return choices


@given(
    generations(),
    st.sampled_from([{}, {"parallel_tool_calls": False}, {"include_reasoning": False}, {"top_logprobs": 1}]),
)
@settings(max_examples=30, deadline=None)
def test_joined_chunks_equal_the_complete_response(deltas, options):
    parts = joined(parts_of(*deltas, **options))
    answer = whole(*deltas, **options)
    assert [choice["index"] for choice in answer["choices"]] == sorted(parts)
    for choice in answer["choices"]:
        message = choice["message"]
        calls = message.get("tool_calls", [])
        assert parts[choice["index"]] == {
            "content": message["content"] or "",
            "reasoning": message.get("reasoning_content", ""),
            "calls": {
                number: (one["id"], one["function"]["name"], one["function"]["arguments"])
                for number, one in enumerate(calls)
            },
            "logprobs": (choice["logprobs"] or {"content": []})["content"],
            "reason": choice["finish_reason"],
        }


@given(generations())
@example([delta(reasoning="Hm.", **CUT)])
@settings(max_examples=15, deadline=None)
def test_every_answer_can_be_sent_back_in_the_next_request(deltas):
    message = whole(*deltas)["choices"][0]["message"]
    results = [
        {"role": "tool", "tool_call_id": one["id"], "content": "x"} for one in message.get("tool_calls", [])
    ]
    body = encode({"model": "m", "messages": [{"role": "user", "content": "hi"}, message, *results]})
    assert len(BodyDecoder(ChatBody).decode(body).to_conversation().messages) == 2 + len(results)


@given(generations())
@settings(max_examples=20, deadline=None)
def test_a_chunk_has_content_or_ends_a_choice(deltas):
    for part in parts_of(*deltas):
        assert bool(part["delta"] or part["logprobs"]) is not bool(part["finish_reason"])
