"""The store of files on a database, behind the port. Their contents are elsewhere."""

import time
from collections.abc import Sequence
from functools import partial
from typing import Any

from sqlalchemy import Connection, Row, delete, or_, select

from adapters.state.access import Access
from adapters.state.database import Database
from adapters.state.operations import ROW_BYTES
from adapters.state.pages import page
from adapters.state.tables import files, identity
from adapters.state.texts import storable
from domain.files import FileStore, Order, StoredFile

AnyRow = Row[*tuple[Any, ...]]
CHUNK = 500
"""Ids in one statement."""


class FileWrites:
    """Functions that are called in a transaction of the writer."""

    def __init__(self, database: Database) -> None:
        self._insert = database.insert(files).on_conflict_do_nothing()

    def create(self, connection: Connection, created: Sequence[StoredFile]) -> None:
        """Store files. One of the same id is there only if an earlier try has succeeded."""
        if created:
            connection.execute(self._insert, [_row(each) for each in created])


class DatabaseFileStore(FileStore):
    """Keeps what is known of files in a database; see the port."""

    def __init__(self, access: Access, writes: FileWrites) -> None:
        self._access = access
        self._writes = writes

    async def database_id(self) -> str:
        """See the port."""
        return await self._access.read(
            lambda connection: str(connection.execute(select(identity.c.id)).scalar_one())
        )

    async def create_file(self, file: StoredFile) -> None:
        """See the port."""
        await self._access.write(partial(self._writes.create, created=[file]), size=ROW_BYTES)

    async def file(self, owner: str, file_id: str) -> StoredFile | None:
        """See the port."""
        query = select(files).where(
            files.c.id == storable(file_id), files.c.owner == storable(owner), _is_kept(int(time.time()))
        )

        def read(connection: Connection) -> StoredFile | None:
            row = connection.execute(query).first()
            return None if row is None else _file(row)

        return await self._access.read(read)

    async def files(
        self, owner: str, *, purpose: str | None, after: str | None, limit: int, order: Order
    ) -> Sequence[StoredFile] | None:
        """See the port."""
        conditions = [_is_kept(int(time.time()))]
        if purpose is not None:
            conditions.append(files.c.purpose == storable(purpose))
        read = partial(
            page, table=files, owner=owner, conditions=conditions, after=after, limit=limit, order=order
        )
        rows = await self._access.read(read)
        return None if rows is None else [_file(row) for row in rows]

    async def delete_file(self, owner: str, file_id: str) -> bool:
        """See the port."""
        statement = delete(files).where(files.c.id == storable(file_id), files.c.owner == storable(owner))
        return await self._access.write(lambda connection: bool(connection.execute(statement).rowcount))

    async def expired_files(self) -> Sequence[StoredFile]:
        """See the port."""
        query = select(files).where(files.c.expires <= int(time.time())).order_by(files.c.key)
        return await self._access.read(lambda connection: [_file(row) for row in connection.execute(query)])

    async def known_files(self, ids: Sequence[str]) -> frozenset[str]:
        """See the port."""
        stored = {storable(each): each for each in ids}

        def read(connection: Connection) -> frozenset[str]:
            wanted, found = list(stored), set[str]()
            for start in range(0, len(wanted), CHUNK):
                query = select(files.c.id).where(files.c.id.in_(wanted[start : start + CHUNK]))
                found |= {stored[each] for each in connection.execute(query).scalars()}
            return frozenset(found)

        return await self._access.read(read)


def _is_kept(now: int) -> Any:
    return or_(files.c.expires.is_(None), files.c.expires > now)


def _row(file: StoredFile) -> dict[str, Any]:
    return {
        "id": storable(file.id),
        "owner": storable(file.owner),
        "created": file.created,
        "size_bytes": file.size_bytes,
        "name": storable(file.name),
        "purpose": file.purpose,
        "expires": file.expires,
    }


def _file(row: AnyRow) -> StoredFile:
    return StoredFile(
        id=row.id,
        owner=row.owner,
        created=row.created,
        size_bytes=row.size_bytes,
        name=row.name,
        purpose=row.purpose,
        expires=row.expires,
    )
