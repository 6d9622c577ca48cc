"""The response object, its usage, and the objects of the other endpoints for responses and conversations.

Source: OpenAI's schemas `Response`, `ResponseItemList`, `TokenCountsResource` and `ConversationResource`.
"""

import secrets
import time
from collections.abc import Sequence
from typing import Any, Literal

import msgspec

from domain.errors import InferenceError, InvalidRequestError, RateLimitError
from domain.openai.responses.body import ResponseBody, TextFormat, TextOptions
from domain.openai.responses.tools import ClientTool
from domain.results import GenerationUsage
from domain.service_class import FLEX_TIER
from domain.state import ResponseStatus

UNSET = msgspec.UNSET
Unset = msgspec.UnsetType


class InputTokensDetails(msgspec.Struct, frozen=True, kw_only=True):
    """Breakdown of input tokens."""

    cached_tokens: int
    cache_write_tokens: int = 0


class OutputTokensDetails(msgspec.Struct, frozen=True, kw_only=True):
    """Breakdown of output tokens."""

    reasoning_tokens: int


class ResponseUsage(msgspec.Struct, frozen=True, kw_only=True):
    """OpenAI's schema `ResponseUsage`."""

    input_tokens: int
    input_tokens_details: InputTokensDetails
    output_tokens: int
    output_tokens_details: OutputTokensDetails
    total_tokens: int


class ResponseError(msgspec.Struct, frozen=True, kw_only=True):
    """Why a response failed."""

    code: Literal["server_error", "rate_limit_exceeded", "invalid_prompt"]
    message: str


class IncompleteDetails(msgspec.Struct, frozen=True, kw_only=True):
    """Why a response is incomplete."""

    reason: Literal["max_output_tokens"]


class Reasoning(msgspec.Struct, frozen=True, kw_only=True):
    """The request's reasoning options."""

    effort: str | None = None
    summary: str | None = None


class Text(msgspec.Struct, frozen=True, kw_only=True):
    """The request's text options."""

    format: Any
    verbosity: str = "medium"


class ConversationReference(msgspec.Struct, frozen=True):
    """The conversation that a response belongs to."""

    id: str


class Response(msgspec.Struct, kw_only=True):
    """OpenAI's schema `Response`."""

    id: str
    object: Literal["response"] = "response"
    created_at: int
    status: ResponseStatus
    background: bool
    completed_at: int | None = None
    conversation: ConversationReference | None = None
    error: ResponseError | None = None
    frequency_penalty: float
    incomplete_details: IncompleteDetails | None = None
    instructions: str | None
    max_output_tokens: int | None
    max_tool_calls: int | None
    metadata: dict[str, str]
    model: str
    output: list[msgspec.Raw] = []
    parallel_tool_calls: bool
    presence_penalty: float
    previous_response_id: str | None
    prompt_cache_key: str | None
    reasoning: Reasoning
    safety_identifier: str | None
    service_tier: str = "default"
    store: bool
    temperature: float
    text: msgspec.Raw
    tool_choice: msgspec.Raw
    tools: msgspec.Raw
    top_logprobs: int
    top_p: float
    truncation: str
    usage: ResponseUsage | None = None
    user: str | None

    def ended(self, status: ResponseStatus, **changes: Any) -> "Response":
        """A copy that has ended. Only a completed one has the time at which it was completed."""
        completed_at = int(time.time()) if status is ResponseStatus.COMPLETED else None
        return msgspec.structs.replace(self, status=status, completed_at=completed_at, **changes)


def new_response_id() -> str:
    """A new id such as `resp_6f1c…`."""
    # Without API keys, an id is all that is needed to read a response.
    return f"resp_{secrets.token_hex(16)}"


