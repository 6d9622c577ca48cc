"""Calls functions in transactions, in threads: one writes, some read. Nothing here blocks the event loop."""

import asyncio
import contextlib
import secrets
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, TypeVar

from sqlalchemy import Connection
from sqlalchemy.exc import DBAPIError

from adapters.state.conversation_writes import ConversationWrites
from adapters.state.database import READERS, Database
from adapters.state.operations import AppendEvents, Begin, Operation, Work
from adapters.state.outage import Outage
from adapters.state.process_writes import Interrupted, ProcessWrites
from adapters.state.processes import HEARTBEAT_S, ProcessInfo, has_ended, this_process
from adapters.state.reads import DeadProcessError, Reads
from adapters.state.response_writes import ResponseWrites
from adapters.state.texts import storable
from adapters.state.writer import STOP_S, Writer, is_outage
from domain.errors import StateUnavailableError

T = TypeVar("T")


class Access:
    """One process's access to the database, and the process's own entry there."""

    def __init__(
        self,
        database: Database,
        conversations: ConversationWrites,
        *,
        interrupted: Interrupted,
        max_queue_bytes: int,
    ) -> None:
        """Create the access, without opening the database.

        Args:
            database: the database.
            conversations: writes conversations.
            interrupted: turns the body of an unfinished response into that of a failed one.
            max_queue_bytes: estimated memory of what may wait to be written.
        """
        self._database = database
        self.process_id = secrets.token_hex(16)
        self._here: ProcessInfo | None = None
        self._outage = Outage(database.url)
        self._responses = ResponseWrites(database, conversations, self.process_id)
        self._processes = ProcessWrites(database, interrupted)
        self.reads = Reads(database, self.process_id, self._has_ended)
        self._writer = Writer(
            database,
            self._responses,
            self._outage,
            on_done=self._done,
            idle=self._tick,
            idle_s=HEARTBEAT_S,
            max_bytes=max_queue_bytes,
        )
        self._readers = ThreadPoolExecutor(READERS, thread_name_prefix="memoria-state-reader")
        self._pending: Counter[str] = Counter()
        self._is_open = False

    async def open(self) -> None:
        """Open the database, and start to write.

        Raises:
            ConfigurationError: the database can't be used.
        """
        await self._in_thread(self._open)
        self._is_open = True
        self._writer.start()

    async def close(self) -> None:
        """Write what waits, report what is unfinished as failed, and close the database."""
        if self._is_open:
            self._is_open = False
            with contextlib.suppress(StateUnavailableError, TimeoutError):
                ending = self.write(partial(self._processes.end, process_id=self.process_id))
                await asyncio.wait_for(ending, STOP_S)
            await self._writer.stop()
        # A reader that was left by its task still holds a connection.
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(asyncio.to_thread(self._close), STOP_S)

    def offer(self, response_id: str, operation: Operation) -> bool:
        """Write something of a response soon; False if too much waits already."""
        if not self._writer.offer(operation):
            return False
        self._pending[response_id] += 1
        return True

    def lose_events(self, response_id: str) -> None:
        """Leave out further events of a response, because some could not be stored."""
        # One that has ended gets no further events, and nothing would remove the mark.
        if response_id in self._pending or self._responses.has_begun(response_id):
            self._responses.events_lost.add(response_id)

    async def submit(self, operation: Operation) -> Any:
        """Write something; returns its result once it is durable.

        Raises:
            StateUnavailableError: it could not be written.
        """
        operation.future = asyncio.get_running_loop().create_future()
        return await self._writer.submit(operation, operation.future)

    async def write(self, function: Callable[[Connection], T], *, size: int = 0) -> T:
        """Call a function in a transaction of the writer; returns its result once that is durable.

        Args:
            function: executes statements.
            size: estimated memory of what it writes, in bytes.

        Raises:
            StateUnavailableError: the transaction failed.
        """
        result: T = await self.submit(Work(function, size))
        return result

    async def read(self, function: Callable[[Connection], T]) -> T:
        """Call a function in a transaction for reading, in a thread.

        If it finds a response whose process has ended, that is stored, and the function is called again.

        Raises:
            StateUnavailableError: the database does not work.
        """
        while True:
            try:
                return await self._in_thread(self._read_once, function)
            except DeadProcessError as found:
                ended = found.process_id
            await self.write(partial(self._processes.end, process_id=ended))

    async def written(self, response_id: str) -> None:
        """Return once everything of a response that waits to be written is."""
        if response_id in self._pending:
            await self.write(lambda _connection: None)

    def heartbeat(self, connection: Connection) -> None:
        """Record that this process is alive. Called in a transaction of the writer."""
        if self._here is not None:
            self._processes.heartbeat(connection, self.process_id, self._here)

    async def end_dead_processes(self) -> None:
        """Report the responses of all processes that have ended as failed, and free the batches they claimed."""
        ended: list[str] = await self.read(lambda connection: list(self.reads.dead_processes(connection)))
        for process_id in ended:
            await self.write(partial(self._processes.end, process_id=process_id))

    def _open(self) -> None:
        """Open the database, and announce this process before it works on responses. Runs in a thread."""
        self._here = this_process()
        self._database.open()
        with self._database.write() as connection, connection.begin():
            self._tick(connection)

    def _close(self) -> None:
        self._readers.shutdown()
        self._database.close()

    def _tick(self, connection: Connection) -> None:
        """Write this process's heartbeat, and report what it could not finish as failed."""
        self.heartbeat(connection)
        unfinishable = list(self._responses.unfinishable)
        if unfinishable and not self._processes.fail(connection, [storable(each) for each in unfinishable]):
            # An earlier transaction has reported them all; this one may still fail.
            self._responses.forget(unfinishable)

    def _has_ended(self, process: ProcessInfo, heartbeat_age_s: float) -> bool:
        return self._here is not None and has_ended(
            process,
            heartbeat_age_s=heartbeat_age_s,
            here=self._here,
            trusts_heartbeats=self._outage.trusts_heartbeats,
        )

    def _done(self, operations: Sequence[Operation]) -> None:
        """Count what no longer waits."""
        for operation in operations:
            if operation.future is None:
                if isinstance(operation, Begin):
                    self._subtract(operation.response.id)
                elif isinstance(operation, AppendEvents):
                    self._subtract(operation.response_id)

    def _subtract(self, response_id: str) -> None:
        self._pending[response_id] -= 1
        if not self._pending[response_id]:
            del self._pending[response_id]

    def _read_once(self, function: Callable[[Connection], T]) -> T:
        for is_last in (False, True):
            try:
                with self._database.read() as connection:
                    result = function(connection)
            except DeadProcessError:
                raise
            except Exception as error:
                # Connections that were idle while the server was restarted.
                if not is_last and isinstance(error, DBAPIError) and error.connection_invalidated:
                    continue
                if is_outage(error):
                    self._outage.failed(error)
                else:
                    self._outage.refused(error, "read")
                raise StateUnavailableError from error
            self._outage.worked()
            return result
        raise AssertionError

    async def _in_thread(self, function: Callable[..., T], *arguments: Any) -> T:
        try:
            called = asyncio.get_running_loop().run_in_executor(self._readers, function, *arguments)
        except RuntimeError as error:
            # The threads have ended.
            raise StateUnavailableError from error
        return await called
