"""Translates items of the Responses API to messages of a conversation.

An assistant message of a chat template holds reasoning, text and calls together; as items they follow one another.
"""

from collections.abc import Iterable, Sequence

import msgspec

from domain.conversation import (
    AssistantMessage,
    DeveloperMessage,
    FunctionCall,
    Message,
    SystemMessage,
    ToolCall,
    ToolMessage,
    UserMessage,
)
from domain.errors import InvalidRequestError
from domain.openai.responses.items import (
    AnyItem,
    CompactionItem,
    CustomToolCallItem,
    CustomToolCallOutputItem,
    FunctionCallItem,
    FunctionCallOutputItem,
    MessageItem,
    ReasoningItem,
    ResponseItem,
    text_of,
)
from domain.openai.responses.sealing import unseal
from domain.openai.responses.tools import INPUT

Call = FunctionCallItem | CustomToolCallItem
CallOutput = FunctionCallOutputItem | CustomToolCallOutputItem

SUMMARY = "Summary of the conversation so far:\n\n"
MAX_SHOWN_ID = 100
"""Characters of a call's id in an error message."""


def to_messages(items: Sequence[ResponseItem], instructions: str | None = None) -> list[Message]:
    """The messages of a conversation.

    Args:
        items: earlier items and those of the request, oldest first.
        instructions: become a system message before all others.

    Raises:
        InvalidRequestError: a call without an output, or an output without a call.
    """
    check_calls(items)
    builder = _MessageBuilder()
    if instructions:
        builder.messages.append(SystemMessage(content=instructions))
    for item in items:
        builder.add(item)
    builder.end_assistant()
    return builder.messages


def check_calls(items: Iterable[ResponseItem]) -> None:
    """Raise InvalidRequestError unless each call is answered by one output that follows it, as OpenAI does."""
    unanswered: dict[str, str] = {}
    answered: set[str] = set()
    for item in items:
        if isinstance(item, Call):
            unanswered[item.call_id] = "function" if isinstance(item, FunctionCallItem) else "custom tool"
        elif isinstance(item, CallOutput):
            if item.call_id not in unanswered and item.call_id not in answered:
                raise InvalidRequestError(
                    f"No tool call found for the tool output with call_id {_shown(item.call_id)}. An output "
                    "follows its call, in 'input' or in the response that 'previous_response_id' names.",
                    param="input",
                )
            unanswered.pop(item.call_id, None)
            answered.add(item.call_id)
    for call_id, kind in unanswered.items():
        raise InvalidRequestError(
            f"No tool output found for {kind} call {_shown(call_id)}. Send an item with the call's output.",
            param="input",
        )


def check_duplicate_calls(items: Iterable[AnyItem]) -> None:
    """Raise InvalidRequestError for a call id that two open calls of a request share, or a second output.

    Some models number the calls of each answer from 0, so an id may return once its call is answered.
    """
    unanswered: set[str] = set()
    answered: set[str] = set()
    for item in items:
        if isinstance(item, Call):
            if item.call_id in unanswered:
                raise _duplicate(f"Two tool calls have the call_id {_shown(item.call_id)}.")
            unanswered.add(item.call_id)
            answered.discard(item.call_id)
        elif isinstance(item, CallOutput):
            if item.call_id in answered:
                raise _duplicate(f"Two tool outputs have the call_id {_shown(item.call_id)}.")
            unanswered.discard(item.call_id)
            answered.add(item.call_id)


def _duplicate(problem: str) -> InvalidRequestError:
    return InvalidRequestError(
        f"{problem} Send each call once in 'input', and one output for it.", param="input", code="invalid_value"
    )


def _shown(call_id: str) -> str:
    return call_id[:MAX_SHOWN_ID]


class _MessageBuilder:
    """Joins what belongs to one assistant message."""

    def __init__(self) -> None:
        self.messages: list[Message] = []
        self._text: list[str] = []
        self._reasoning: list[str] = []
        self._calls: list[ToolCall] = []

    def add(self, item: ResponseItem) -> None:
        """Add the next item.

        What follows a call without an output belongs to the call's message: outputs have to follow that message.
        """
        if isinstance(item, ReasoningItem):
            if self._text and not self._calls:
                self.end_assistant()
            self._reasoning.append(_reasoning_text(item))
        elif isinstance(item, Call):
            self._calls.append(_tool_call(item))
        elif isinstance(item, MessageItem) and item.role == "assistant":
            self._text.append(text_of(item.content))
        else:
            self.end_assistant()
            self.messages.append(_other_message(item))

    def end_assistant(self) -> None:
        """End the assistant message, if one has begun."""
        reasoning = "\n".join(filter(None, self._reasoning))
        if self._text or self._calls:
            message = AssistantMessage(
                content="".join(self._text) if self._text else None,
                tool_calls=self._calls or None,
                reasoning=reasoning or None,
            )
            self.messages.append(message)
        # Reasoning whose answer is not among the items: templates show it with its answer only.
        self._text, self._reasoning, self._calls = [], [], []


def _reasoning_text(item: ReasoningItem) -> str:
    """What the model reasoned: as it was, or else its summary."""
    if item.content:
        return "".join(part.text for part in item.content)
    if item.encrypted_content and (text := unseal(item.encrypted_content)) is not None:
        return text
    return "\n".join(part.text for part in item.summary)


def _tool_call(item: Call) -> ToolCall:
    if isinstance(item, CustomToolCallItem):
        arguments = msgspec.json.encode({INPUT: item.input}).decode()
    else:
        arguments = item.arguments
    return ToolCall(id=item.call_id, function=FunctionCall(name=item.name, arguments=arguments))


def _other_message(item: MessageItem | CallOutput | CompactionItem) -> Message:
    if isinstance(item, CallOutput):
        return ToolMessage(content=text_of(item.output), tool_call_id=item.call_id)
    if isinstance(item, CompactionItem):
        return UserMessage(content=SUMMARY + (unseal(item.encrypted_content) or ""))
    text = text_of(item.content)
    if item.role == "user":
        return UserMessage(content=text)
    return SystemMessage(content=text) if item.role == "system" else DeveloperMessage(content=text)
