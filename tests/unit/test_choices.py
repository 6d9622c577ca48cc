"""Joining deltas into complete choices."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from domain.choices import collect, join_calls, join_deltas
from domain.errors import BackendFailedError
from domain.results import (
    FinishReason,
    GenerationDelta,
    GenerationResult,
    GenerationUsage,
    TokenLogprob,
    ToolCallDelta,
)

USAGE = GenerationUsage(prompt_tokens=3, completion_tokens=5, reasoning_tokens=1)

texts = st.text("ab ", max_size=6)
logprobs = st.builds(TokenLogprob, st.sampled_from("ab"), st.floats(-9, 0), st.none())


@st.composite
def calls(draw) -> list[ToolCallDelta]:
    """Complete tool calls of a choice."""
    arguments = draw(st.lists(texts, max_size=3))
    return [
        ToolCallDelta(index=index, id=f"call_{index}", name=f"tool_{index}", arguments=text)
        for index, text in enumerate(arguments)
    ]


@st.composite
def choices(draw) -> list[GenerationDelta]:
    """Complete choices of a generation."""
    return [
        GenerationDelta(
            index=index,
            text=draw(texts),
            reasoning=draw(texts),
            tool_calls=draw(calls()),
            logprobs=draw(st.none() | st.lists(logprobs, max_size=4)),
            finish_reason=draw(st.sampled_from(FinishReason) | st.none()),
            stop_sequence=draw(st.sampled_from(["end"]) | st.none()),
        )
        for index in range(draw(st.integers(1, 3)))
    ]


def split(draw, whole, count: int) -> list:
    """Split a text or list into `count` pieces, some of which may be empty."""
    ends = sorted(draw(st.lists(st.integers(0, len(whole)), min_size=count - 1, max_size=count - 1)))
    return [whole[begin:end] for begin, end in zip([0, *ends], [*ends, len(whole)], strict=True)]


def call_pieces(draw, call: ToolCallDelta, count: int) -> list[ToolCallDelta | None]:
    """Split a call into `count` deltas: none at first, then one with id and name, then more arguments."""
    begin = draw(st.integers(0, count - 1))
    first, *rest = split(draw, call.arguments, count - begin)
    more = [ToolCallDelta(index=call.index, arguments=piece) if piece else None for piece in rest]
    named = ToolCallDelta(index=call.index, id=call.id, name=call.name, arguments=first)
    return [*[None] * begin, named, *more]


def logprob_pieces(draw, whole: list[TokenLogprob] | None, count: int) -> list:
    if whole is None:
        return [None] * count
    first, *rest = split(draw, whole, count)
    return [first, *(piece or draw(st.sampled_from([None, []])) for piece in rest)]


def deltas_of(draw, choice: GenerationDelta) -> list[GenerationDelta]:
    count = draw(st.integers(1, 5))
    by_call = [call_pieces(draw, call, count) for call in choice.tool_calls]
    return [
        GenerationDelta(
            index=choice.index,
            text=text,
            reasoning=reasoning,
            tool_calls=[pieces[number] for pieces in by_call if pieces[number] is not None],
            logprobs=numbers,
            finish_reason=choice.finish_reason if number == count - 1 else None,
            stop_sequence=choice.stop_sequence if number == count - 1 else None,
        )
        for number, (text, reasoning, numbers) in enumerate(
            zip(
                split(draw, choice.text, count),
                split(draw, choice.reasoning, count),
                logprob_pieces(draw, choice.logprobs, count),
                strict=True,
            )
        )
    ]


@st.composite
def split_choices(draw) -> tuple[list[GenerationDelta], list[GenerationDelta]]:
    """Complete choices, and their interleaved deltas."""
    whole = draw(choices())
    queues = [deltas_of(draw, choice) for choice in whole]
    mixed = []
    while any(queues):
        queue = draw(st.sampled_from([queue for queue in queues if queue]))
        mixed.append(queue.pop(0))
    return whole, mixed


@given(split_choices())
@settings(max_examples=50, deadline=None)
def test_joined_choices_do_not_depend_on_how_they_were_split(case):
    whole, deltas = case
    assert join_deltas(deltas) == whole


@given(choices())
@settings(max_examples=50, deadline=None)
def test_complete_choices_are_unchanged(whole):
    assert join_deltas(whole) == whole
    assert join_deltas(reversed(whole)) == whole


@given(split_choices())
@settings(max_examples=50, deadline=None)
def test_joining_does_not_modify_the_deltas(case):
    _, deltas = case
    again = join_deltas(deltas)
    assert join_deltas(deltas) == again


@given(st.data(), calls())
@settings(max_examples=50, deadline=None)
def test_joined_calls_do_not_depend_on_how_they_were_split(data, whole):
    rows = [call_pieces(data.draw, call, 4) for call in whole]
    deltas = [piece for column in zip(*rows, strict=True) for piece in column if piece is not None]
    assert join_calls(deltas) == whole


def test_a_call_may_get_its_name_after_its_first_arguments():
    pieces = [ToolCallDelta(index=0, arguments="{"), ToolCallDelta(index=0, id="a", name="b", arguments="}")]
    assert join_calls(pieces) == [ToolCallDelta(index=0, id="a", name="b", arguments="{}")]


def test_no_deltas_are_no_choices():
    assert join_deltas([]) == []
    assert join_calls([]) == []


class Events:
    """A stream of events that records its end."""

    def __init__(self, *events, error: Exception | None = None) -> None:
        self._events = events
        self._error = error
        self.is_closed = False

    async def iterated(self):
        try:
            for event in self._events:
                yield event
            if self._error is not None:
                raise self._error
        finally:
            self.is_closed = True


async def test_a_generation_is_collected_with_its_usage():
    events = Events(
        GenerationDelta(index=1, text="x"),
        GenerationDelta(index=0, text="a"),
        GenerationDelta(index=0, text="b", finish_reason=FinishReason.STOP),
        GenerationDelta(index=1, text="y", finish_reason=FinishReason.LENGTH),
        USAGE,
    )
    assert await collect(events.iterated()) == GenerationResult(
        choices=[
            GenerationDelta(index=0, text="ab", finish_reason=FinishReason.STOP),
            GenerationDelta(index=1, text="xy", finish_reason=FinishReason.LENGTH),
        ],
        usage=USAGE,
    )
    assert events.is_closed


async def test_a_generation_that_fails_has_no_result():
    events = Events(GenerationDelta(index=0, text="a"), error=BackendFailedError("Broken."))
    with pytest.raises(BackendFailedError):
        await collect(events.iterated())
    assert events.is_closed
