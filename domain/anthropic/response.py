"""Response schemas of `POST /v1/messages`, complete and streamed, and of `POST /v1/messages/count_tokens`.

Source: anthropic-python's `Message` and `RawMessageStreamEvent`. Every event has its name as `type`.
"""

import enum
from typing import Any, Literal

import msgspec

from domain.results import GenerationUsage


class StopReason(enum.StrEnum):
    """Why a message ended."""

    END_TURN = "end_turn"
    MAX_TOKENS = "max_tokens"
    STOP_SEQUENCE = "stop_sequence"
    TOOL_USE = "tool_use"


class TextContent(msgspec.Struct, frozen=True, kw_only=True, tag_field="type", tag="text"):
    """A text."""

    text: str
    citations: None = None


class ThinkingContent(msgspec.Struct, frozen=True, kw_only=True, tag_field="type", tag="thinking"):
    """Reasoning of a reasoning model."""

    thinking: str
    signature: str
    """Without meaning here, but clients send reasoning back only with one."""


class ToolUseContent(msgspec.Struct, frozen=True, kw_only=True, tag_field="type", tag="tool_use"):
    """One tool call."""

    id: str
    name: str
    input: dict[str, Any]


Content = TextContent | ThinkingContent | ToolUseContent


class ThinkingTokens(msgspec.Struct, frozen=True, kw_only=True):
    """Breakdown of output tokens."""

    thinking_tokens: int


class MessagesUsage(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Tokens of a message. All input is the sum of the three input counts."""

    input_tokens: int
    """Tokens of the prompt that were not cached."""
    cache_creation_input_tokens: Literal[0] | None = None
    cache_read_input_tokens: int | None = None
    output_tokens: int
    """Including thinking."""
    output_tokens_details: ThinkingTokens | None = None
    service_tier: Literal["standard"] | None = None


class MessagesAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """A message of the model."""

    id: str
    type: Literal["message"] = "message"
    role: Literal["assistant"] = "assistant"
    model: str
    content: list[Content]
    stop_reason: StopReason | None
    """Null only at the start of a stream."""
    stop_sequence: str | None
    usage: MessagesUsage


class CountTokensAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """The number of tokens of a prompt."""

    input_tokens: int


class MessageStart(msgspec.Struct, frozen=True, kw_only=True, tag_field="type", tag="message_start"):
    """The message, without content."""

    message: MessagesAnswer


class ContentBlockStart(msgspec.Struct, frozen=True, kw_only=True, tag_field="type", tag="content_block_start"):
    """A block, empty."""

    index: int
    content_block: Content


class TextDelta(msgspec.Struct, frozen=True, kw_only=True, tag_field="type", tag="text_delta"):
    """More text."""

    text: str


class ThinkingDelta(msgspec.Struct, frozen=True, kw_only=True, tag_field="type", tag="thinking_delta"):
    """More reasoning."""

    thinking: str


class SignatureDelta(msgspec.Struct, frozen=True, kw_only=True, tag_field="type", tag="signature_delta"):
    """The signature, at the end of the reasoning."""

    signature: str


class InputJsonDelta(msgspec.Struct, frozen=True, kw_only=True, tag_field="type", tag="input_json_delta"):
    """More of the JSON of a call's input."""

    partial_json: str


class ContentBlockDelta(msgspec.Struct, frozen=True, kw_only=True, tag_field="type", tag="content_block_delta"):
    """More of a block."""

    index: int
    delta: TextDelta | ThinkingDelta | SignatureDelta | InputJsonDelta


class ContentBlockStop(msgspec.Struct, frozen=True, kw_only=True, tag_field="type", tag="content_block_stop"):
    """The end of a block."""

    index: int


class MessageEnding(msgspec.Struct, frozen=True, kw_only=True):
    """Why the message ended."""

    stop_reason: StopReason
    stop_sequence: str | None


class MessageDelta(msgspec.Struct, frozen=True, kw_only=True, tag_field="type", tag="message_delta"):
    """What is known only at the end of a message."""

    delta: MessageEnding
    usage: MessagesUsage


class MessageStop(msgspec.Struct, frozen=True, kw_only=True, tag_field="type", tag="message_stop"):
    """The end of the stream."""


MessageEvent = MessageStart | ContentBlockStart | ContentBlockDelta | ContentBlockStop | MessageDelta | MessageStop

NO_USAGE = MessagesUsage(
    input_tokens=0,
    cache_creation_input_tokens=0,
    cache_read_input_tokens=0,
    output_tokens=0,
    service_tier="standard",
)
"""Of a message that has just begun: engines report usage at the end."""


def messages_usage(usage: GenerationUsage) -> MessagesUsage:
    """Anthropic's usage for a generation's."""
    cached = usage.cached_tokens or 0
    reasoning = usage.reasoning_tokens
    return MessagesUsage(
        input_tokens=usage.prompt_tokens - cached,
        cache_creation_input_tokens=0,
        cache_read_input_tokens=cached,
        output_tokens=usage.completion_tokens,
        output_tokens_details=ThinkingTokens(thinking_tokens=reasoning) if reasoning is not None else None,
        service_tier="standard",
    )
