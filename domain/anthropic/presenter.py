"""Converts results and events of any engine to Anthropic's messages and their events."""

from typing import Any

import msgspec

from domain.anthropic.response import (
    NO_USAGE,
    Content,
    ContentBlockDelta,
    ContentBlockStart,
    ContentBlockStop,
    InputJsonDelta,
    MessageDelta,
    MessageEnding,
    MessageEvent,
    MessagesAnswer,
    MessageStart,
    MessageStop,
    SignatureDelta,
    StopReason,
    TextContent,
    TextDelta,
    ThinkingContent,
    ThinkingDelta,
    ToolUseContent,
    messages_usage,
)
from domain.conversation import Conversation
from domain.openai.common import UsageCounter
from domain.random_id import random_hex
from domain.results import (
    FinishReason,
    GenerationDelta,
    GenerationEvent,
    GenerationResult,
    GenerationUsage,
    ToolCallDelta,
)

INVALID_JSON = "INVALID_JSON"
"""Holds the text of a call's input that is not a JSON object, in an answer that has to have one."""


class MessagesPresenter:
    """Converts the events of one request, which has one choice, to one answer or a series of events."""

    def __init__(self, *, model: str, conversation: Conversation) -> None:
        self._id = f"msg_{random_hex()}"
        self._model = model
        self._is_single_call = not conversation.parallel_tool_calls
        self._includes_thinking = conversation.include_reasoning
        self.usage = UsageCounter()
        self._final_usage = GenerationUsage(prompt_tokens=0, completion_tokens=0)
        self._ending: GenerationDelta | None = None
        self._has_begun = False
        self._index = -1
        """Index of the current block."""
        self._open: type[msgspec.Struct] | None = None
        """What the current block is; None if it has ended."""
        self._call = -1
        """Index of the current call among the calls."""
        self._blank = ""
        """White space that becomes text only if no call follows."""

    def chunks(self, event: GenerationEvent, _prompt_index: int = 0) -> list[MessageEvent]:
        """The events for one event of the engine; a block ends when the next one begins."""
        if isinstance(event, GenerationUsage):
            self._set_usage(event)
            return []
        events = self._begin()
        if event.reasoning and self._includes_thinking:
            self._block(events, ThinkingContent, ThinkingContent(thinking="", signature=""))
            events.append(self._delta(ThinkingDelta(thinking=event.reasoning)))
        if event.text:
            self._text(events, event.text)
        for call in self._calls(event):
            self._tool_use(events, call)
        if event.finish_reason is not None:
            self._ending = event
            if self._blank and self._call < 0:
                self._add_text(events, "")
            self._stop(events)
        return events

    def last_chunks(self) -> list[MessageEvent]:
        """The ending and the usage."""
        events = self._begin()
        ending = self._ending_of(self._ending, is_called=self._call >= 0)
        usage = messages_usage(self._final_usage)
        return [*events, MessageDelta(delta=ending, usage=usage), MessageStop()]

    def whole(self, result: GenerationResult) -> MessagesAnswer:
        """The answer for a complete result."""
        self._set_usage(result.usage)
        (choice,) = result.choices
        calls = self._calls(choice)
        content: list[Content] = []
        if choice.reasoning and self._includes_thinking:
            content.append(ThinkingContent(thinking=choice.reasoning, signature=random_hex()))
        if choice.text and not (calls and choice.text.isspace()):
            content.append(TextContent(text=choice.text))
        content += [
            ToolUseContent(id=_call_id(call), name=call.name or "", input=_input(call.arguments)) for call in calls
        ]
        ending = self._ending_of(choice, is_called=bool(calls))
        return self._message(content, ending, self._final_usage)

    def _begin(self) -> list[MessageEvent]:
        if self._has_begun:
            return []
        self._has_begun = True
        return [MessageStart(message=self._message([], None, None))]

    def _message(
        self, content: list[Content], ending: MessageEnding | None, usage: GenerationUsage | None
    ) -> MessagesAnswer:
        return MessagesAnswer(
            id=self._id,
            model=self._model,
            content=content,
            stop_reason=ending.stop_reason if ending is not None else None,
            stop_sequence=ending.stop_sequence if ending is not None else None,
            usage=messages_usage(usage) if usage is not None else NO_USAGE,
        )

    def _set_usage(self, usage: GenerationUsage) -> None:
        self._final_usage = usage
        self.usage.add(usage)

    def _calls(self, delta: GenerationDelta) -> list[ToolCallDelta]:
        if self._is_single_call:
            return [call for call in delta.tool_calls if call.index == 0]
        return delta.tool_calls

    def _text(self, events: list[MessageEvent], text: str) -> None:
        if self._open is not TextContent and text.isspace():
            # Models separate reasoning, text and calls by line breaks.
            self._blank += text
        else:
            self._add_text(events, text)

    def _add_text(self, events: list[MessageEvent], text: str) -> None:
        self._block(events, TextContent, TextContent(text=""))
        events.append(self._delta(TextDelta(text=self._blank + text)))
        self._blank = ""

    def _tool_use(self, events: list[MessageEvent], call: ToolCallDelta) -> None:
        if self._open is not ToolUseContent or call.index != self._call:
            self._stop(events)
            self._call, self._blank = call.index, ""
            start = ToolUseContent(id=_call_id(call), name=call.name or "", input={})
            self._block(events, ToolUseContent, start)
        if call.arguments:
            events.append(self._delta(InputJsonDelta(partial_json=call.arguments)))

    def _block(self, events: list[MessageEvent], kind: type[msgspec.Struct], start: Content) -> None:
        """Make a block of this kind the current one."""
        if self._open is kind:
            return
        self._stop(events)
        self._open = kind
        self._index += 1
        events.append(ContentBlockStart(index=self._index, content_block=start))

    def _stop(self, events: list[MessageEvent]) -> None:
        """End the current block, if there is one."""
        if self._open is None:
            return
        if self._open is ThinkingContent:
            events.append(self._delta(SignatureDelta(signature=random_hex())))
        self._open = None
        events.append(ContentBlockStop(index=self._index))

    def _delta(self, delta: TextDelta | ThinkingDelta | SignatureDelta | InputJsonDelta) -> ContentBlockDelta:
        return ContentBlockDelta(index=self._index, delta=delta)

    def _ending_of(self, choice: GenerationDelta | None, *, is_called: bool) -> MessageEnding:
        if choice is not None and choice.finish_reason is FinishReason.LENGTH:
            return MessageEnding(stop_reason=StopReason.MAX_TOKENS, stop_sequence=None)
        if is_called:
            return MessageEnding(stop_reason=StopReason.TOOL_USE, stop_sequence=None)
        if choice is not None and choice.stop_sequence is not None:
            return MessageEnding(stop_reason=StopReason.STOP_SEQUENCE, stop_sequence=choice.stop_sequence)
        return MessageEnding(stop_reason=StopReason.END_TURN, stop_sequence=None)


def _call_id(call: ToolCallDelta) -> str:
    return call.id or f"toolu_{random_hex()}"


def _input(arguments: str) -> dict[str, Any]:
    """A call's input. What is not a JSON object, as a call that was cut off, is passed on as text in one."""
    if not arguments.strip():
        return {}
    try:
        return msgspec.json.decode(arguments, type=dict[str, Any])
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return {INVALID_JSON: arguments}
