"""The store of batches on a database, behind the port."""

from collections.abc import Collection, Sequence
from functools import partial

from sqlalchemy import ColumnElement, Connection, select

from adapters.state.access import Access
from adapters.state.batch_writes import WORKED_ON, BatchWrites, stored_batch, unclaimed
from adapters.state.operations import ROW_BYTES
from adapters.state.pages import page
from adapters.state.tables import batches
from adapters.state.texts import storable
from domain.batches import BatchStore, StoredBatch
from domain.files import StoredFile

BATCH_BYTES = 2048
"""Estimated memory of a batch that waits to be written."""


class DatabaseBatchStore(BatchStore):
    """Keeps batches in a database; see the port."""

    def __init__(self, access: Access, writes: BatchWrites) -> None:
        self._access = access
        self._writes = writes

    async def create_batch(self, batch: StoredBatch) -> None:
        """See the port."""
        await self._access.write(partial(self._writes.create, batch=batch), size=BATCH_BYTES)

    async def batch(self, owner: str, batch_id: str) -> StoredBatch | None:
        """See the port."""
        query = select(batches).where(batches.c.id == storable(batch_id), batches.c.owner == storable(owner))

        def read(connection: Connection) -> StoredBatch | None:
            row = connection.execute(query).first()
            return None if row is None else stored_batch(row)

        return await self._access.read(read)

    async def batches(self, owner: str, *, after: str | None, limit: int) -> Sequence[StoredBatch] | None:
        """See the port."""
        read = partial(page, table=batches, owner=owner, after=after, limit=limit, order="desc")
        rows = await self._access.read(read)
        return None if rows is None else [stored_batch(row) for row in rows]

    async def unfinished_batches(self) -> Sequence[StoredBatch]:
        """See the port."""
        query = select(batches).where(WORKED_ON).order_by(batches.c.key)
        return await self._access.read(lambda connection: [stored_batch(row) for row in connection.execute(query)])

    async def request_batch_cancel(self, owner: str, batch_id: str, *, at: int) -> StoredBatch | None:
        """See the port."""
        return await self._access.write(partial(self._writes.cancel, owner=owner, batch_id=batch_id, at=at))

    async def claim_batch(self, held: Collection[str] = ()) -> StoredBatch | None:
        """See the port."""
        await self._access.end_dead_processes()
        free = unclaimed(self._access.process_id, held)
        # Most of the time there is nothing to do, and that costs no write.
        if not await self._access.read(partial(self._writes.has_batch, condition=free)):
            return None
        return await self._access.write(partial(self._claim, condition=free))

    async def save_batch(self, batch: StoredBatch, files: Sequence[StoredFile] = ()) -> StoredBatch | None:
        """See the port."""
        return await self._access.write(
            partial(self._writes.save, process_id=self._access.process_id, batch=batch, files=files),
            size=BATCH_BYTES + ROW_BYTES * len(files),
        )

    async def release_batch(self, batch: StoredBatch) -> None:
        """See the port."""
        await self._access.write(partial(self._writes.release, process_id=self._access.process_id, batch=batch))

    def _claim(self, connection: Connection, condition: ColumnElement[bool]) -> StoredBatch | None:
        # Other processes take over the batches of those that are not recorded as alive.
        self._access.heartbeat(connection)
        return self._writes.claim(connection, self._access.process_id, condition)
