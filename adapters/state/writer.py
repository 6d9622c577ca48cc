"""Writes in one thread: all that waits, in one transaction.

Most of what a transaction costs does not depend on the number of responses in it. Operations without a waiter stay
a moment, so that more of them share one, and so that a response that ends at once is written once.
"""

import asyncio
import contextlib
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from sqlalchemy import Connection
from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError

from adapters.state.database import Database
from adapters.state.operations import Operation, Work
from adapters.state.outage import Outage
from domain.errors import StateUnavailableError

log = logging.getLogger("memoria")

LINGER_S = 0.02
"""Longest time that operations without a waiter stay in the queue, if the writer is free."""
COMMIT_INTERVAL_S = 0.01
"""Shortest time between the beginnings of two transactions while responses share them, so that more of them do.
What is awaited is written at once if the last transaction is longer ago, or was for one response alone."""
MAX_BATCH = 1000
"""Operations in one transaction."""
MAX_BYTES = 64 * 2**20
"""Estimated memory of operations that wait."""
STOP_S = 20.0
"""Longest time to write what waits when the service stops."""
REPEATABLE = {"40001", "40P01"}
"""PostgreSQL's codes of transactions aborted in favor of another: serialization failure, deadlock."""

REJECTIONS = {"22", "23", "54"}
"""PostgreSQL's classes of errors that concern values alone: wrong data, violated constraints, exceeded limits. The
driver raises some of them as OperationalError."""

Done = Callable[[Sequence[Operation]], None]


class Applier(Protocol):
    """Executes operations in a transaction of the writer's thread."""

    def apply(self, connection: Connection, operations: Sequence[Operation]) -> list[Any]:
        """Execute operations in their order; returns their results."""
        ...

    def committed(self, operations: Sequence[Operation]) -> None:
        """Called when the transaction of these operations has succeeded."""
        ...

    def lost(self, operations: Sequence[Operation]) -> None:
        """Called when the transaction of these operations has failed."""
        ...


