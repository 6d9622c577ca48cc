"""Calls the contents of files in threads, and bounds the size of all of them together."""

import asyncio
import errno
import logging
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from typing import TypeVar

from domain.errors import FilesUnavailableError, InferenceError, InsufficientStorageError
from domain.files import FileContents, NewContents, OpenContents

log = logging.getLogger("memoria")
T = TypeVar("T")
THREADS = 4
FULL = (errno.ENOSPC, errno.EDQUOT)


class Storage:
    """The contents of files, for the event loop.

    The size of all contents is measured on the disk when an upload begins, so other processes, the results of
    batches and leftovers count. What this process receives meanwhile is counted exactly.
    """

    def __init__(self, contents: FileContents, *, max_total_bytes: int) -> None:
        """Create it without touching the disk.

        Args:
            contents: where contents are kept.
            max_total_bytes: of all contents.
        """
        self.contents = contents
        self._max_total_bytes = max_total_bytes
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="memoria-files")
        self._received: dict[str, int] = {}
        self._other_bytes = 0
        # Contents that get their name while the disk is measured would count twice, or not at all.
        self._one_change = asyncio.Lock()

    async def run(self, function: Callable[..., T], *arguments: object) -> T:
        """Call a function of the contents in a thread.

        Raises:
            InsufficientStorageError: the disk is full.
            FilesUnavailableError: the disk does not work.
        """
        try:
            return await self.start(function, *arguments)
        except OSError as error:
            raise storage_error(error) from error

    def start(self, function: Callable[..., T], *arguments: object) -> "asyncio.Future[T]":
        """Call a function in a thread, even if the task that waits for it is cancelled before it runs."""
        return asyncio.get_running_loop().run_in_executor(self._threads, function, *arguments)

    def stop(self) -> None:
        """End the threads; what they do is finished."""
        self._threads.shutdown(wait=False)

    @asynccontextmanager
    async def receive(self) -> AsyncIterator["Reception"]:
        """New contents, which are removed at the end unless they were kept."""
        new = await self._new()
        self._received[new.name] = 0
        try:
            await self.measure()
            yield Reception(self, new)
        finally:
            self._received.pop(new.name, None)
            # Also if this task is being cancelled, and is cancelled again.
            discarded = self.start(new.discard)
            try:
                await asyncio.shield(discarded)
            except OSError as error:
                log.warning("contents of a file that was not kept can't be removed: %s", error)

    @asynccontextmanager
    async def open(self, name: str) -> AsyncIterator[OpenContents]:
        """Contents that are open for reading. Raises FileNotFoundError if there are none."""
        opened = await self._opened(name)
        try:
            yield opened
        finally:
            await asyncio.shield(self.start(opened.close))

    async def measure(self) -> None:
        """Measure what counts besides the uploads of this process."""
        async with self._one_change:
            own = frozenset(self._received)
            self._other_bytes = await self.run(lambda: self.contents.used_bytes(without=own))

    async def count(self, name: str, size: int) -> None:
        """Count bytes that are about to be written.

        Raises:
            InsufficientStorageError: the contents would exceed their total size.
        """
        self._received[name] += size
        if self._is_exceeded():
            # Something may have been deleted since.
            await self.measure()
            if self._is_exceeded():
                raise InsufficientStorageError(
                    f"All files together would exceed {self._max_total_bytes} bytes (FILES_MAX_TOTAL_SIZE). "
                    "Delete files that are not needed any more, or ask the operator of the service to raise it."
                )

    async def keep(self, new: NewContents, name: str) -> None:
        """Give contents their name."""
        async with self._one_change:
            await self.run(new.keep, name)
            self._other_bytes += self._received.pop(new.name, 0)

    def _is_exceeded(self) -> bool:
        return self._other_bytes + sum(self._received.values()) > self._max_total_bytes

    async def _new(self) -> NewContents:
        creating = self.start(self.contents.new)
        try:
            return await asyncio.shield(creating)
        except OSError as error:
            raise storage_error(error) from error
        except asyncio.CancelledError:
            creating.add_done_callback(self._discard_late)
            raise

    def _discard_late(self, creating: "asyncio.Future[NewContents]") -> None:
        if not creating.cancelled() and creating.exception() is None:
            self.start(creating.result().discard)

    async def _opened(self, name: str) -> OpenContents:
        opening = self.start(self.contents.open, name)
        try:
            return await asyncio.shield(opening)
        except FileNotFoundError:
            raise
        except OSError as error:
            raise storage_error(error) from error
        except asyncio.CancelledError:
            opening.add_done_callback(self._close_late)
            raise

    def _close_late(self, opening: "asyncio.Future[OpenContents]") -> None:
        if not opening.cancelled() and opening.exception() is None:
            self.start(opening.result().close)


class Reception:
    """Contents that are being received."""

    def __init__(self, storage: Storage, new: NewContents) -> None:
        self._storage = storage
        self._new = new
        self.size = 0
        """Bytes so far."""

    async def write(self, data: bytes) -> None:
        """Append bytes.

        Raises:
            InsufficientStorageError: there is no space for them.
            FilesUnavailableError: the disk does not work.
        """
        await self._storage.count(self._new.name, len(data))
        await self._storage.run(self._new.write, data)
        self.size += len(data)

    async def keep(self, name: str) -> None:
        """Give the contents their name; returns once that is durable. Raises as `write`."""
        await self._storage.keep(self._new, name)


def storage_error(error: OSError) -> InferenceError:
    """The client's error for an error of the disk; other ones than a lack of space are logged."""
    if error.errno in FULL:
        return InsufficientStorageError(
            "There is no space left for files on the disk of the service. Delete files that are not needed any "
            "more, or try again later."
        )
    log.error("the contents of files can't be read or written: %s", error)
    return FilesUnavailableError()
