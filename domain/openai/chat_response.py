"""Response schemas of `POST /v1/chat/completions`, complete and streamed.

Source: OpenAI's schemas `CreateChatCompletionResponse` and `CreateChatCompletionStreamResponse`, and the behavior
of its service: the first delta has only the role, and the last one is empty.
"""

import enum
from typing import Any, Literal

import msgspec

from domain.openai.common import Usage
from domain.results import TokenLogprob

UNSET = msgspec.UNSET
Unset = msgspec.UnsetType


class ChatFinishReason(enum.StrEnum):
    """Why a choice ended."""

    STOP = "stop"
    LENGTH = "length"
    TOOL_CALLS = "tool_calls"


class ToolCallFunction(msgspec.Struct, kw_only=True):
    """The function of a tool call; in a stream, a part of it."""

    name: str | Unset = UNSET
    arguments: str = ""


class ChatToolCall(msgspec.Struct, kw_only=True):
    """One tool call; in a stream a part of it, with its index; only the first part has id, type and name."""

    index: int | Unset = UNSET
    id: str | Unset = UNSET
    type: Literal["function"] | Unset = UNSET
    function: ToolCallFunction


class ChatMessage(msgspec.Struct, kw_only=True):
    """The message of one choice; `reasoning_content` and `tool_calls` are present only if they are not empty."""

    role: Literal["assistant"] = "assistant"
    content: str | None
    refusal: None = None
    annotations: list[Any] = []
    reasoning_content: str | Unset = UNSET
    tool_calls: list[ChatToolCall] | Unset = UNSET


class ChatDelta(msgspec.Struct, kw_only=True):
    """A delta of one choice; only fields with new content are present."""

    role: Literal["assistant"] | Unset = UNSET
    content: str | None | Unset = UNSET
    refusal: None | Unset = UNSET
    reasoning_content: str | Unset = UNSET
    tool_calls: list[ChatToolCall] | Unset = UNSET


class TopLogprob(msgspec.Struct, frozen=True, kw_only=True):
    """One of the most likely tokens at a position."""

    token: str
    logprob: float
    bytes: list[int]


class ChatTokenLogprob(TopLogprob, frozen=True, kw_only=True):
    """The token at a position, and the most likely ones there."""

    top_logprobs: list[TopLogprob]


class ChatLogprobs(msgspec.Struct, frozen=True, kw_only=True):
    """Log probabilities of the tokens of a choice."""

    content: list[ChatTokenLogprob]
    refusal: None = None


class ChatChoice(msgspec.Struct, frozen=True, kw_only=True):
    """One complete choice."""

    index: int
    message: ChatMessage
    logprobs: ChatLogprobs | None
    finish_reason: ChatFinishReason | None


class ChatChunkChoice(msgspec.Struct, frozen=True, kw_only=True):
    """A delta of one choice in a chunk."""

    index: int
    delta: ChatDelta
    logprobs: ChatLogprobs | None = None
    finish_reason: ChatFinishReason | None = None


class ChatCompletion(msgspec.Struct, frozen=True, kw_only=True):
    """The complete response."""

    id: str
    object: Literal["chat.completion"] = "chat.completion"
    created: int
    model: str
    choices: list[ChatChoice]
    usage: Usage
    service_tier: Literal["flex"] | Unset = UNSET
    """Present only if the request asked for it."""


class ChatChunk(msgspec.Struct, frozen=True, kw_only=True):
    """One chunk of a stream. With `include_usage`, `usage` is null on all but the last; otherwise it is absent."""

    id: str
    object: Literal["chat.completion.chunk"] = "chat.completion.chunk"
    created: int
    model: str
    choices: list[ChatChunkChoice]
    usage: Usage | None | Unset = UNSET
    service_tier: Literal["flex"] | Unset = UNSET
    """As in `ChatCompletion`."""


def chat_logprobs(tokens: list[TokenLogprob] | None, top_logprobs: int) -> ChatLogprobs | None:
    """OpenAI's log probabilities, with the `top_logprobs` most likely tokens per position, most likely first."""
    if tokens is None:
        return None
    return ChatLogprobs(content=[_token_logprob(token, top_logprobs) for token in tokens])


def _token_logprob(token: TokenLogprob, top_logprobs: int) -> ChatTokenLogprob:
    # The sort is stable: ties keep the engine's order.
    most_likely = sorted(token.top or [], key=lambda pair: -pair[1])[:top_logprobs]
    return ChatTokenLogprob(
        token=token.token,
        logprob=token.logprob if token.logprob is not None else 0.0,
        bytes=_bytes(token.token),
        top_logprobs=[TopLogprob(token=text, logprob=number, bytes=_bytes(text)) for text, number in most_likely],
    )


def _bytes(text: str) -> list[int]:
    return list(text.encode("utf-8", errors="replace"))
