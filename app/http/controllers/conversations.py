"""`/v1/conversations`: stored conversations and their items."""

from typing import Annotated

import msgspec
from litestar.params import FromPath
from litestar.types import ASGIApp

from app.http.body_parts import body_parts, report_ignored
from app.http.codec import BodyDecoder
from app.http.controllers.responses import responses_of
from app.http.queries import read_query
from app.http.rate_limits import owner_of
from app.http.requests import AnyRequest, JSONAnswer, json_response, read_body
from app.responses.conversations import Conversations
from app.responses.pages import PageQuery, page_of
from domain.openai.common import TextMap
from domain.openai.field import describe
from domain.openai.responses.items import ResponseItem, read_items
from domain.openai.responses.response import Deleted


class CreateConversationBody(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Body of a request for a conversation."""

    items: Annotated[list[msgspec.Raw] | None, describe("Its first items, at most 20.")] = None
    metadata: Annotated[TextMap | None, describe("At most 16 key-value pairs.")] = None


class UpdateConversationBody(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Body of a request to change a conversation."""

    metadata: Annotated[TextMap, describe("Replaces the metadata.")]


class AddItemsBody(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Body of a request to add items to a conversation."""

    items: Annotated[list[msgspec.Raw], describe("The items, at most 20.")]


create_decoder = BodyDecoder(CreateConversationBody, is_tolerant=True)
update_decoder = BodyDecoder(UpdateConversationBody, is_tolerant=True)
add_decoder = BodyDecoder(AddItemsBody, is_tolerant=True)


def conversations_of(request: AnyRequest) -> Conversations:
    """The conversations of the request's key."""
    return Conversations(responses_of(request).state, owner_of(request))


async def create_conversation(request: AnyRequest) -> ASGIApp:
    """Create a conversation."""
    body = await read_body(request, create_decoder)
    items = await _read_items(request, body.items or [])
    return json_response(await conversations_of(request).create(items, body.metadata or {}))


async def retrieve_conversation(request: AnyRequest, conversation_id: FromPath[str]) -> ASGIApp:
    """Retrieve a conversation."""
    return json_response(await conversations_of(request).get(conversation_id))


async def update_conversation(request: AnyRequest, conversation_id: FromPath[str]) -> ASGIApp:
    """Replace a conversation's metadata."""
    body = await read_body(request, update_decoder)
    return json_response(await conversations_of(request).update(conversation_id, body.metadata))


async def delete_conversation(request: AnyRequest, conversation_id: FromPath[str]) -> ASGIApp:
    """Delete a conversation and its items."""
    await conversations_of(request).delete(conversation_id)
    return json_response(Deleted(id=conversation_id, object="conversation.deleted"))


async def list_conversation_items(request: AnyRequest, conversation_id: FromPath[str]) -> ASGIApp:
    """List a conversation's items."""
    query = read_query(request, PageQuery)
    return json_response(page_of(await conversations_of(request).items(conversation_id), query))


async def add_conversation_items(request: AnyRequest, conversation_id: FromPath[str]) -> ASGIApp:
    """Add items to a conversation."""
    body = await read_body(request, add_decoder)
    items = await _read_items(request, body.items)
    added = await conversations_of(request).add(conversation_id, items)
    return json_response(page_of(added, PageQuery(order="asc")))


async def retrieve_conversation_item(
    request: AnyRequest, conversation_id: FromPath[str], item_id: FromPath[str]
) -> ASGIApp:
    """Retrieve an item of a conversation."""
    return JSONAnswer((await conversations_of(request).item(conversation_id, item_id)).data, 200)


async def delete_conversation_item(
    request: AnyRequest, conversation_id: FromPath[str], item_id: FromPath[str]
) -> ASGIApp:
    """Delete an item of a conversation; the answer is the conversation."""
    return json_response(await conversations_of(request).delete_item(conversation_id, item_id))


async def _read_items(request: AnyRequest, raws: list[msgspec.Raw]) -> list[ResponseItem]:
    parts = body_parts(request)
    read = read_items([bytes(raw) for raw in raws], parts.decode, parts.ignore, "items")
    items = await responses_of(request).history(owner_of(request)).resolve(read, parts.decode)
    report_ignored(request, parts)
    return items
