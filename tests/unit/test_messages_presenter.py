"""Anthropic's messages and events, as the JSON that clients receive."""

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.http.codec import encode
from domain.anthropic.presenter import MessagesPresenter
from domain.choices import join_deltas
from domain.conversation import Conversation, UserMessage
from domain.results import (
    FinishReason,
    GenerationDelta,
    GenerationResult,
    GenerationUsage,
    ToolCallDelta,
)
from tests.unit.messages_serving import USAGE, delta, end, joined


def presenter(**options: Any) -> MessagesPresenter:
    return MessagesPresenter(model="m", conversation=Conversation(messages=[UserMessage(content="hi")], **options))


def seen(struct: msgspec.Struct) -> dict[str, Any]:
    return msgspec.json.decode(encode(struct))


def events_of(*deltas: GenerationDelta, **options: Any) -> list[dict[str, Any]]:
    one = presenter(**options)
    events = [event for each in (*deltas, USAGE) for event in one.chunks(each)]
    return [seen(event) for event in [*events, *one.last_chunks()]]


def whole_of(*deltas: GenerationDelta, **options: Any) -> dict[str, Any]:
    return seen(presenter(**options).whole(GenerationResult(choices=join_deltas(deltas), usage=USAGE)))


def call(index: int, arguments: str, **more: Any) -> GenerationDelta:
    return delta(tool_calls=[ToolCallDelta(index=index, arguments=arguments, **more)])


def started(index: int) -> GenerationDelta:
    return call(index, "", id=f"c{index}", name="f")


CALLS = [started(0), call(0, '{"a"'), call(0, ": 1}"), started(1), call(1, "{}")]


def kinds(events: list[dict[str, Any]]) -> list[str]:
    return [event.get("delta", {}).get("type") or event["type"] for event in events]


def test_a_block_ends_when_the_next_begins():
    events = events_of(delta(reasoning="r"), delta("t"), *CALLS[:2], end())
    assert kinds(events) == [
        "message_start",
        *("content_block_start", "thinking_delta", "signature_delta", "content_block_stop"),
        *("content_block_start", "text_delta", "content_block_stop"),
        *("content_block_start", "input_json_delta", "content_block_stop"),
        *("message_delta", "message_stop"),
    ]
    assert [event["index"] for event in events if "index" in event] == [0] * 4 + [1] * 3 + [2] * 3


def test_all_in_one_delta_is_the_same():
    calls = [ToolCallDelta(index=0, id="c0", name="f", arguments='{"a"')]
    assert kinds(events_of(end("t", reasoning="r", tool_calls=calls))) == kinds(
        events_of(delta(reasoning="r"), delta("t"), *CALLS[:2], end())
    )


def test_every_call_is_a_block():
    content = joined(events_of(*CALLS, end()))["content"]
    assert [(block["id"], block["input"]) for block in content] == [("c0", {"a": 1}), ("c1", {})]


@pytest.mark.parametrize("blank", ["\n", " \n\n"])
def test_white_space_in_front_of_a_call_is_no_block(blank):
    for content in (
        joined(events_of(delta(reasoning="r"), delta(blank), *CALLS, end()))["content"],
        whole_of(delta(reasoning="r"), delta(blank), *CALLS, end())["content"],
    ):
        assert [block["type"] for block in content] == ["thinking", "tool_use", "tool_use"]


def test_white_space_in_front_of_text_belongs_to_it():
    (block,) = joined(events_of(delta("\n"), delta(" "), delta("a"), delta("\n"), end()))["content"]
    assert block["text"] == "\n a\n"


def test_white_space_alone_is_text():
    (block,) = joined(events_of(delta("\n"), end()))["content"]
    assert block["text"] == whole_of(delta("\n"), end())["content"][0]["text"] == "\n"


def test_an_empty_answer_has_no_blocks():
    events = events_of(end())
    assert kinds(events) == ["message_start", "message_delta", "message_stop"]
    assert whole_of(end())["content"] == []


def test_a_stream_without_deltas_is_a_message_nevertheless():
    assert kinds(events_of()) == ["message_start", "message_delta", "message_stop"]


def test_a_call_that_was_cut_off_ended_by_its_length():
    last = end(reason=FinishReason.LENGTH)
    assert joined(events_of(*CALLS[:3], last))["stop_reason"] == "max_tokens"
    assert whole_of(*CALLS[:2], last)["content"][0]["input"] == {"INVALID_JSON": '{"a"'}


def test_a_call_counts_more_than_a_stop_sequence():
    assert whole_of(*CALLS, end(stop_sequence="x"))["stop_reason"] == "tool_use"


def test_of_the_prompt_only_cached_tokens_are_subtracted():
    usage = GenerationUsage(prompt_tokens=7, completion_tokens=2)
    told = seen(presenter().whole(GenerationResult(choices=[end("x")], usage=usage)))["usage"]
    assert (told["input_tokens"], told["cache_read_input_tokens"], told["output_tokens"]) == (7, 0, 2)
    assert "output_tokens_details" not in told


parts = st.one_of(
    st.builds(delta, st.sampled_from(["a", " ", "\n", "bc"])),
    st.builds(lambda text: delta(reasoning=text), st.sampled_from(["r", "\n"])),
)
reasons = st.sampled_from(list(FinishReason))


@given(
    thought=st.lists(st.builds(lambda text: delta(reasoning=text), st.sampled_from(["r", " "])), max_size=3),
    text=st.lists(st.builds(delta, st.sampled_from(["a", " ", "\n", "bc"])), max_size=4),
    calls=st.sampled_from([[], CALLS, CALLS[:3]]),
    reason=reasons,
    options=st.fixed_dictionaries({"include_reasoning": st.booleans(), "parallel_tool_calls": st.booleans()}),
)
def test_a_stream_is_the_complete_answer(thought, text, calls, reason, options):
    deltas = [*thought, *text, *calls, end(reason=reason)]
    stream, whole = joined(events_of(*deltas, **options)), whole_of(*deltas, **options)
    for message in (stream, whole):
        message.pop("id")
        for block in message["content"]:
            block.pop("signature", None)
    assert stream == whole


@given(deltas=st.lists(parts, max_size=8))
def test_nothing_is_lost_or_out_of_order(deltas):
    content = joined(events_of(*deltas, end()))["content"]
    for name, kind in (("text", "text"), ("reasoning", "thinking")):
        told = "".join(block[kind] for block in content if block["type"] == kind)
        assert told.split() == "".join(getattr(each, name) for each in deltas).split()
