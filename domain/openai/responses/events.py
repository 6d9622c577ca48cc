"""Events of a streamed response.

Source: OpenAI's schema `ResponseStreamEvent`. `sequence_number` counts the events of a response from 0.
"""

from typing import Any

import msgspec

from domain.openai.responses.response import Response


class Event(msgspec.Struct, kw_only=True):
    """Base of all events."""

    type: str
    sequence_number: int


class ResponseEvent(Event, kw_only=True):
    """`response.created`, `queued`, `in_progress`, `completed`, `incomplete` and `failed`."""

    response: Response


class ItemEvent(Event, kw_only=True):
    """`response.output_item.added` and `done`."""

    output_index: int
    item: Any


class PartEvent(Event, kw_only=True):
    """`response.content_part.added` and `done`."""

    item_id: str
    output_index: int
    content_index: int
    part: Any


class TextDelta(Event, kw_only=True):
    """`response.output_text.delta`."""

    item_id: str
    output_index: int
    content_index: int
    delta: str
    logprobs: list[Any]


class TextDone(Event, kw_only=True):
    """`response.output_text.done`."""

    item_id: str
    output_index: int
    content_index: int
    text: str
    logprobs: list[Any]


class ReasoningDelta(Event, kw_only=True):
    """`response.reasoning_text.delta`."""

    item_id: str
    output_index: int
    content_index: int
    delta: str


class ReasoningDone(Event, kw_only=True):
    """`response.reasoning_text.done`."""

    item_id: str
    output_index: int
    content_index: int
    text: str


class SummaryPartEvent(Event, kw_only=True):
    """`response.reasoning_summary_part.added` and `done`."""

    item_id: str
    output_index: int
    summary_index: int
    part: Any


class SummaryDelta(Event, kw_only=True):
    """`response.reasoning_summary_text.delta`."""

    item_id: str
    output_index: int
    summary_index: int
    delta: str


class SummaryDone(Event, kw_only=True):
    """`response.reasoning_summary_text.done`."""

    item_id: str
    output_index: int
    summary_index: int
    text: str


class CallDelta(Event, kw_only=True):
    """`response.function_call_arguments.delta` and `response.custom_tool_call_input.delta`."""

    item_id: str
    output_index: int
    delta: str


class ArgumentsDone(Event, kw_only=True):
    """`response.function_call_arguments.done`."""

    item_id: str
    output_index: int
    name: str
    arguments: str


class CustomInputDone(Event, kw_only=True):
    """`response.custom_tool_call_input.done`."""

    item_id: str
    output_index: int
    input: str


class ErrorEvent(Event, kw_only=True):
    """`error`: the stream failed."""

    code: str | None
    message: str
    param: str | None
