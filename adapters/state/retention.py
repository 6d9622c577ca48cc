"""Removes entries that exceed the age or size limit, in small batches, in one process at a time."""

import contextlib
import logging
import time
from collections.abc import Awaitable, Callable
from typing import Any, NamedTuple, TypeVar

import msgspec
from sqlalchemy import ColumnElement, Connection, LargeBinary, Table, func, select, text, update
from sqlalchemy import delete as delete_from

from adapters.state import conversation_writes, response_writes
from adapters.state.batch_writes import WORKED_ON
from adapters.state.database import Database, pragma
from adapters.state.tables import batches, conversations, events, items, leases, metadata, responses
from domain.errors import StateUnavailableError

log = logging.getLogger("memoria")
T = TypeVar("T")
Run = Callable[[Callable[[Connection], T]], Awaitable[T]]
"""Calls a function in a transaction of the writer, or of a reader."""

BATCH = 32
"""Responses and conversations removed in one transaction."""
LEASE = "retention"
LEASE_S = 60
"""Seconds after which another process takes over from one that has ended while it removed."""
DAY_S = 86_400
FILL = 0.95
"""Share of the largest size that is kept when something has to be removed."""
ROW_BYTES = 100
"""Overhead of a row in PostgreSQL, in bytes, with its entries in indexes."""
VACUUM_PAGES = 256
"""Free pages that SQLite returns to the file system in one transaction."""


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """How much is kept."""

    max_age_days: int = 0
    """0 for no limit."""
    max_bytes: int = 0
    """0 for no limit."""


class Old(NamedTuple):
    """Ids of what is removed next."""

    responses: list[str]
    conversations: list[str]
    batches: list[str]


