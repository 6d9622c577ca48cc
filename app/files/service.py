"""Everything that the endpoints of the Files API share: the store, the contents, and the removal of old ones."""

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from app.files.storage import Reception, Storage
from domain.batches import BatchStore
from domain.errors import (
    FilesUnavailableError,
    InferenceError,
    InvalidRequestError,
    StoredObjectNotFoundError,
)
from domain.files import FileContents, FileStore, OpenContents, StoredFile
from domain.openai.files import FileBody, FileList, FilesQuery, file_list
from domain.random_id import random_hex

log = logging.getLogger("memoria")

IS_OFF = "Files are not kept here, because STATE is off. Set STATE=on to keep them."
SWEEP_S = 300.0
"""Seconds between two sweeps."""
ABANDONED_S = 3600.0
"""Seconds after which contents that belong to no file are removed."""


class FilesService:
    """The Files API of one process."""

    def __init__(
        self,
        files: FileStore,
        batches: BatchStore,
        contents: FileContents,
        *,
        max_bytes: int,
        max_total_bytes: int,
    ) -> None:
        """Create it without starting anything.

        Args:
            files: what is known of files; opened and closed elsewhere.
            batches: batches, whose unfinished results are no leftovers.
            contents: the contents of files.
            max_bytes: of one file.
            max_total_bytes: of all files.
        """
        self._files = files
        self._batches = batches
        self._contents = contents
        self.storage = Storage(contents, max_total_bytes=max_total_bytes)
        self.max_bytes = max_bytes
        self._sweeping: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Create the folder of contents, and begin to remove what is old. The store has to be open.

        Raises:
            ConfigurationError: the folder can't be used.
        """
        await self.storage.start(self._contents.start, await self._files.database_id())
        self._sweeping = asyncio.create_task(self._sweep_repeatedly())

    async def stop(self) -> None:
        """Stop removing, and end the threads."""
        if self._sweeping is not None:
            self._sweeping.cancel()
            await asyncio.wait([self._sweeping])
        self.storage.stop()

    async def create(self, owner: str, body: FileBody, received: Reception) -> StoredFile:
        """Keep what was received as a file."""
        created = int(time.time())
        file = StoredFile(
            id=f"file-{random_hex()}",
            owner=owner,
            created=created,
            size_bytes=received.size,
            name=body.file,
            purpose="batch",
            expires=created + body.keep_s,
        )
        await received.keep(file.id)
        try:
            await self._files.create_file(file)
        except InferenceError:
            # If the connection to the database was lost, the file may be stored. Contents that turn out to belong
            # to no file are removed later.
            log.warning("an upload could not be stored, because the database is unavailable")
            raise
        return file

    async def list(self, owner: str, query: FilesQuery) -> FileList:
        """A page of an owner's files."""
        found = await self._files.files(
            owner, purpose=query.purpose, after=query.after, limit=query.limit, order=query.order
        )
        if found is None:
            raise StoredObjectNotFoundError("File", query.after or "", param="after")
        return file_list(found, query.limit)

    async def get(self, owner: str, file_id: str) -> StoredFile:
        """A file of an owner.

        Raises:
            StoredObjectNotFoundError: this owner has none of that id.
        """
        file = await self._files.file(owner, file_id)
        if file is None:
            raise StoredObjectNotFoundError("File", file_id, param="file_id")
        return file

    @asynccontextmanager
    async def open(self, file: StoredFile) -> AsyncIterator[OpenContents]:
        """The contents of a file, open for reading.

        Raises:
            FilesUnavailableError: they can't be read.
        """
        async with contextlib.AsyncExitStack() as stack:
            try:
                opened = await stack.enter_async_context(self.storage.open(file.id))
            except FileNotFoundError:
                log.error("the contents of the file %s are missing in MEMORIA_DATA_DIR", file.id)  # noqa: TRY400
                raise FilesUnavailableError from None
            yield opened

    async def delete(self, owner: str, file_id: str) -> None:
        """Delete a file.

        Raises:
            StoredObjectNotFoundError: this owner has none of that id.
        """
        # One that has expired is gone already.
        await self.get(owner, file_id)
        if not await self._files.delete_file(owner, file_id):
            raise StoredObjectNotFoundError("File", file_id, param="file_id")
        await self._remove_contents([file_id])

    async def sweep(self) -> None:
        """Remove files that have expired, and contents that belong to nothing."""
        for file in await self._files.expired_files():
            await self._files.delete_file(file.owner, file.id)
            await self._remove_contents([file.id])
        names = await self.storage.run(lambda: self._contents.abandoned(age_s=ABANDONED_S))
        if not names:
            return
        # Before the files: a batch that ends between the two has its results among those.
        parts = [part for batch in await self._batches.unfinished_batches() for part in batch.parts]
        written = {part.name for part in parts}
        results = {file_id for part in parts for file_id in (part.output_file_id, part.error_file_id)}
        kept = results | await self._files.known_files(names)
        leftovers = [name for name in names if name not in kept and name.rpartition(".")[0] not in written]
        await self._remove_contents(leftovers)
        if leftovers:
            log.info("removed the contents of %d files that were not kept", len(leftovers))

    async def _remove_contents(self, names: Sequence[str]) -> None:
        for name in names:
            # It was logged; a later sweep finds it.
            with contextlib.suppress(InferenceError):
                await self.storage.run(self._contents.delete, name)

    async def _sweep_repeatedly(self) -> None:
        while True:
            try:
                await self.sweep()
            except InferenceError:
                pass  # It was logged; a later one succeeds.
            except Exception:
                log.exception("unexpected error while old files are removed")
            await asyncio.sleep(SWEEP_S)


def require(files: FilesService | None) -> FilesService:
    """The service, for an endpoint that names no file.

    Raises:
        InvalidRequestError: there is none, because nothing is stored.
    """
    if files is None:
        raise InvalidRequestError(f"Files are not available. {IS_OFF}", code="unsupported_operation")
    return files


def require_file(files: FilesService | None, file_id: str) -> FilesService:
    """The service, for an endpoint that names a file.

    Raises:
        StoredObjectNotFoundError: there is none, because nothing is stored.
    """
    if files is None:
        raise StoredObjectNotFoundError("File", file_id, param="file_id", hint=IS_OFF)
    return files
