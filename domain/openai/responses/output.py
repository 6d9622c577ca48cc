"""Builds one output item at a time and the events that a stream shows of it.

Source: OpenAI's streaming guide. Each item begins with `response.output_item.added`, gets its content in parts,
and ends with `response.output_item.done`.
"""

from typing import Any, Protocol

import msgspec

from domain.openai.chat_response import ChatTokenLogprob, chat_logprobs
from domain.openai.responses.custom_input import CustomInput
from domain.openai.responses.events import (
    ArgumentsDone,
    CallDelta,
    CustomInputDone,
    Event,
    ItemEvent,
    PartEvent,
    ReasoningDelta,
    ReasoningDone,
    SummaryDelta,
    SummaryDone,
    SummaryPartEvent,
    TextDelta,
    TextDone,
)
from domain.openai.responses.items import (
    CompactionItem,
    CustomToolCallItem,
    FunctionCallItem,
    MessageItem,
    OutputText,
    ReasoningItem,
    ReasoningText,
    ResponseItem,
    Status,
    SummaryText,
    new_item_id,
)
from domain.openai.responses.sealing import seal
from domain.results import TokenLogprob


class Numbering:
    """Counts the events of a response."""

    def __init__(self) -> None:
        self._next = 0

    def take(self) -> int:
        """The next sequence number."""
        number = self._next
        self._next = number + 1
        return number


class OpenItem(Protocol):
    """An output item that is being built."""

    def start(self) -> list[Event]:
        """The events that begin it."""
        ...

    def end(self, status: Status) -> tuple[ResponseItem, list[Event]]:
        """The complete item, and the events that end it."""
        ...


class OpenMessage:
    """A message of the model."""

    def __init__(self, numbers: Numbering, index: int, *, top_logprobs: int | None) -> None:
        """Create it.

        Args:
            numbers: numbers its events.
            index: its position in the output.
            top_logprobs: how many most likely tokens per position to show; None for no log probabilities.
        """
        self._numbers = numbers
        self._index = index
        self._id = new_item_id(MessageItem)
        self._top_logprobs = top_logprobs
        self._text: list[str] = []
        self._logprobs: list[ChatTokenLogprob] = []

    def start(self) -> list[Event]:
        """See `OpenItem`."""
        item = MessageItem(id=self._id, role="assistant", content=[], status="in_progress")
        return [
            ItemEvent(
                type="response.output_item.added",
                sequence_number=self._numbers.take(),
                output_index=self._index,
                item=item,
            ),
            self._part("response.content_part.added", OutputText(text="")),
        ]

    def add(self, text: str, logprobs: list[TokenLogprob] | None) -> list[Event]:
        """The event of a part of its text."""
        self._text.append(text)
        shown = self._shown(logprobs)
        self._logprobs += shown
        return [
            TextDelta(
                type="response.output_text.delta",
                sequence_number=self._numbers.take(),
                item_id=self._id,
                output_index=self._index,
                content_index=0,
                delta=text,
                logprobs=shown,
            )
        ]

    def _shown(self, logprobs: list[TokenLogprob] | None) -> list[ChatTokenLogprob]:
        if self._top_logprobs is None or not logprobs:
            return []
        shown = chat_logprobs(logprobs, self._top_logprobs)
        return shown.content if shown is not None else []

    def end(self, status: Status) -> tuple[ResponseItem, list[Event]]:
        """See `OpenItem`."""
        text = "".join(self._text)
        part = OutputText(text=text, logprobs=list(self._logprobs))
        item = MessageItem(id=self._id, role="assistant", content=[part], status=status)
        done = TextDone(
            type="response.output_text.done",
            sequence_number=self._numbers.take(),
            item_id=self._id,
            output_index=self._index,
            content_index=0,
            text=text,
            logprobs=list(self._logprobs),
        )
        return item, [done, self._part("response.content_part.done", part), self._done(item)]

    def _part(self, kind: str, part: OutputText) -> PartEvent:
        return PartEvent(
            type=kind,
            sequence_number=self._numbers.take(),
            item_id=self._id,
            output_index=self._index,
            content_index=0,
            part=part,
        )

    def _done(self, item: MessageItem) -> ItemEvent:
        return _item_done(self._numbers, self._index, item)


