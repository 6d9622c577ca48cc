"""Stores a response that is generated while its client waits."""

import asyncio
import logging

import msgspec

from app.responses.preparation import Prepared, record
from domain.errors import InferenceError
from domain.openai.responses.response import Response
from domain.state import StateStore

log = logging.getLogger("memoria")


class Recorder:
    """Stores one response: as unfinished once a client knows its id, and again when it has ended."""

    def __init__(
        self, state: StateStore, prepared: Prepared, owner: str, endings: set[asyncio.Task[None]]
    ) -> None:
        """Create it.

        Args:
            state: the store.
            prepared: the response.
            owner: whom it belongs to.
            endings: keeps the tasks that store responses whose clients do not wait.
        """
        self._state = state
        self._prepared = prepared
        self._owner = owner
        self._endings = endings
        self._has_begun = False

    def begin(self) -> None:
        """Store the response as unfinished, soon and without waiting."""
        self._has_begun = True
        self._state.begin(record(self._prepared, self._owner))

    async def finish(self) -> Response:
        """Store the response as it is now; return it as the client may see it.

        If it can't be stored, the client gets it nevertheless, with `store` false.
        """
        presenter = self._prepared.presenter
        try:
            await self._state.finish(record(self._prepared, self._owner))
        except InferenceError as error:
            log.warning("a response could not be stored: %s", error.message)
            presenter.response = msgspec.structs.replace(presenter.response, store=False)
        return presenter.response

    def finish_soon(self) -> None:
        """Store the response as it is now if it has begun, without waiting."""
        if self._has_begun:
            task = asyncio.create_task(self._finish(), name="store-response")
            self._endings.add(task)
            task.add_done_callback(self._endings.discard)

    async def _finish(self) -> None:
        await self.finish()
