"""Writes responses, their items and events: many at a time, in few statements."""

from collections.abc import Iterable, Sequence
from typing import Any

from sqlalchemy import Connection, and_, bindparam, delete, select, update

from adapters.state.conversation_writes import ConversationWrites
from adapters.state.database import Database
from adapters.state.operations import AppendEvents, Begin, Delete, Finish, Operation, Work
from adapters.state.tables import events, items, responses
from adapters.state.texts import storable
from domain.state import UNFINISHED, Item, ResponseStatus, StoredResponse

CHUNK = 500
"""Ids in one statement."""
_COMPLETE = (ResponseStatus.COMPLETED, ResponseStatus.INCOMPLETE)


class ResponseWrites:
    """Applies operations in a transaction. Used by one thread.

    It remembers the responses whose beginning is stored until they end: so their ends change only what is new, and
    a response that is missing then is known to have been deleted.
    """

    def __init__(self, database: Database, conversations: ConversationWrites, process_id: str) -> None:
        self._conversations = conversations
        self._process_id = process_id
        self.events_lost: set[str] = set()
        """Responses of which an event could not be stored. Later ones are left out, so that there are no gaps."""
        self.unfinishable: set[str] = set()
        """Responses that are stored as unfinished, and whose end could not be stored."""
        self._begun: dict[str, Sequence[Item]] = {}
        self._begun_now: dict[str, Sequence[Item]] = {}
        self._insert_item = database.insert(items).on_conflict_do_nothing()
        self._insert_event = database.insert(events).on_conflict_do_nothing()
        inserted = database.insert(responses)
        self._insert_response = inserted.on_conflict_do_update(
            index_elements=[responses.c.id],
            set_={name: inserted.excluded[name] for name in ("status", "body", "process_id")},
            where=responses.c.owner == inserted.excluded.owner,
        )
        self._update_response = (
            update(responses)
            .where(responses.c.id == bindparam("b_id"))
            .values(status=bindparam("status"), body=bindparam("body"), process_id=bindparam("process_id"))
        )

    def apply(self, connection: Connection, operations: Iterable[Operation]) -> list[Any]:
        """Execute operations in their order; returns their results."""
        self._begun_now = {}
        results: list[Any] = []
        run: list[Operation] = []
        for operation in operations:
            if not isinstance(operation, Work | Delete):
                run.append(operation)
                results.append(None)
                continue
            self._write(connection, run)
            run = []
            if isinstance(operation, Work):
                results.append(operation.run(connection))
            else:
                results.append(self._delete(connection, operation))
        self._write(connection, run)
        return results

    def committed(self, operations: Iterable[Operation]) -> None:
        """Remember what the transaction of these operations has stored."""
        self._begun |= self._begun_now
        for operation in operations:
            if isinstance(operation, Finish):
                self.forget([operation.response.id])
            elif isinstance(operation, Delete) and operation.is_last:
                self.forget([operation.response_id])

    def lost(self, operations: Iterable[Operation]) -> None:
        """Remember that the transaction of these operations has failed."""
        for operation in operations:
            if isinstance(operation, AppendEvents):
                if self.has_begun(operation.response_id):
                    self.events_lost.add(operation.response_id)
            elif isinstance(operation, Finish):
                self._lose_end(operation.response.id)
            elif isinstance(operation, Delete) and operation.is_last:
                self._lose_end(operation.response_id)

    def has_begun(self, response_id: str) -> bool:
        """Whether the beginning of a response is stored, and it has not ended since."""
        return response_id in self._begun

    def forget(self, response_ids: Iterable[str]) -> None:
        """Forget responses that have ended."""
        for response_id in response_ids:
            self._begun.pop(response_id, None)
            self.unfinishable.discard(response_id)
            self.events_lost.discard(response_id)

    def _lose_end(self, response_id: str) -> None:
        if self.has_begun(response_id):
            self.unfinishable.add(response_id)
        else:
            self.forget([response_id])

    def _delete(self, connection: Connection, operation: Delete) -> bool:
        response_id = operation.response_id
        found = delete_response(connection, storable(operation.owner), storable(response_id))
        if found and self._is_begun(response_id):
            # Its end may still follow, and has to find out that it is missing. That takes no items.
            self._begun_now[response_id] = ()
        return found

    def _is_begun(self, response_id: str) -> bool:
        """As `has_begun`, with what this transaction has stored."""
        return response_id in self._begun_now or response_id in self._begun

    def _write(self, connection: Connection, run: Sequence[Operation]) -> None:
        if not run:
            return
        ends = {each.response.id: each.response for each in run if isinstance(each, Finish)}
        beginnings = {each.response.id: each.response for each in run if isinstance(each, Begin)}
        appended = [each for each in run if isinstance(each, AppendEvents)]
        # Those that follow lost events, a lost beginning, or the end could leave a gap.
        new_events = [
            each
            for each in appended
            if each.response_id not in self.events_lost
            and (each.response_id in beginnings or self._is_begun(each.response_id))
        ]
        # A response that begins and ends here is only stored finished.
        new = {id_: each for id_, each in beginnings.items() if id_ not in ends}
        known = {id_: each for id_, each in ends.items() if self._is_begun(id_)}
        fresh = {id_: each for id_, each in ends.items() if id_ not in known}
        self._store_new(connection, [*new.values(), *fresh.values()])
        replaced = self._replace(connection, list(known.values()))
        self._begun_now |= {id_: each.input for id_, each in new.items()}
        stored = {*new, *fresh, *(each.id for each in replaced)}
        rows = [row for each in (*new.values(), *fresh.values()) for row in _items(each)]
        rows += [row for each in replaced for row in self._new_items(connection, each)]
        if rows:
            connection.execute(self._insert_item, rows)
        self._conversations.append_responses(
            connection,
            [
                each
                for id_, each in ends.items()
                if each.conversation_id is not None and each.status in _COMPLETE and id_ in stored
            ],
        )
        stored |= _lock(connection, {each.response_id for each in new_events} - {*stored, *known})
        self._store_events(connection, [each for each in new_events if each.response_id in stored])

    def _store_new(self, connection: Connection, stored: Sequence[StoredResponse]) -> None:
        if stored:
            connection.execute(self._insert_response, [self._row(each) for each in stored])

    def _replace(self, connection: Connection, ended: Sequence[StoredResponse]) -> Sequence[StoredResponse]:
        """Update responses; returns those that were not deleted meanwhile."""
        if not ended:
            return ended
        count = connection.execute(self._update_response, [self._change(each) for each in ended]).rowcount
        if count == len(ended):
            return ended
        living = _lock(connection, {each.id for each in ended})
        return [each for each in ended if each.id in living]

    def _new_items(self, connection: Connection, response: StoredResponse) -> list[dict[str, Any]]:
        """The items of a response that ends which are not stored yet: its output, if its input is the same."""
        before = self._begun_now.get(response.id, self._begun.get(response.id, ()))
        if response.input is before or response.input == before:
            return _items(response, first=len(response.input))
        connection.execute(delete(items).where(items.c.response_id == storable(response.id)))
        return _items(response)

    def _store_events(self, connection: Connection, appended: Sequence[AppendEvents]) -> None:
        rows = [
            {"response_id": storable(each.response_id), "sequence": sequence, "data": data}
            for each in appended
            for sequence, data in each.events
        ]
        if rows:
            connection.execute(self._insert_event, rows)

    def _row(self, response: StoredResponse) -> dict[str, Any]:
        previous, conversation = response.previous_id, response.conversation_id
        return {
            "id": storable(response.id),
            "owner": storable(response.owner),
            "created": response.created,
            "status": response.status.value,
            "previous_id": storable(previous) if previous is not None else None,
            "conversation_id": storable(conversation) if conversation is not None else None,
            "is_background": response.is_background,
            "process_id": self._process_id if response.status in UNFINISHED else None,
            "cancel_requested": False,
            "body": response.body,
        }

    def _change(self, response: StoredResponse) -> dict[str, Any]:
        return {
            "b_id": storable(response.id),
            "status": response.status.value,
            "process_id": self._process_id if response.status in UNFINISHED else None,
            "body": response.body,
        }


