"""Finds what a request continues: an earlier response, a conversation, and items that it refers to by their id."""

from collections.abc import Mapping, Sequence

from domain.errors import InvalidRequestError, PreviousResponseError, StoredObjectNotFoundError
from domain.openai.responses.body import InputFields
from domain.openai.responses.items import (
    AnyItem,
    CompactionTrigger,
    DecodePart,
    ItemReference,
    ResponseItem,
    read_items,
)
from domain.state import Item, StateStore

IS_OFF = "Responses are not stored here, because STATE is off. Send the whole conversation as 'input'."
UNSTORED = (
    "It may have been deleted, expired, or created with 'store' set to false. Send the conversation as 'input'."
)
UNSTORED_ITEM = "Items are not stored if 'store' is false. Send the item itself instead of a reference."
MAX_RECENT = 16
"""Responses of one connection that can be continued."""


class RecentResponses:
    """Responses of one connection that can be continued on it without being stored."""

    def __init__(self) -> None:
        self._items: dict[str, Sequence[Item]] = {}

    def keep(self, response_id: str, items: Sequence[Item]) -> None:
        """Keep the whole history of a response, and of some that were kept before."""
        self._items[response_id] = items
        if len(self._items) > MAX_RECENT:
            del self._items[next(iter(self._items))]

    def forget(self, response_id: str) -> None:
        """Forget a response."""
        self._items.pop(response_id, None)

    def get(self, response_id: str) -> Sequence[Item] | None:
        """The history of a response, or None."""
        return self._items.get(response_id)

    def items(self) -> Mapping[str, Item]:
        """All kept items by their id."""
        return {item.id: item for items in self._items.values() for item in items}


class History:
    """Reads what an owner has stored."""

    def __init__(self, state: StateStore | None, owner: str, recent: RecentResponses | None = None) -> None:
        """Create it.

        Args:
            state: the store; None if nothing is stored.
            owner: whose responses and conversations can be read.
            recent: responses of the client's connection.
        """
        self._state = state
        self._owner = owner
        self._recent = recent

    async def earlier(self, body: InputFields) -> Sequence[Item]:
        """The items that precede those of a request, oldest first.

        Raises:
            PreviousResponseError: the response to continue is not stored, or not finished.
            StoredObjectNotFoundError: the conversation is not stored.
        """
        if body.previous_response_id is not None:
            return await self._response(body.previous_response_id)
        if body.conversation_id is not None:
            return await self._conversation(body.conversation_id)
        return ()

    async def resolve(self, items: Sequence[AnyItem], decode: DecodePart) -> list[ResponseItem]:
        """Replace references by the items that they refer to, and leave out what only triggers a compaction.

        Raises:
            StoredObjectNotFoundError: an item is not stored.
        """
        wanted = [item.id for item in items if isinstance(item, ItemReference)]
        if not wanted:
            return [item for item in items if not isinstance(item, ItemReference | CompactionTrigger)]
        found = dict(self._recent.items()) if self._recent is not None else {}
        missing = [item_id for item_id in wanted if item_id not in found]
        if missing and self._state is not None:
            found |= await self._state.items(self._owner, missing)
        resolved: list[ResponseItem] = []
        for position, item in enumerate(items):
            if isinstance(item, CompactionTrigger):
                continue
            if not isinstance(item, ItemReference):
                resolved.append(item)
                continue
            if item.id not in found:
                raise StoredObjectNotFoundError(
                    "Item", item.id, param=f"input[{position}].id", hint=UNSTORED_ITEM if self._state else IS_OFF
                )
            resolved += stored_items([found[item.id]], decode)
        return resolved

    async def _response(self, response_id: str) -> Sequence[Item]:
        if self._recent is not None and (items := self._recent.get(response_id)) is not None:
            return items
        if self._state is None:
            raise PreviousResponseError(response_id, IS_OFF)
        found = await self._state.history(self._owner, response_id)
        if found is None:
            raise PreviousResponseError(response_id, UNSTORED)
        return found

    async def _conversation(self, conversation_id: str) -> Sequence[Item]:
        if self._state is None:
            raise StoredObjectNotFoundError("Conversation", conversation_id, param="conversation", hint=IS_OFF)
        found = await self._state.conversation_items(self._owner, conversation_id)
        if found is None:
            raise StoredObjectNotFoundError("Conversation", conversation_id, param="conversation")
        return found


def stored_items(items: Sequence[Item], decode: DecodePart) -> list[ResponseItem]:
    """Decode stored items, which contain no references."""
    read = read_items([item.data for item in items], decode, _refuse_unknown)
    return [item for item in read if not isinstance(item, ItemReference | CompactionTrigger)]


def _refuse_unknown(path: str, name: str) -> None:
    raise InvalidRequestError(f"The stored item at '{path}' has the type '{name[:40]}', which is not supported.")
