"""Stored conversations (OpenAI's Conversations API)."""

import secrets
import time
from collections.abc import Mapping, Sequence
from typing import TypeVar

from app.responses.history import IS_OFF
from domain.errors import InvalidRequestError, StoredObjectNotFoundError
from domain.openai.responses.items import ResponseItem, stored_item
from domain.openai.responses.response import Conversation
from domain.state import Item, StateStore, StoredConversation

T = TypeVar("T")

CONVERSATION = "Conversation"
MAX_ITEMS = 20
"""Items that one request may add (OpenAI's limit)."""


class Conversations:
    """The conversations of one owner."""

    def __init__(self, state: StateStore | None, owner: str) -> None:
        """Create it.

        Args:
            state: the store; None if nothing is stored.
            owner: whose conversations they are.
        """
        self._state = state
        self._owner = owner

    async def create(self, items: Sequence[ResponseItem], metadata: Mapping[str, str]) -> Conversation:
        """Create a conversation with its first items.

        Raises:
            InvalidRequestError: nothing is stored here, or there are too many items.
        """
        if self._state is None:
            raise InvalidRequestError(f"Conversations are not available. {IS_OFF}", code="unsupported_operation")
        stored = StoredConversation(
            id=f"conv_{secrets.token_hex(16)}", owner=self._owner, created=int(time.time()), metadata=metadata
        )
        await self._state.create_conversation(stored, _new(items))
        return _shown(stored)

    async def get(self, conversation_id: str) -> Conversation:
        """A conversation. Raises StoredObjectNotFoundError if there is none of that id."""
        found = await self._store(conversation_id).conversation(self._owner, conversation_id)
        return _shown(_found(found, conversation_id))

    async def update(self, conversation_id: str, metadata: Mapping[str, str]) -> Conversation:
        """Replace a conversation's metadata. Raises StoredObjectNotFoundError if there is none of that id."""
        store = self._store(conversation_id)
        found = await store.update_conversation(self._owner, conversation_id, metadata)
        return _shown(_found(found, conversation_id))

    async def delete(self, conversation_id: str) -> None:
        """Delete a conversation. Raises StoredObjectNotFoundError if there is none of that id."""
        if not await self._store(conversation_id).delete_conversation(self._owner, conversation_id):
            raise StoredObjectNotFoundError(CONVERSATION, conversation_id, param="conversation_id")

    async def items(self, conversation_id: str) -> Sequence[Item]:
        """All items, oldest first. Raises StoredObjectNotFoundError if there is no such conversation."""
        found = await self._store(conversation_id).conversation_items(self._owner, conversation_id)
        return _found(found, conversation_id)

    async def item(self, conversation_id: str, item_id: str) -> Item:
        """One item. Raises StoredObjectNotFoundError if there is no such conversation or item."""
        for item in await self.items(conversation_id):
            if item.id == item_id:
                return item
        raise StoredObjectNotFoundError("Item", item_id, param="item_id")

    async def add(self, conversation_id: str, items: Sequence[ResponseItem]) -> Sequence[Item]:
        """Append items.

        Raises:
            StoredObjectNotFoundError: there is no such conversation.
            InvalidRequestError: there are too many items.
        """
        new = _new(items)
        if not await self._store(conversation_id).add_conversation_items(self._owner, conversation_id, new):
            raise StoredObjectNotFoundError(CONVERSATION, conversation_id, param="conversation_id")
        return new

    async def delete_item(self, conversation_id: str, item_id: str) -> Conversation:
        """Delete an item; return the conversation.

        Raises:
            StoredObjectNotFoundError: there is no such conversation or item.
        """
        conversation = await self.get(conversation_id)
        store = self._store(conversation_id)
        if not await store.delete_conversation_item(self._owner, conversation_id, item_id):
            raise StoredObjectNotFoundError("Item", item_id, param="item_id")
        return conversation

    def _store(self, conversation_id: str) -> StateStore:
        if self._state is None:
            raise StoredObjectNotFoundError(CONVERSATION, conversation_id, param="conversation_id", hint=IS_OFF)
        return self._state


def _new(items: Sequence[ResponseItem]) -> list[Item]:
    if len(items) > MAX_ITEMS:
        raise InvalidRequestError(
            f"'items' has {len(items)} items; at most {MAX_ITEMS} can be added at a time.",
            param="items",
            code="array_above_max_length",
        )
    return [stored_item(item) for item in items]


def _found(found: T | None, conversation_id: str) -> T:
    if found is None:
        raise StoredObjectNotFoundError(CONVERSATION, conversation_id, param="conversation_id")
    return found


def _shown(conversation: StoredConversation) -> Conversation:
    return Conversation(id=conversation.id, created_at=conversation.created, metadata=dict(conversation.metadata))
