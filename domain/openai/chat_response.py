"""`POST /v1/chat/completions`: what is answered, whole and in chunks.

Source: OpenAI's schemas `CreateChatCompletionResponse` and `CreateChatCompletionStreamResponse`, and what its
service sends: a first delta with the role alone, a last one that is empty.
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
    """The function of a call; in a stream, a part of it."""

    name: str | Unset = UNSET
    arguments: str = ""


class ChatToolCall(msgspec.Struct, kw_only=True):
    """One call; in a stream a part of it, with its index, and with id, type and name the first time only."""

    index: int | Unset = UNSET
    id: str | Unset = UNSET
    type: Literal["function"] | Unset = UNSET
    function: ToolCallFunction


class ChatMessage(msgspec.Struct, kw_only=True):
    """The answer of one choice. `reasoning_content` is there if the model thought, `tool_calls` if it called."""

    role: Literal["assistant"] = "assistant"
    content: str | None
    refusal: None = None
    annotations: list[Any] = []
    reasoning_content: str | Unset = UNSET
    tool_calls: list[ChatToolCall] | Unset = UNSET


class ChatDelta(msgspec.Struct, kw_only=True):
    """What a choice gained: only the fields that it gained something in."""

    role: Literal["assistant"] | Unset = UNSET
    content: str | None | Unset = UNSET
    refusal: None | Unset = UNSET
    reasoning_content: str | Unset = UNSET
    tool_calls: list[ChatToolCall] | Unset = UNSET


class TopLogprob(msgspec.Struct, frozen=True, kw_only=True):
    """One of the likeliest tokens of a position."""

    token: str
    logprob: float
    bytes: list[int]


class ChatTokenLogprob(TopLogprob, frozen=True, kw_only=True):
    """The token of a position, and the likeliest ones there."""

    top_logprobs: list[TopLogprob]


class ChatLogprobs(msgspec.Struct, frozen=True, kw_only=True):
    """Log probabilities of the tokens of a choice."""

    content: list[ChatTokenLogprob]
    refusal: None = None


class ChatChoice(msgspec.Struct, frozen=True, kw_only=True):
    """One whole choice."""

    index: int
    message: ChatMessage
    logprobs: ChatLogprobs | None
    finish_reason: ChatFinishReason | None


class ChatChunkChoice(msgspec.Struct, frozen=True, kw_only=True):
    """What one choice gained."""

    index: int
    delta: ChatDelta
    logprobs: ChatLogprobs | None = None
    finish_reason: ChatFinishReason | None = None


class ChatCompletion(msgspec.Struct, frozen=True, kw_only=True):
    """The whole answer."""

    id: str
    object: Literal["chat.completion"] = "chat.completion"
    created: int
    model: str
    choices: list[ChatChoice]
    usage: Usage


class ChatChunk(msgspec.Struct, frozen=True, kw_only=True):
    """One chunk of a stream. With `include_usage`, `usage` is null on all but the last; without, absent."""

    id: str
    object: Literal["chat.completion.chunk"] = "chat.completion.chunk"
    created: int
    model: str
    choices: list[ChatChunkChoice]
    usage: Usage | None | Unset = UNSET


def chat_logprobs(tokens: list[TokenLogprob] | None, top_logprobs: int) -> ChatLogprobs | None:
    """OpenAI's object for log probabilities, with so many likeliest tokens at each position, likeliest first."""
    if tokens is None:
        return None
    return ChatLogprobs(content=[_token_logprob(token, top_logprobs) for token in tokens])


def _token_logprob(token: TokenLogprob, top_logprobs: int) -> ChatTokenLogprob:
    # Stable: of equals, the engine's order stays.
    likeliest = sorted(token.top or [], key=lambda pair: -pair[1])[:top_logprobs]
    return ChatTokenLogprob(
        token=token.token,
        logprob=token.logprob if token.logprob is not None else 0.0,
        bytes=_bytes(token.token),
        top_logprobs=[TopLogprob(token=text, logprob=number, bytes=_bytes(text)) for text, number in likeliest],
    )


def _bytes(text: str) -> list[int]:
    return list(text.encode("utf-8", errors="replace"))
