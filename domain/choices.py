"""Joins deltas into complete choices."""

import contextlib
from collections.abc import AsyncGenerator, Iterable

import msgspec

from domain.results import (
    FinishReason,
    GenerationDelta,
    GenerationEvent,
    GenerationResult,
    GenerationUsage,
    TokenLogprob,
    ToolCallDelta,
)


async def collect(events: AsyncGenerator[GenerationEvent, None]) -> GenerationResult:
    """Consume and close a generation's events, and return the complete result."""
    deltas: list[GenerationDelta] = []
    usage = GenerationUsage(prompt_tokens=0, completion_tokens=0)
    async with contextlib.aclosing(events):
        async for event in events:
            if isinstance(event, GenerationUsage):
                usage = event
            else:
                deltas.append(event)
    return GenerationResult(choices=join_deltas(deltas), usage=usage)


def join_deltas(deltas: Iterable[GenerationDelta]) -> list[GenerationDelta]:
    """Join deltas into complete choices, in order of their indices.

    Args:
        deltas: deltas of any number of choices; those of each choice in order of arrival.
    """
    choices: dict[int, _ChoiceBuilder] = {}
    for delta in deltas:
        choices.setdefault(delta.index, _ChoiceBuilder()).add(delta)
    return [choices[index].build(index) for index in sorted(choices)]


def join_calls(deltas: Iterable[ToolCallDelta]) -> list[ToolCallDelta]:
    """Join the deltas of one choice into complete tool calls, in order of their indices."""
    calls: dict[int, ToolCallDelta] = {}
    for delta in deltas:
        call = calls.get(delta.index)
        calls[delta.index] = delta if call is None else _joined(call, delta)
    return [calls[index] for index in sorted(calls)]


class _ChoiceBuilder:
    """Collects the deltas of one choice."""

    def __init__(self) -> None:
        self._text: list[str] = []
        self._reasoning: list[str] = []
        self._calls: list[ToolCallDelta] = []
        self._logprobs: list[TokenLogprob] | None = None
        self._finish_reason: FinishReason | None = None
        self._stop_sequence: str | None = None

    def add(self, delta: GenerationDelta) -> None:
        self._text.append(delta.text)
        self._reasoning.append(delta.reasoning)
        self._calls += delta.tool_calls
        if delta.logprobs is not None:
            self._logprobs = self._logprobs or []
            self._logprobs += delta.logprobs
        self._finish_reason = delta.finish_reason or self._finish_reason
        self._stop_sequence = delta.stop_sequence or self._stop_sequence

    def build(self, index: int) -> GenerationDelta:
        return GenerationDelta(
            index=index,
            text="".join(self._text),
            reasoning="".join(self._reasoning),
            tool_calls=join_calls(self._calls),
            logprobs=self._logprobs,
            finish_reason=self._finish_reason,
            stop_sequence=self._stop_sequence,
        )


def _joined(call: ToolCallDelta, delta: ToolCallDelta) -> ToolCallDelta:
    return msgspec.structs.replace(
        call,
        id=call.id or delta.id,
        name=call.name or delta.name,
        arguments=call.arguments + delta.arguments,
    )