def begin_response(
    body: ResponseBody,
    tools: Sequence[ClientTool],
    *,
    response_id: str,
    model: str,
    is_stored: bool,
) -> Response:
    """The response before it has any output, in progress.

    What follows from the request alone is encoded once, because a stream repeats it in three events.

    Args:
        body: the request.
        tools: its tools, without those that are ignored.
        response_id: the response's id.
        model: the served model's name.
        is_stored: whether the response is stored.
    """
    options = body.reasoning
    return Response(
        id=response_id,
        created_at=int(time.time()),
        status=ResponseStatus.QUEUED if body.background else ResponseStatus.IN_PROGRESS,
        background=bool(body.background),
        conversation=ConversationReference(body.conversation_id) if body.conversation_id is not None else None,
        frequency_penalty=body.frequency_penalty or 0.0,
        instructions=body.instructions,
        max_output_tokens=body.max_output_tokens,
        max_tool_calls=body.max_tool_calls,
        metadata=body.metadata or {},
        model=model,
        parallel_tool_calls=body.parallel_tool_calls is not False,
        presence_penalty=body.presence_penalty or 0.0,
        previous_response_id=body.previous_response_id,
        prompt_cache_key=body.prompt_cache_key,
        reasoning=Reasoning(
            effort=options.effort if options is not None else None,
            summary=(options.summary or options.generate_summary) if options is not None else None,
        ),
        safety_identifier=body.safety_identifier,
        service_tier=FLEX_TIER if body.service_tier == FLEX_TIER else "default",
        store=is_stored,
        temperature=1.0 if body.temperature is None else body.temperature,
        text=_text(body.text),
        tool_choice=_AUTO if body.tool_choice is None else _raw(body.tool_choice),
        tools=_raw(tools),
        top_logprobs=body.top_logprobs or 0,
        top_p=1.0 if body.top_p is None else body.top_p,
        truncation=body.truncation or "disabled",
        user=body.user,
    )


_encode = msgspec.json.Encoder().encode


def _raw(value: Any) -> msgspec.Raw:
    return msgspec.Raw(_encode(value))


_PLAIN_TEXT = _raw(Text(format=TextFormat()))
_AUTO = _raw("auto")


def _text(options: TextOptions | None) -> msgspec.Raw:
    if options is None:
        return _PLAIN_TEXT
    return _raw(Text(format=options.format or TextFormat(), verbosity=options.verbosity or "medium"))


def response_usage(usage: GenerationUsage) -> ResponseUsage:
    """The usage in the shape of the Responses API; what the engine does not report is 0."""
    return ResponseUsage(
        input_tokens=usage.prompt_tokens,
        input_tokens_details=InputTokensDetails(cached_tokens=usage.cached_tokens or 0),
        output_tokens=usage.completion_tokens,
        output_tokens_details=OutputTokensDetails(reasoning_tokens=usage.reasoning_tokens or 0),
        total_tokens=usage.total_tokens,
    )


def response_error(error: InferenceError) -> ResponseError:
    """The error of a failed response."""
    if isinstance(error, RateLimitError):
        return ResponseError(code="rate_limit_exceeded", message=error.message)
    if isinstance(error, InvalidRequestError):
        return ResponseError(code="invalid_prompt", message=error.message)
    return ResponseError(code="server_error", message=error.message)


class TokenCount(msgspec.Struct, frozen=True, kw_only=True):
    """Answer of `POST /v1/responses/input_tokens`."""

    object: Literal["response.input_tokens"] = "response.input_tokens"
    input_tokens: int


class Compaction(msgspec.Struct, frozen=True, kw_only=True):
    """Answer of `POST /v1/responses/compact`."""

    id: str
    object: Literal["response.compaction"] = "response.compaction"
    created_at: int
    output: list[msgspec.Raw]
    usage: ResponseUsage


class ItemList(msgspec.Struct, frozen=True, kw_only=True):
    """A page of items."""

    object: Literal["list"] = "list"
    data: list[msgspec.Raw]
    first_id: str | None
    last_id: str | None
    has_more: bool


class StoredItem(msgspec.Struct, frozen=True, kw_only=True):
    """An item of a conversation; the other fields depend on its type."""

    id: str
    type: str


class Conversation(msgspec.Struct, frozen=True, kw_only=True):
    """A conversation, without its items."""

    id: str
    object: Literal["conversation"] = "conversation"
    created_at: int
    metadata: dict[str, str]


class Deleted(msgspec.Struct, frozen=True, kw_only=True):
    """Confirms that something was deleted."""

    id: str
    object: Literal["response", "conversation.deleted"]
    deleted: bool = True
