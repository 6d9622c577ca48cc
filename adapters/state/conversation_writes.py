"""Writes conversations and their items."""

import time
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
from sqlalchemy import Connection, bindparam, delete, select, update

from adapters.state.database import Database
from adapters.state.tables import conversations, items
from adapters.state.texts import storable
from domain.state import Item, StoredConversation, StoredResponse


class ConversationWrites:
    """Functions that are called in a transaction of the writer. Ids and owners are storable texts."""

    def __init__(self, database: Database) -> None:
        self._insert_conversation = database.insert(conversations).on_conflict_do_nothing()
        self._insert_item = database.insert(items).on_conflict_do_nothing()

    def create(self, connection: Connection, conversation: StoredConversation, first: Sequence[Item]) -> None:
        """Store a conversation with its first items."""
        owner, conversation_id = storable(conversation.owner), storable(conversation.id)
        row = {
            "id": conversation_id,
            "owner": owner,
            "created": conversation.created,
            "used": _now(),
            "metadata": msgspec.json.encode(conversation.metadata),
            "next_position": len(first),
        }
        # A conversation of that id is there if a lost connection has hidden that an earlier try succeeded.
        if connection.execute(self._insert_conversation, row).rowcount:
            self._insert(connection, owner, conversation_id, 0, first)

    def update(
        self, connection: Connection, owner: str, conversation_id: str, metadata: Mapping[str, str]
    ) -> StoredConversation | None:
        """Replace a conversation's metadata; None if there is none."""
        mine = (conversations.c.id == conversation_id, conversations.c.owner == owner)
        changed = {"metadata": msgspec.json.encode(metadata), "used": _now()}
        if not connection.execute(update(conversations).where(*mine).values(changed)).rowcount:
            return None
        created = connection.execute(select(conversations.c.created).where(*mine)).scalar_one()
        return StoredConversation(id=conversation_id, owner=owner, created=created, metadata=dict(metadata))

    def delete(self, connection: Connection, owner: str, conversation_id: str) -> bool:
        """Delete a conversation; False if there is none."""
        found = connection.execute(
            delete(conversations).where(conversations.c.id == conversation_id, conversations.c.owner == owner)
        ).rowcount
        if found:
            delete_contents(connection, [conversation_id])
        return bool(found)

    def add(self, connection: Connection, owner: str, conversation_id: str, added: Sequence[Item]) -> bool:
        """Append items to a conversation; False if there is none."""
        found = _lock(connection, [conversation_id])
        if conversation_id not in found or found[conversation_id][0] != owner:
            return False
        first = found[conversation_id][1]
        _advance(connection, {conversation_id: first + len(added)})
        self._insert(connection, owner, conversation_id, first, added)
        return True

    def delete_item(self, connection: Connection, owner: str, conversation_id: str, item_id: str) -> bool:
        """Delete an item of a conversation; False if there is none."""
        found = _lock(connection, [conversation_id])
        if conversation_id not in found or found[conversation_id][0] != owner:
            return False
        mine = (items.c.conversation_id == conversation_id, items.c.item_id == item_id)
        count = connection.execute(delete(items).where(*mine, items.c.response_id.is_(None))).rowcount
        count += connection.execute(
            update(items).where(*mine).values(conversation_id=None, conversation_position=None)
        ).rowcount
        if count:
            _advance(connection, {conversation_id: found[conversation_id][1]})
        return bool(count)

    def append_responses(self, connection: Connection, finished: Sequence[StoredResponse]) -> None:
        """Append the stored items of responses to their conversations, as far as these exist."""
        wanted = {storable(each.conversation_id) for each in finished if each.conversation_id is not None}
        if not wanted:
            return
        found = _lock(connection, sorted(wanted))
        positions = {conversation_id: position for conversation_id, (_owner, position) in found.items()}
        rows: list[dict[str, Any]] = []
        for response in finished:
            conversation_id = storable(response.conversation_id) if response.conversation_id is not None else ""
            if conversation_id in found and found[conversation_id][0] == storable(response.owner):
                rows.append(
                    {
                        "b_response": storable(response.id),
                        "b_conversation": conversation_id,
                        "b_first": positions[conversation_id],
                    }
                )
                positions[conversation_id] += len(response.input) + len(response.output)
        if rows:
            connection.execute(_APPEND, rows)
            _advance(connection, {row["b_conversation"]: positions[row["b_conversation"]] for row in rows})

    def _insert(
        self, connection: Connection, owner: str, conversation_id: str, first: int, added: Sequence[Item]
    ) -> None:
        rows = [
            {
                "owner": owner,
                "item_id": storable(item.id),
                "response_id": None,
                "position": position,
                "is_output": False,
                "conversation_id": conversation_id,
                "conversation_position": position,
                "data": item.data,
            }
            for position, item in enumerate(added, first)
        ]
        if rows:
            connection.execute(self._insert_item, rows)


_APPEND = (
    update(items)
    # A repeated write appends nothing twice.
    .where(items.c.response_id == bindparam("b_response"), items.c.conversation_id.is_(None))
    .values(
        conversation_id=bindparam("b_conversation"),
        conversation_position=items.c.position + bindparam("b_first"),
    )
)
_ADVANCE = (
    update(conversations)
    .where(conversations.c.id == bindparam("b_id"))
    .values(next_position=bindparam("b_next"), used=bindparam("b_used"))
)


def delete_contents(connection: Connection, conversation_ids: Sequence[str]) -> None:
    """Delete the items of conversations, except those that belong to a response as well."""
    mine = items.c.conversation_id.in_(conversation_ids)
    connection.execute(delete(items).where(mine, items.c.response_id.is_(None)))
    connection.execute(update(items).where(mine).values(conversation_id=None, conversation_position=None))


def _lock(connection: Connection, ids: Sequence[str]) -> dict[str, tuple[str, int]]:
    """Owner and next position of conversations; until the end of the transaction no other process changes them."""
    query = (
        select(conversations.c.id, conversations.c.owner, conversations.c.next_position)
        .where(conversations.c.id.in_(ids))
        .order_by(conversations.c.id)
        .with_for_update()
    )
    return {row.id: (row.owner, row.next_position) for row in connection.execute(query)}


def _advance(connection: Connection, positions: Mapping[str, int]) -> None:
    """Set the next positions of conversations, and note that they were used now."""
    connection.execute(
        _ADVANCE, [{"b_id": id_, "b_next": next_, "b_used": _now()} for id_, next_ in positions.items()]
    )


def _now() -> int:
    return int(time.time())