class OpenCompaction:
    """A summary of the conversation, which clients send back unread."""

    def __init__(self, numbers: Numbering, index: int) -> None:
        self._numbers = numbers
        self._index = index
        self._id = new_item_id(CompactionItem)
        self._text: list[str] = []

    def start(self) -> list[Event]:
        """See `OpenItem`."""
        return [_item_added(self._numbers, self._index, CompactionItem(id=self._id, encrypted_content=""))]

    def add(self, text: str, _logprobs: list[TokenLogprob] | None) -> list[Event]:
        """Its text has no events."""
        self._text.append(text)
        return []

    def end(self, _status: Status) -> tuple[ResponseItem, list[Event]]:
        """See `OpenItem`."""
        item = CompactionItem(id=self._id, encrypted_content=seal("".join(self._text)))
        return item, [_item_done(self._numbers, self._index, item)]


class OpenReasoning:
    """A model's reasoning, shown as it is or, if the client asked for a summary, as its summary."""

    def __init__(self, numbers: Numbering, index: int, *, is_summary: bool, is_sealed: bool) -> None:
        """Create it.

        Args:
            numbers: numbers its events.
            index: its position in the output.
            is_summary: whether the reasoning is shown as its summary.
            is_sealed: whether the item includes the reasoning as `encrypted_content` too.
        """
        self._numbers = numbers
        self._index = index
        self._id = new_item_id(ReasoningItem)
        self._is_summary = is_summary
        self._is_sealed = is_sealed
        self._text: list[str] = []

    def start(self) -> list[Event]:
        """See `OpenItem`."""
        added = ItemEvent(
            type="response.output_item.added",
            sequence_number=self._numbers.take(),
            output_index=self._index,
            item=ReasoningItem(id=self._id, status="in_progress"),
        )
        return [added, self._part_event("added", "")]

    def add(self, text: str) -> list[Event]:
        """The event of a part of the reasoning."""
        self._text.append(text)
        number = self._numbers.take()
        if self._is_summary:
            return [
                SummaryDelta(
                    type="response.reasoning_summary_text.delta",
                    sequence_number=number,
                    item_id=self._id,
                    output_index=self._index,
                    summary_index=0,
                    delta=text,
                )
            ]
        return [
            ReasoningDelta(
                type="response.reasoning_text.delta",
                sequence_number=number,
                item_id=self._id,
                output_index=self._index,
                content_index=0,
                delta=text,
            )
        ]

    def end(self, status: Status) -> tuple[ResponseItem, list[Event]]:
        """See `OpenItem`."""
        text = "".join(self._text)
        item = ReasoningItem(id=self._id, status=status)
        if self._is_summary:
            item.summary = [SummaryText(text=text)]
        else:
            item.content = [ReasoningText(text=text)]
        if self._is_sealed:
            item.encrypted_content = seal(text)
        events = [self._text_done(text), self._part_event("done", text)]
        return item, [*events, _item_done(self._numbers, self._index, item)]

    def _text_done(self, text: str) -> Event:
        number = self._numbers.take()
        if self._is_summary:
            return SummaryDone(
                type="response.reasoning_summary_text.done",
                sequence_number=number,
                item_id=self._id,
                output_index=self._index,
                summary_index=0,
                text=text,
            )
        return ReasoningDone(
            type="response.reasoning_text.done",
            sequence_number=number,
            item_id=self._id,
            output_index=self._index,
            content_index=0,
            text=text,
        )

    def _part_event(self, what: str, text: str) -> Event:
        number = self._numbers.take()
        if self._is_summary:
            return SummaryPartEvent(
                type=f"response.reasoning_summary_part.{what}",
                sequence_number=number,
                item_id=self._id,
                output_index=self._index,
                summary_index=0,
                part=SummaryText(text=text),
            )
        return PartEvent(
            type=f"response.content_part.{what}",
            sequence_number=number,
            item_id=self._id,
            output_index=self._index,
            content_index=0,
            part=ReasoningText(text=text),
        )


