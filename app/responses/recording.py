"""Stores a response that is generated while its client waits."""

import asyncio
import logging
from collections.abc import Coroutine
from typing import Any

import msgspec

from app.responses.preparation import Prepared, record
from domain.errors import InferenceError
from domain.openai.responses.response import Response
from domain.state import StateStore, StoredResponse

log = logging.getLogger("memoria")


class Recorder:
    """Stores one response: as unfinished before a client sees its id, and again when it has ended.

    What is stored first as its end stays, even if the client leaves while that is done.
    A response that can't be stored is answered nevertheless, with `store` false.
    """

    def __init__(self, state: StateStore, prepared: Prepared, owner: str, tasks: set[asyncio.Task[None]]) -> None:
        """Create it.

        Args:
            state: the store.
            prepared: the response.
            owner: the owner of the response.
            tasks: keeps what no client waits for.
        """
        self._state = state
        self._prepared = prepared
        self._owner = owner
        self._tasks = tasks
        self._beginning: asyncio.Task[None] | None = None
        self._ending: asyncio.Task[None] | None = None

    def begin(self) -> None:
        """Start to store the response as unfinished, while the engine starts to answer."""
        unfinished = record(self._prepared, self._owner)
        self._beginning = self._soon(self._state.begin_durably(unfinished))

    async def begun(self) -> None:
        """Wait until the response is stored as unfinished: then the client may see its id."""
        if self._beginning is None:
            return
        try:
            await asyncio.shield(self._beginning)
        except InferenceError as error:
            self._give_up(error)

    async def finish(self) -> Response:
        """Store the response as it is now; return it as the client may see it."""
        await asyncio.shield(self._end())
        return self._prepared.presenter.response

    def finish_soon(self) -> None:
        """Store the response as it is now, without waiting."""
        self._end()

    def discard(self) -> None:
        """Delete what has been stored of a response whose id no client has seen."""
        if self._beginning is not None:
            self._soon(self._discard())

    def _give_up(self, error: InferenceError) -> None:
        log.warning("a response could not be stored: %s", error.message)
        presenter = self._prepared.presenter
        presenter.response = msgspec.structs.replace(presenter.response, store=False)

    def _end(self) -> asyncio.Task[None]:
        if self._ending is None:
            self._ending = self._soon(self._finish(record(self._prepared, self._owner)))
        return self._ending

    async def _finish(self, ended: StoredResponse) -> None:
        if not self._prepared.presenter.response.store:
            return
        try:
            await self._state.finish(ended)
        except InferenceError as error:
            self._give_up(error)

    async def _discard(self) -> None:
        await self.begun()
        try:
            await self._state.discard_response(self._owner, self._prepared.presenter.response.id)
        except InferenceError as error:
            self._give_up(error)

    def _soon(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.create_task(work, name="store-response")
        self._tasks.add(task)
        task.add_done_callback(self._done)
        return task

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled():
            # Reported where it is awaited.
            task.exception()
