"""Reads what is stored. Ids and owners are storable texts; every query filters by owner."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import msgspec
from sqlalchemy import Connection, Row, Select, literal, select, true

from adapters.state.database import Database
from adapters.state.processes import ProcessInfo
from adapters.state.tables import conversations, events, items, processes, responses
from domain.state import CONTINUABLE, Item, ResponseStatus, StoredConversation, StoredResponse

AnyRow = Row[*tuple[Any, ...]]
CHUNK = 500
"""Ids in one statement."""
MAX_LINKS = 10_000
"""Responses in one history; only a damaged database has more."""

HasEnded = Callable[[ProcessInfo, float], bool]
"""Whether a process has ended, by its description and the age of its heartbeat in seconds."""


class DeadProcessError(Exception):
    """An unfinished response was found whose process has ended; it has to be reported as failed first."""

    def __init__(self, process_id: str) -> None:
        super().__init__(process_id)
        self.process_id = process_id


class Reads:
    """Functions that are called in a transaction, in any thread."""

    def __init__(self, database: Database, process_id: str, has_ended: HasEnded) -> None:
        self._process_id = process_id
        self._has_ended = has_ended
        self._processes: Select[Any] = select(processes, (database.now - processes.c.heartbeat).label("age"))

    def response(self, connection: Connection, owner: str, response_id: str) -> StoredResponse | None:
        """A response with its items."""
        query = select(responses).where(responses.c.id == response_id, responses.c.owner == owner)
        row = connection.execute(query).first()
        if row is None:
            return None
        self._check_process(connection, row)
        of_response = (
            select(items.c.item_id, items.c.data, items.c.is_output)
            .where(items.c.response_id == response_id, items.c.owner == owner)
            .order_by(items.c.position)
        )
        stored = connection.execute(of_response).all()
        return StoredResponse(
            id=row.id,
            owner=row.owner,
            created=row.created,
            status=ResponseStatus(row.status),
            body=bytes(row.body),
            input=[_item(each) for each in stored if not each.is_output],
            output=[_item(each) for each in stored if each.is_output],
            previous_id=row.previous_id,
            conversation_id=row.conversation_id,
            is_background=row.is_background,
        )

    def history(self, connection: Connection, owner: str, response_id: str) -> list[Item] | None:
        """The items of a response and of all that it continues, oldest first."""
        columns = [responses.c.id, responses.c.previous_id, responses.c.process_id, responses.c.status]
        first = select(*columns, literal(0).label("depth")).where(
            responses.c.id == response_id, responses.c.owner == owner
        )
        chain = first.cte("chain", recursive=True)
        chain = chain.union_all(
            select(*columns, (chain.c.depth + 1).label("depth"))
            .join(chain, responses.c.id == chain.c.previous_id)
            .where(responses.c.owner == owner, chain.c.depth < MAX_LINKS)
        )
        links = connection.execute(select(chain).order_by(chain.c.depth)).all()
        if not links or links[-1].previous_id is not None:
            return None
        for link in links:
            self._check_process(connection, link)
            if link.process_id is not None or link.status not in CONTINUABLE:
                return None
        query = (
            select(items.c.item_id, items.c.data)
            .join(chain, items.c.response_id == chain.c.id)
            .where(items.c.owner == owner)
            .order_by(chain.c.depth.desc(), items.c.position)
        )
        return [_item(row) for row in connection.execute(query)]

    def items(self, connection: Connection, owner: str, ids: Sequence[str]) -> dict[str, Item]:
        """The newest items with these ids."""
        found: dict[str, Item] = {}
        for start in range(0, len(ids), CHUNK):
            query = (
                select(items.c.item_id, items.c.data)
                .where(items.c.owner == owner, items.c.item_id.in_(ids[start : start + CHUNK]))
                .order_by(items.c.key)
            )
            # The last one of an id is the newest.
            found |= {row.item_id: _item(row) for row in connection.execute(query)}
        return found

    def events(self, connection: Connection, owner: str, response_id: str, after: int) -> list[tuple[int, bytes]]:
        """The events of a response above a sequence number."""
        query = (
            select(events.c.sequence, events.c.data)
            .join(responses, responses.c.id == events.c.response_id)
            .where(events.c.response_id == response_id, responses.c.owner == owner, events.c.sequence > after)
            .order_by(events.c.sequence)
        )
        return [(row.sequence, bytes(row.data)) for row in connection.execute(query)]

    def check_response(self, connection: Connection, owner: str, response_id: str) -> None:
        """Raise DeadProcessError if a response is unfinished and its process has ended."""
        query = select(responses.c.process_id).where(responses.c.id == response_id, responses.c.owner == owner)
        row = connection.execute(query).first()
        if row is not None:
            self._check_process(connection, row)

    def cancel_requested(self, connection: Connection, ids: Sequence[str]) -> list[str]:
        """Those of the unfinished responses that were asked to be cancelled."""
        found: list[str] = []
        for start in range(0, len(ids), CHUNK):
            query = select(responses.c.id).where(
                responses.c.id.in_(ids[start : start + CHUNK]),
                responses.c.cancel_requested == true(),
                responses.c.process_id.is_not(None),
            )
            found += connection.execute(query).scalars()
        return found

    def conversation(self, connection: Connection, owner: str, conversation_id: str) -> StoredConversation | None:
        """A conversation without its items."""
        query = select(conversations).where(conversations.c.id == conversation_id, conversations.c.owner == owner)
        row = connection.execute(query).first()
        if row is None:
            return None
        metadata: Mapping[str, str] = msgspec.json.decode(row.metadata, type=dict[str, str])
        return StoredConversation(id=row.id, owner=row.owner, created=row.created, metadata=metadata)

    def conversation_items(self, connection: Connection, owner: str, conversation_id: str) -> list[Item] | None:
        """All items of a conversation."""
        if self.conversation(connection, owner, conversation_id) is None:
            return None
        query = (
            select(items.c.item_id, items.c.data)
            .where(items.c.conversation_id == conversation_id, items.c.owner == owner)
            .order_by(items.c.conversation_position)
        )
        return [_item(row) for row in connection.execute(query)]

    def dead_processes(self, connection: Connection) -> Iterator[str]:
        """The ids of all processes that have ended, of those that are known or work on a response."""
        known = {row.id: row for row in connection.execute(self._processes)}
        for process_id, row in known.items():
            if process_id != self._process_id and self._has_ended(_process(row), row.age):
                yield process_id
        working = select(responses.c.process_id).where(responses.c.process_id.is_not(None)).distinct()
        yield from set(connection.execute(working).scalars()) - {*known, self._process_id}

    def _check_process(self, connection: Connection, row: AnyRow) -> None:
        """Raise DeadProcessError if a response is unfinished and its process has ended."""
        process_id = row.process_id
        if process_id is None or process_id == self._process_id:
            return
        found = connection.execute(self._processes.where(processes.c.id == process_id)).first()
        if found is None or self._has_ended(_process(found), found.age):
            raise DeadProcessError(process_id)


def _item(row: AnyRow) -> Item:
    return Item(row.item_id, bytes(row.data))


def _process(row: AnyRow) -> ProcessInfo:
    return ProcessInfo(host=row.host, pid=row.pid, started=row.started)