class OpenFunctionCall:
    """A call of a function."""

    def __init__(self, numbers: Numbering, index: int, *, call_id: str, name: str) -> None:
        self._numbers = numbers
        self._index = index
        self._arguments: list[str] = []
        self._item = FunctionCallItem(
            id=new_item_id(FunctionCallItem), call_id=call_id, name=name, arguments="", status="in_progress"
        )

    def start(self) -> list[Event]:
        """See `OpenItem`."""
        return [_item_added(self._numbers, self._index, self._item)]

    def add(self, arguments: str) -> list[Event]:
        """The event of a part of the arguments."""
        if not arguments:
            return []
        self._arguments.append(arguments)
        return [
            _call_delta(
                "response.function_call_arguments.delta", self._numbers, self._index, self._item, arguments
            )
        ]

    def end(self, status: Status) -> tuple[ResponseItem, list[Event]]:
        """See `OpenItem`."""
        arguments = "".join(self._arguments)
        item = msgspec.structs.replace(self._item, arguments=arguments, status=status)
        done = ArgumentsDone(
            type="response.function_call_arguments.done",
            sequence_number=self._numbers.take(),
            item_id=str(item.id),
            output_index=self._index,
            name=item.name,
            arguments=arguments,
        )
        return item, [done, _item_done(self._numbers, self._index, item)]


class OpenCustomCall:
    """A call of a custom tool."""

    def __init__(self, numbers: Numbering, index: int, *, call_id: str, name: str, is_raw: bool = False) -> None:
        """Create it.

        Args:
            numbers: numbers its events.
            index: its position in the output.
            call_id: the call's id.
            name: the tool's name.
            is_raw: whether the input comes as it is, and not in the arguments of a function.
        """
        self._numbers = numbers
        self._index = index
        self._input: list[str] = []
        self._reader = None if is_raw else CustomInput()
        self._item = CustomToolCallItem(
            id=new_item_id(CustomToolCallItem), call_id=call_id, name=name, input="", status="in_progress"
        )

    def start(self) -> list[Event]:
        """See `OpenItem`."""
        return [_item_added(self._numbers, self._index, self._item)]

    def add(self, arguments: str) -> list[Event]:
        """The event of a part of the input, if the next part of the arguments adds to it."""
        return self._delta(arguments if self._reader is None else self._reader.feed(arguments))

    def _delta(self, text: str) -> list[Event]:
        if not text:
            return []
        self._input.append(text)
        return [_call_delta("response.custom_tool_call_input.delta", self._numbers, self._index, self._item, text)]

    def end(self, status: Status) -> tuple[ResponseItem, list[Event]]:
        """See `OpenItem`."""
        # Arguments that break off may do so before the input.
        events: list[Event] = []
        if self._reader is not None and status == "completed":
            events = self._delta(self._reader.rest())
        text = "".join(self._input)
        item = msgspec.structs.replace(self._item, input=text, status=status)
        done = CustomInputDone(
            type="response.custom_tool_call_input.done",
            sequence_number=self._numbers.take(),
            item_id=str(item.id),
            output_index=self._index,
            input=text,
        )
        return item, [*events, done, _item_done(self._numbers, self._index, item)]


def _call_delta(
    kind: str, numbers: Numbering, index: int, item: FunctionCallItem | CustomToolCallItem, delta: str
) -> CallDelta:
    return CallDelta(
        type=kind, sequence_number=numbers.take(), item_id=str(item.id), output_index=index, delta=delta
    )


def _item_added(numbers: Numbering, index: int, item: Any) -> ItemEvent:
    return ItemEvent(
        type="response.output_item.added", sequence_number=numbers.take(), output_index=index, item=item
    )


def _item_done(numbers: Numbering, index: int, item: Any) -> ItemEvent:
    return ItemEvent(
        type="response.output_item.done", sequence_number=numbers.take(), output_index=index, item=item
    )