class Retention:
    """Removes what exceeds the limits. The functions are called in transactions."""

    def __init__(self, database: Database, limits: Limits, process_id: str) -> None:
        self._database = database
        self._limits = limits
        self._process_id = process_id
        self._insert_lease = database.insert(leases).on_conflict_do_nothing()
        self._my_lease = update(leases).where(leases.c.name == LEASE, leases.c.process_id == process_id)

    async def sweep(self, write: Run[Any], read: Run[Any]) -> int:
        """Remove what exceeds the limits now; returns the number of entries removed.

        Args:
            write: calls a function in a transaction of the writer.
            read: calls a function in a transaction for reading.
        """
        removed = 0
        try:
            if not await write(self._take_lease):
                return 0
            if self._limits.max_age_days:
                while count := await write(self._remove_aged):
                    removed += count
            if self._limits.max_bytes:
                removed += await self._fit(write, read)
            while self._database.is_sqlite and await write(_return_pages):
                pass
        finally:
            # Also if this task was cancelled before it knew that it had the lease. A lease that can't be released
            # expires; the error must not replace the cancellation.
            with contextlib.suppress(StateUnavailableError):
                await write(self._release_lease)
        if removed:
            log.info("removed %d responses, conversations and batches beyond the age or size limit", removed)
        return removed

    async def _fit(self, write: Run[Any], read: Run[Any]) -> int:
        """Remove the oldest until the rest fits."""
        removed = 0
        while (size := await read(self.size)) > self._limits.max_bytes:
            excess = size - int(self._limits.max_bytes * FILL)
            while excess > 0:
                count, freed = await write(self._remove_oldest)
                if not count:
                    return removed
                removed += count
                excess -= max(freed, 1)
        return removed

    def size(self, connection: Connection) -> int:
        """Bytes that are used, without those that were used once and are free."""
        if self._database.is_sqlite:
            pages = pragma(connection, "page_count") - pragma(connection, "freelist_count")
            return pages * pragma(connection, "page_size")
        names = [f"'{name}'::regclass" for name in metadata.tables]
        total = connection.execute(
            text(f"SELECT sum(pg_total_relation_size(name)) FROM unnest(ARRAY[{', '.join(names)}]) AS name")
        ).scalar_one()
        if total <= self._limits.max_bytes:
            return int(total)
        # PostgreSQL keeps the space of removed rows for new ones, so the rows themselves have to be counted.
        return sum(
            self._bytes(connection, table, None) for table in (responses, items, events, conversations, batches)
        )

    def _bytes(self, connection: Connection, table: Table, condition: ColumnElement[bool] | None) -> int:
        """Bytes of the rows that meet a condition; pages that are partly filled are not counted in full."""
        length = func.length if self._database.is_sqlite else func.pg_column_size
        size = sum((length(column) for column in table.c if isinstance(column.type, LargeBinary)), start=ROW_BYTES)
        query = select(func.coalesce(func.sum(size), 0)).select_from(table)
        return int(connection.execute(query if condition is None else query.where(condition)).scalar_one())

    def _take_lease(self, connection: Connection) -> bool:
        connection.execute(self._insert_lease, {"name": LEASE, "process_id": self._process_id, "until": 0})
        free = update(leases).where(leases.c.name == LEASE, leases.c.until < self._database.now)
        taken = free.values(process_id=self._process_id, until=self._database.now + LEASE_S)
        return bool(connection.execute(taken).rowcount)

    def _renew_lease(self, connection: Connection) -> None:
        connection.execute(self._my_lease.values(until=self._database.now + LEASE_S))

    def _release_lease(self, connection: Connection) -> None:
        connection.execute(self._my_lease.values(until=0))

    def _remove_aged(self, connection: Connection) -> int:
        before = int(time.time()) - self._limits.max_age_days * DAY_S
        return self._remove(connection, _oldest(connection, before))

    def _remove_oldest(self, connection: Connection) -> tuple[int, int]:
        """Remove a few of the oldest; returns their number, and the bytes that are free now."""
        old = _oldest(connection, None)
        old_responses, old_conversations, old_batches = old
        freed = (
            self._bytes(connection, responses, responses.c.id.in_(old_responses))
            + self._bytes(
                connection, items, items.c.response_id.in_(old_responses) & items.c.conversation_id.is_(None)
            )
            + self._bytes(connection, events, events.c.response_id.in_(old_responses))
            + self._bytes(
                connection, items, items.c.conversation_id.in_(old_conversations) & items.c.response_id.is_(None)
            )
            + self._bytes(connection, batches, batches.c.id.in_(old_batches))
        )
        return self._remove(connection, old), freed

    def _remove(self, connection: Connection, old: Old) -> int:
        old_responses, old_conversations, old_batches = old
        if old_responses:
            connection.execute(delete_from(responses).where(responses.c.id.in_(old_responses)))
            response_writes.delete_contents(connection, old_responses)
        if old_conversations:
            connection.execute(delete_from(conversations).where(conversations.c.id.in_(old_conversations)))
            conversation_writes.delete_contents(connection, old_conversations)
        if old_batches:
            connection.execute(delete_from(batches).where(batches.c.id.in_(old_batches)))
        self._renew_lease(connection)
        return sum(map(len, old))


def _oldest(connection: Connection, before: int | None) -> Old:
    """Ids of the oldest finished responses and batches, and of the conversations that were not used for longest.

    Args:
        connection: the connection.
        before: Unix time in seconds; only what is older. None for any age.
    """
    found: list[tuple[int, int, str]] = []
    kinds = (responses, responses.c.created), (conversations, conversations.c.used), (batches, batches.c.created)
    for kind, (table, when) in enumerate(kinds):
        query = select(when, table.c.id).order_by(when).limit(BATCH).with_for_update(skip_locked=True)
        if table is responses:
            query = query.where(responses.c.process_id.is_(None))
        elif table is batches:
            query = query.where(~WORKED_ON)
        if before is not None:
            query = query.where(when < before)
        found += [(row[0], kind, row[1]) for row in connection.execute(query)]
    oldest = sorted(found)[:BATCH]
    return Old(*([each for _, kind, each in oldest if kind == wanted] for wanted in range(len(kinds))))


def _return_pages(connection: Connection) -> bool:
    """Shorten SQLite's file by some free pages; returns whether many are left."""
    free = pragma(connection, "freelist_count")
    # A file that was made without this mode keeps its free pages for new rows.
    if pragma(connection, "auto_vacuum") != 2 or free < VACUUM_PAGES:
        return False
    for _ in range(VACUUM_PAGES):
        # Python's driver ends the pragma after its first page, whatever number it is given.
        connection.exec_driver_sql("PRAGMA incremental_vacuum(1)")
    return pragma(connection, "freelist_count") < free
