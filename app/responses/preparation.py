"""Turns a request of the Responses API into a generation and the presenter of its answer."""

import time
from collections.abc import Sequence

import msgspec

from app.responses.field_names import response_field_names
from app.responses.history import History, stored_items
from app.responses.summary import summarizing
from app.responses.truncation import fitting, prompt_limit, token_counter
from domain.catalog import ServedModel
from domain.conversation import Conversation
from domain.openai.responses.body import InputFields, ResponseBody
from domain.openai.responses.conversation import to_messages
from domain.openai.responses.items import (
    CompactionTrigger,
    DecodePart,
    IgnorePart,
    ResponseItem,
    stored_item,
)
from domain.openai.responses.presenter import ResponsePresenter
from domain.openai.responses.response import begin_response, new_response_id
from domain.openai.responses.tools import CallableTools, ClientTool
from domain.port import RequestContext
from domain.requests import GenerationRequest
from domain.state import Item, ResponseStatus, StoredResponse


class Parts(msgspec.Struct, frozen=True):
    """How the parts of a body are decoded."""

    decode: DecodePart
    ignore: IgnorePart


class Prepared(msgspec.Struct, frozen=True, kw_only=True):
    """A response that can be generated."""

    model: ServedModel
    generation: GenerationRequest
    presenter: ResponsePresenter
    earlier: Sequence[Item]
    """The items before those of the request."""
    input: Sequence[Item]
    """The items of the request; empty unless they are stored or kept."""


class Prompt(msgspec.Struct, frozen=True, kw_only=True):
    """The conversation of a request."""

    conversation: Conversation
    tools: dict[int, ClientTool]
    callable: CallableTools
    earlier: Sequence[Item]
    items: Sequence[ResponseItem]
    """The items of the request alone."""
    all_items: Sequence[ResponseItem]
    """The earlier items and those of the request."""
    is_compaction: bool
    """Whether the request asks for a summary instead of an answer."""


async def prepare(
    body: ResponseBody,
    model: ServedModel,
    history: History,
    parts: Parts,
    context: RequestContext,
    *,
    is_stored: bool,
    keeps_input: bool,
) -> Prepared:
    """Prepare a response.

    Args:
        body: the request.
        model: the model that answers.
        history: finds what the request continues.
        parts: how items and tools are decoded.
        context: of the calls that count tokens.
        is_stored: whether the response will be stored.
        keeps_input: whether the request's items are needed later.

    Raises:
        InferenceError: the request is invalid, or what it continues is not stored.
    """
    body.check()
    prompt = await read_prompt(body, model, history, parts, context, max_output_tokens=body.max_output_tokens)
    if prompt.is_compaction:
        generation = await summarizing(body, prompt.all_items, model, context)
    else:
        generation = body.to_request(prompt.conversation, prompt.callable)
    with response_field_names():
        model.require_room([generation])
    response = begin_response(
        body,
        list(prompt.tools.values()),
        response_id=new_response_id(),
        model=model.name or body.model,
        is_stored=is_stored,
    )
    return Prepared(
        model=model,
        generation=generation,
        presenter=ResponsePresenter(response, body, prompt.callable, is_compaction=prompt.is_compaction),
        earlier=prompt.earlier,
        input=[stored_item(item) for item in prompt.items] if keeps_input else (),
    )


async def read_prompt(
    body: InputFields,
    model: ServedModel,
    history: History,
    parts: Parts,
    context: RequestContext,
    *,
    max_output_tokens: int | None = None,
) -> Prompt:
    """Read the conversation that a request is about, shortened if it asks for that.

    Raises:
        InferenceError: the request is invalid, or what it continues is not stored.
    """
    tools = body.read_tools(parts.decode, parts.ignore)
    callable_ = body.callable_tools(tools)
    read = body.read_input(parts.decode, parts.ignore)
    is_compaction = bool(read) and isinstance(read[-1], CompactionTrigger)
    own = await history.resolve(read, parts.decode)
    earlier = await history.earlier(body)
    items = [*stored_items(earlier, parts.decode), *own] if earlier else own

    def build(kept: Sequence[ResponseItem]) -> Conversation:
        return body.to_conversation(to_messages(kept, body.instructions), callable_)

    card = model.backend.card
    if body.truncation == "auto" and card is not None and card.max_model_len is not None:
        limit = prompt_limit(card.max_model_len, max_output_tokens)
        conversation = await fitting(items, build, token_counter(model, context), max_tokens=limit)
    else:
        conversation = build(items)
    return Prompt(
        conversation=conversation,
        tools=tools,
        callable=callable_,
        earlier=earlier,
        items=own,
        all_items=items,
        is_compaction=is_compaction,
    )


def record(prepared: Prepared, owner: str) -> StoredResponse:
    """What the store keeps of a response, as it is now."""
    response = prepared.presenter.response
    is_finished = response.status not in (ResponseStatus.QUEUED, ResponseStatus.IN_PROGRESS)
    return StoredResponse(
        id=response.id,
        owner=owner,
        created=int(time.time()),
        status=response.status,
        body=msgspec.json.encode(response),
        input=prepared.input,
        output=prepared.presenter.items if is_finished else (),
        previous_id=response.previous_response_id,
        conversation_id=response.conversation.id if response.conversation is not None else None,
        is_background=response.background,
    )
