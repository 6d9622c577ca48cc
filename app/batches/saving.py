"""Saves the progress of a claimed batch: first its records, then what the store keeps of it."""

import asyncio
import logging
import operator
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import msgspec
from tenacity import AsyncRetrying, retry_if_result, wait_fixed

from app.batches.parts import Answered, PartWriter
from domain.batches import ENDED, BatchStore, Part, StoredBatch
from domain.errors import StateUnavailableError
from domain.files import StoredFile

log = logging.getLogger("memoria")

RETRY_S = 2.0
"""Pause before it is tried again to save, after a failure."""


async def repeat(function: Callable[[], Awaitable[bool]]) -> None:
    """Call a function until it returns True, with a pause after each failure."""

    async def attempt() -> bool:
        return await function()

    await AsyncRetrying(retry=retry_if_result(operator.not_), wait=wait_fixed(RETRY_S))(attempt)


class ClaimLostError(Exception):
    """Another process works on the batch, because this one was taken for dead."""


class Saver:
    """Saves one batch, as long as this process has its claim."""

    def __init__(self, batch: StoredBatch, writer: PartWriter, store: BatchStore) -> None:
        """Create it.

        Args:
            batch: as it was claimed.
            writer: writes the part of this claim.
            store: the batches.
        """
        self.batch = batch
        """As it was saved last."""
        self.answered = Answered()
        self.has_room = asyncio.Event()
        """Whether records can be written; while the disk is full, no lines begin."""
        self.has_room.set()
        self.earlier: Sequence[Part] = ()
        """The parts of earlier claims, with the sizes that count."""
        self._writer = writer
        self._store = store
        self._one_save = asyncio.Lock()

    @property
    def is_ended(self) -> bool:
        """Whether the batch has ended."""
        return self.batch.status in ENDED

    @property
    def parts(self) -> tuple[Part, ...]:
        """All parts, with what is durable of this one."""
        return (*self.earlier, self._writer.part)

    def shown(self, batch: StoredBatch) -> StoredBatch:
        """A batch with the counts of this moment."""
        done = self.answered
        return msgspec.structs.replace(batch, completed=done.completed, failed=done.failed, usage=done.usage)

    async def save(self, files: Sequence[StoredFile] = (), **changes: Any) -> bool:
        """Save once; return False if that fails now and has to be tried again.

        Raises:
            ClaimLostError: the claim was lost; nothing is saved.
        """
        async with self._one_save:
            if self.is_ended:
                return True
            # Before the records are written: they may grow while that takes place, the counts with them.
            counted = self.shown(msgspec.structs.replace(self.batch, **changes))
            if not await self._try(self._writer.sync):
                return False
            try:
                saved = await self._store.save_batch(msgspec.structs.replace(counted, parts=self.parts), files)
            except StateUnavailableError:
                # The store has logged it.
                return False
            if saved is None:
                raise ClaimLostError
            self.batch = saved
            return True

    async def save_surely(self, files: Sequence[StoredFile] = (), **changes: Any) -> StoredBatch:
        """Save, and try again until that has succeeded.

        Raises:
            ClaimLostError: the claim was lost; nothing is saved.
        """
        await repeat(lambda: self.save(files, **changes))
        return self.batch

    async def write(self) -> bool:
        """Write the records; return False if that fails now and has to be tried again."""
        return await self._try(self._writer.write)

    async def _try(self, write: Callable[[], Awaitable[None]]) -> bool:
        try:
            await write()
        except OSError as error:
            if self.has_room.is_set():
                self.has_room.clear()
                log.warning(
                    "batch %s is paused, because its answers can't be written: %s. It continues as soon as they "
                    "can; free some disk space in MEMORIA_DATA_DIR.",
                    self.batch.id,
                    error.strerror or error,
                )
            return False
        if not self.has_room.is_set():
            log.warning("batch %s continues: its answers can be written again", self.batch.id)
            self.has_room.set()
        return True