class Writer:
    """The queue of operations, and the thread that empties it."""

    def __init__(
        self,
        database: Database,
        applier: Applier,
        outage: Outage,
        *,
        on_done: Done,
        idle: Callable[[Connection], None],
        idle_s: float,
        max_bytes: int = MAX_BYTES,
    ) -> None:
        """Create the writer, without starting it.

        Args:
            database: the database.
            applier: executes the operations.
            outage: is informed of failures and successes.
            on_done: called on the event loop with operations that were written or have failed.
            idle: called in a transaction every `idle_s` seconds.
            idle_s: seconds between two calls of `idle`.
            max_bytes: estimated memory of operations that may wait.
        """
        self._database = database
        self._applier = applier
        self._outage = outage
        self._on_done = on_done
        self._idle = idle
        self._idle_s = idle_s
        self._idle_at = 0.0
        self._began_at = 0.0
        self._last_count = 0
        self._max_bytes = max_bytes
        # On the event loop only.
        self._bytes = 0
        self._has_room = asyncio.Event()
        self._has_room.set()
        self._ended: asyncio.Event = asyncio.Event()
        self._loop: asyncio.AbstractEventLoop | None = None
        # Shared with the thread.
        self._condition = threading.Condition()
        self._queue: deque[Operation] = deque()
        self._is_urgent = False
        self._is_stopping = False

    def start(self) -> None:
        """Start the thread."""
        self._loop = asyncio.get_running_loop()
        self._idle_at = time.monotonic() + self._idle_s
        threading.Thread(target=self._run, name="memoria-state-writer", daemon=True).start()

    async def stop(self) -> None:
        """Write what waits, and end the thread; gives up after a while if the database does not answer."""
        with self._condition:
            self._is_stopping = True
            self._condition.notify()
        self._has_room.set()
        if self._loop is not None:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._ended.wait(), STOP_S)

    @property
    def is_full(self) -> bool:
        """Whether operations without a waiter are refused."""
        return self._bytes >= self._max_bytes

    def offer(self, operation: Operation) -> bool:
        """Queue an operation without a waiter; False if the queue is full or the writer has stopped."""
        if self.is_full or self._is_stopping or self._loop is None:
            return False
        self._put(operation)
        return True

    async def submit(self, operation: Operation, future: "asyncio.Future[Any]") -> Any:
        """Queue an operation and wait until it is committed; returns its result.

        Raises:
            StateUnavailableError: it could not be written.
        """
        while self.is_full and not self._is_stopping:
            self._has_room.clear()
            await self._has_room.wait()
        if self._is_stopping or self._loop is None:
            raise StateUnavailableError
        self._put(operation)
        return await future

    def _put(self, operation: Operation) -> None:
        self._bytes += operation.size
        is_urgent = operation.future is not None
        with self._condition:
            self._queue.append(operation)
            if len(self._queue) == 1 or (is_urgent and not self._is_urgent):
                self._condition.notify()
            self._is_urgent = self._is_urgent or is_urgent

    def _run(self) -> None:
        try:
            while (batch := self._next_batch()) is not None:
                self._write_batch(batch)
        finally:
            self._call(self._ended.set)

    def _next_batch(self) -> list[Operation] | None:
        """What waits; empty when it is time to call `idle`, None when the writer has stopped."""
        with self._condition:
            while not self._queue and not self._is_stopping:
                left_s = self._idle_at - time.monotonic()
                if left_s <= 0:
                    return []
                self._condition.wait(left_s)
            if not self._is_stopping:
                self._let_gather()
            if not self._queue:
                return None
            if len(self._queue) <= MAX_BATCH:
                batch, self._queue = list(self._queue), deque()
            else:
                batch = [self._queue.popleft() for _ in range(MAX_BATCH)]
            self._is_urgent = any(operation.future is not None for operation in self._queue)
            return batch

    def _let_gather(self) -> None:
        """Wait a moment for more operations."""
        if not self._is_urgent:
            self._condition.wait(LINGER_S)
        left_s = self._began_at + COMMIT_INTERVAL_S - time.monotonic()
        if left_s > 0 and self._last_count > 1:
            self._condition.wait(left_s)

    def _write_batch(self, batch: list[Operation]) -> None:
        is_idle_due = time.monotonic() >= self._idle_at
        if is_idle_due:
            self._idle_at = time.monotonic() + self._idle_s
            # First, so that it happens under load too.
            self._write([Work(self._idle)])
        if batch:
            self._began_at = time.monotonic()
            self._last_count = len(batch)
            results = self._write(batch)
            self._call(self._finish, batch, results)

    def _write(self, batch: list[Operation]) -> list[Any]:
        """Write operations; returns the result or the error of each."""
        try:
            results = self._transaction(batch)
        except Exception as error:  # Whatever it is, the thread goes on and the waiters get an answer.
            if is_outage(error):
                self._outage.failed(error)
            elif len(batch) > 1:
                # One of them can't be stored: each by itself, so that only that one fails.
                return [self._write([operation])[0] for operation in batch]
            else:
                self._outage.refused(error)
            self._applier.lost(batch)
            return [StateUnavailableError() for _ in batch]
        self._outage.worked()
        self._applier.committed(batch)
        return results

    def _transaction(self, batch: list[Operation]) -> list[Any]:
        """Write operations in one transaction; once more if it certainly left nothing and may succeed now."""
        for is_last in (False, True):
            is_committing = False
            try:
                with self._database.write() as connection, connection.begin() as transaction:
                    results = self._applier.apply(connection, batch)
                    is_committing = True
                    transaction.commit()
                    return results
            except DBAPIError as error:
                if is_last or is_committing or not _may_succeed_again(error):
                    raise
        raise AssertionError

    def _finish(self, batch: list[Operation], results: list[Any]) -> None:
        """Hand over results, on the event loop."""
        for operation, result in zip(batch, results, strict=True):
            self._bytes -= operation.size
            future = operation.future
            if future is None or future.done():
                continue
            if isinstance(result, BaseException):
                future.set_exception(result)
            else:
                future.set_result(result)
        self._on_done(batch)
        if not self.is_full:
            self._has_room.set()

    def _call(self, function: Callable[..., None], *arguments: object) -> None:
        if self._loop is not None:
            # The loop is closed if the service stopped without waiting for a database that does not answer.
            with contextlib.suppress(RuntimeError):
                self._loop.call_soon_threadsafe(function, *arguments)


def is_outage(error: Exception) -> bool:
    """Whether an error concerns the database as a whole, and not what was to be written or read."""
    if isinstance(error, DBAPIError) and (getattr(error.orig, "sqlstate", None) or "")[:2] in REJECTIONS:
        return False
    if isinstance(error, (OperationalError, InterfaceError)):
        return True
    # SQLite reports a damaged file as a plain DatabaseError.
    return isinstance(error, DBAPIError) and (
        error.connection_invalidated or (error.orig is not None and type(error.orig).__name__ == "DatabaseError")
    )


def _may_succeed_again(error: DBAPIError) -> bool:
    """Whether the connection was lost, as by a restart, or the transaction was aborted in favor of another."""
    return error.connection_invalidated or getattr(error.orig, "sqlstate", None) in REPEATABLE
