"""The state store on a database, behind the port."""

import asyncio
import logging
from collections.abc import Mapping, Sequence
from functools import partial

from sqlalchemy import URL, true, update

from adapters.state.access import Access
from adapters.state.batch_store import DatabaseBatchStore
from adapters.state.batch_writes import BatchWrites
from adapters.state.conversation_writes import ConversationWrites
from adapters.state.database import Database
from adapters.state.file_store import DatabaseFileStore, FileWrites
from adapters.state.operations import ROW_BYTES, AppendEvents, Begin, Delete, Finish
from adapters.state.process_writes import Interrupted
from adapters.state.retention import Limits, Retention
from adapters.state.tables import responses
from adapters.state.texts import storable
from adapters.state.writer import MAX_BYTES, STOP_S
from domain.errors import StateUnavailableError
from domain.state import Item, StateStore, StoredConversation, StoredResponse

log = logging.getLogger("memoria")

SWEEP_S = 300.0
"""Seconds between two sweeps."""


class DatabaseStateStore(StateStore):
    """Keeps state in a database; see the port."""

    def __init__(
        self,
        url: URL,
        *,
        interrupted: Interrupted,
        limits: Limits = Limits(),  # noqa: B008 (immutable)
        max_queue_bytes: int = MAX_BYTES,
    ) -> None:
        """Create the store, without opening the database.

        Args:
            url: SQLAlchemy's URL of the database.
            interrupted: turns the body of an unfinished response into that of a failed one. Called in threads.
            limits: how much is kept.
            max_queue_bytes: estimated memory of what may wait to be written.
        """
        database = Database(url)
        self._conversations = ConversationWrites(database)
        self._access = Access(
            database, self._conversations, interrupted=interrupted, max_queue_bytes=max_queue_bytes
        )
        file_writes = FileWrites(database)
        self.files = DatabaseFileStore(self._access, file_writes)
        """The store of files on the same database, open as long as this one."""
        self.batches = DatabaseBatchStore(self._access, BatchWrites(database, file_writes))
        """The store of batches on the same database, open as long as this one."""
        self._retention = Retention(database, limits, self._access.process_id)
        self._one_stop = asyncio.Lock()
        self._one_sweep = asyncio.Lock()
        self._sweeping: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """See the port."""
        await self._access.open()
        self._sweeping = asyncio.create_task(self._sweep_repeatedly())

    async def stop(self) -> None:
        """See the port."""
        async with self._one_stop:
            if self._sweeping is not None:
                self._sweeping.cancel()
                # It writes once more when it is cancelled.
                await asyncio.wait([self._sweeping], timeout=STOP_S)
            await self._access.close()

    def begin(self, response: StoredResponse) -> None:
        """See the port."""
        self._access.offer(response.id, Begin(response))

    async def begin_durably(self, response: StoredResponse) -> None:
        """See the port."""
        await self._access.submit(Begin(response))

    async def finish(self, response: StoredResponse) -> None:
        """See the port."""
        await self._access.submit(Finish(response))

    async def response(self, owner: str, response_id: str) -> StoredResponse | None:
        """See the port."""
        await self._access.written(response_id)
        return await self._access.read(
            partial(self._access.reads.response, owner=storable(owner), response_id=storable(response_id))
        )

    async def delete_response(self, owner: str, response_id: str) -> bool:
        """See the port."""
        return bool(await self._access.submit(Delete(owner, response_id)))

    async def discard_response(self, owner: str, response_id: str) -> None:
        """See the port."""
        await self._access.submit(Delete(owner, response_id, is_last=True))

    async def history(self, owner: str, response_id: str) -> Sequence[Item] | None:
        """See the port."""
        await self._access.written(response_id)
        return await self._access.read(
            partial(self._access.reads.history, owner=storable(owner), response_id=storable(response_id))
        )

    async def items(self, owner: str, ids: Sequence[str]) -> Mapping[str, Item]:
        """See the port."""
        stored = {each: storable(each) for each in ids}
        found = await self._access.read(
            partial(self._access.reads.items, owner=storable(owner), ids=list(dict.fromkeys(stored.values())))
        )
        return {each: found[key] for each, key in stored.items() if key in found}

    def append_events(self, response_id: str, events: Sequence[tuple[int, bytes]]) -> None:
        """See the port."""
        if not self._access.offer(response_id, AppendEvents(response_id, events)):
            self._access.lose_events(response_id)

    async def events(self, owner: str, response_id: str, *, after: int) -> Sequence[tuple[int, bytes]]:
        """See the port."""
        await self._access.written(response_id)
        return await self._access.read(
            partial(
                self._access.reads.events, owner=storable(owner), response_id=storable(response_id), after=after
            )
        )

    async def request_cancel(self, owner: str, response_id: str) -> bool:
        """See the port."""
        mine = (responses.c.id == storable(response_id), responses.c.owner == storable(owner))
        await self._access.read(
            partial(self._access.reads.check_response, owner=storable(owner), response_id=storable(response_id))
        )
        statement = update(responses).where(*mine, responses.c.process_id.is_not(None))
        return await self._access.write(
            lambda connection: bool(connection.execute(statement.values(cancel_requested=true())).rowcount)
        )

    async def cancel_requested(self, response_ids: Sequence[str]) -> Sequence[str]:
        """See the port."""
        ids = {storable(each): each for each in response_ids}
        found = await self._access.read(partial(self._access.reads.cancel_requested, ids=list(ids)))
        return [ids[each] for each in found]

    async def create_conversation(self, conversation: StoredConversation, items: Sequence[Item]) -> None:
        """See the port."""
        await self._access.write(
            partial(self._conversations.create, conversation=conversation, first=items), size=_size(items)
        )

    async def conversation(self, owner: str, conversation_id: str) -> StoredConversation | None:
        """See the port."""
        return await self._access.read(
            partial(
                self._access.reads.conversation, owner=storable(owner), conversation_id=storable(conversation_id)
            )
        )

    async def update_conversation(
        self, owner: str, conversation_id: str, metadata: Mapping[str, str]
    ) -> StoredConversation | None:
        """See the port."""
        return await self._access.write(
            partial(
                self._conversations.update,
                owner=storable(owner),
                conversation_id=storable(conversation_id),
                metadata=metadata,
            )
        )

    async def delete_conversation(self, owner: str, conversation_id: str) -> bool:
        """See the port."""
        return await self._access.write(
            partial(self._conversations.delete, owner=storable(owner), conversation_id=storable(conversation_id))
        )

    async def conversation_items(self, owner: str, conversation_id: str) -> Sequence[Item] | None:
        """See the port."""
        return await self._access.read(
            partial(
                self._access.reads.conversation_items,
                owner=storable(owner),
                conversation_id=storable(conversation_id),
            )
        )

    async def add_conversation_items(self, owner: str, conversation_id: str, items: Sequence[Item]) -> bool:
        """See the port."""
        return await self._access.write(
            partial(
                self._conversations.add,
                owner=storable(owner),
                conversation_id=storable(conversation_id),
                added=items,
            ),
            size=_size(items),
        )

    async def delete_conversation_item(self, owner: str, conversation_id: str, item_id: str) -> bool:
        """See the port."""
        return await self._access.write(
            partial(
                self._conversations.delete_item,
                owner=storable(owner),
                conversation_id=storable(conversation_id),
                item_id=storable(item_id),
            )
        )

    async def sweep(self) -> int:
        """Report responses of ended processes as failed, and remove what exceeds the limits."""
        async with self._one_sweep:
            await self._access.end_dead_processes()
            return await self._retention.sweep(self._access.write, self._access.read)

    async def _sweep_repeatedly(self) -> None:
        while True:
            try:
                await self.sweep()
            except StateUnavailableError:
                pass  # It was logged; a later one succeeds.
            except Exception:
                log.exception("unexpected error while old responses are removed")
            await asyncio.sleep(SWEEP_S)


def _size(items: Sequence[Item]) -> int:
    return sum(ROW_BYTES + len(item.data) for item in items)
