"""Writes batches, and the claims of the processes that work on them."""

import secrets
from collections.abc import Collection, Sequence
from typing import Any

import msgspec
from sqlalchemy import ColumnElement, Connection, Row, case, func, null, or_, select, update

from adapters.state.database import Database
from adapters.state.file_store import FileWrites
from adapters.state.tables import batches, processes
from adapters.state.texts import storable
from domain.batches import ENDED, BatchStatus, StoredBatch
from domain.files import StoredFile

AnyRow = Row[*tuple[Any, ...]]
RUNNING = (BatchStatus.VALIDATING.value, BatchStatus.IN_PROGRESS.value)
"""The statuses in which a batch can be cancelled."""
WORKED_ON = batches.c.status.in_([status.value for status in BatchStatus if status not in ENDED])
"""Whether a batch has not ended."""
_decoder = msgspec.json.Decoder(StoredBatch)


class BatchWrites:
    """Functions that are called in a transaction of the writer."""

    def __init__(self, database: Database, files: FileWrites) -> None:
        self._insert = database.insert(batches).on_conflict_do_nothing()
        self._files = files

    def create(self, connection: Connection, batch: StoredBatch) -> None:
        """Store a batch. One of the same id is there only if an earlier try has succeeded."""
        row = {
            "id": storable(batch.id),
            "owner": storable(batch.owner),
            "created": batch.created,
            "status": batch.status.value,
            "cancelling_at": batch.cancelling_at,
            "data": msgspec.json.encode(batch),
        }
        connection.execute(self._insert, row)

    def cancel(self, connection: Connection, owner: str, batch_id: str, at: int) -> StoredBatch | None:
        """Ask for the end of a batch; returns it, or None if there is none."""
        mine = (batches.c.id == storable(batch_id), batches.c.owner == storable(owner))
        connection.execute(
            update(batches)
            .where(*mine, batches.c.status.in_(RUNNING))
            .values(status=BatchStatus.CANCELLING.value, cancelling_at=at)
        )
        row = connection.execute(select(batches).where(*mine)).first()
        return None if row is None else stored_batch(row)

    def has_batch(self, connection: Connection, condition: ColumnElement[bool]) -> bool:
        """Whether there is a batch that meets a condition."""
        return connection.execute(select(batches.c.key).where(condition).limit(1)).first() is not None

    def claim(self, connection: Connection, process_id: str, condition: ColumnElement[bool]) -> StoredBatch | None:
        """Claim the oldest batch that meets a condition; None without one."""
        # Rows that another process is claiming are passed over, so no two get the same.
        oldest = select(batches.c.key).where(condition).order_by(batches.c.key).limit(1)
        key = connection.execute(oldest.with_for_update(skip_locked=True)).scalar()
        if key is None:
            return None
        connection.execute(
            update(batches).where(batches.c.key == key).values(process_id=process_id, claim=secrets.token_hex(8))
        )
        return stored_batch(connection.execute(select(batches).where(batches.c.key == key)).one())

    def save(
        self, connection: Connection, process_id: str, batch: StoredBatch, files: Sequence[StoredFile]
    ) -> StoredBatch | None:
        """Store a claimed batch and new files; None if the claim was lost."""
        this, status = batches.c.id == storable(batch.id), batch.status.value
        was_cancelled = batches.c.status == BatchStatus.CANCELLING.value
        saved = connection.execute(
            update(batches)
            .where(this, batches.c.process_id == process_id, batches.c.claim == batch.claim)
            .values(
                status=case((was_cancelled, batches.c.status), else_=status) if status in RUNNING else status,
                cancelling_at=func.coalesce(batches.c.cancelling_at, batch.cancelling_at),
                process_id=null() if batch.status in ENDED else process_id,
                data=msgspec.json.encode(batch),
            )
        ).rowcount
        if saved:
            self._files.create(connection, files)
        row = connection.execute(select(batches).where(this)).first()
        if row is None:
            return None
        now = stored_batch(row)
        # An end that is stored again, because a lost connection has hidden that an earlier try succeeded.
        is_repeated = now.status in ENDED and now.claim == batch.claim
        return now if saved or is_repeated else None

    def release(self, connection: Connection, process_id: str, batch: StoredBatch) -> None:
        """Give up the claim with which a batch was read, if this process still has it."""
        mine = batches.c.process_id == process_id, batches.c.claim == batch.claim
        connection.execute(
            update(batches).where(batches.c.id == storable(batch.id), *mine).values(process_id=None)
        )


def unclaimed(process_id: str, held: Collection[str]) -> ColumnElement[bool]:
    """Whether a process can claim a batch.

    Args:
        process_id: the process.
        held: ids of the batches that it works on.
    """
    is_free = or_(
        batches.c.process_id.is_(None),
        batches.c.process_id == process_id,
        batches.c.process_id.not_in(select(processes.c.id)),
    )
    return WORKED_ON & is_free & batches.c.id.not_in([storable(each) for each in held])


def stored_batch(row: AnyRow) -> StoredBatch:
    """The batch of a row of the table."""
    stored = _decoder.decode(row.data)
    return msgspec.structs.replace(
        stored,
        status=BatchStatus(row.status),
        cancelling_at=row.cancelling_at,
        claim=row.claim or "",
        errors=tuple(stored.errors),
        parts=tuple(stored.parts),
    )