def delete_response(connection: Connection, owner: str, response_id: str) -> bool:
    """Delete a response; False if this owner has none of that id."""
    found = connection.execute(
        delete(responses).where(responses.c.id == response_id, responses.c.owner == owner)
    ).rowcount
    if found:
        delete_contents(connection, [response_id])
    return bool(found)


def delete_contents(connection: Connection, response_ids: Sequence[str]) -> None:
    """Delete the items and events of responses, except items that belong to a conversation as well."""
    of_responses = items.c.response_id.in_(response_ids)
    connection.execute(delete(items).where(and_(of_responses, items.c.conversation_id.is_(None))))
    connection.execute(update(items).where(of_responses).values(response_id=None))
    connection.execute(delete(events).where(events.c.response_id.in_(response_ids)))


def _lock(connection: Connection, ids: Iterable[str]) -> set[str]:
    """Those of the responses that exist; until the end of the transaction they can't be deleted."""
    wanted = sorted(ids)
    living: set[str] = set()
    for start in range(0, len(wanted), CHUNK):
        chunk = {storable(each): each for each in wanted[start : start + CHUNK]}
        # In one order, so that two processes don't wait for each other.
        query = select(responses.c.id).where(responses.c.id.in_(chunk)).order_by(responses.c.id).with_for_update()
        living |= {chunk[each] for each in connection.execute(query).scalars()}
    return living


def _items(response: StoredResponse, *, first: int = 0) -> list[dict[str, Any]]:
    """The rows of a response's items from a position on."""
    owner, response_id, inputs = storable(response.owner), storable(response.id), len(response.input)
    return [
        {
            "owner": owner,
            "item_id": storable(item.id),
            "response_id": response_id,
            "position": position,
            "is_output": position >= inputs,
            "data": item.data,
        }
        for position, item in enumerate((*response.input, *response.output))
        if position >= first
    ]
