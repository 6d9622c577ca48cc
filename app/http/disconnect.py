"""Cancels the work for a client when the client disconnects.

Litestar runs a handler to its end even if the client has disconnected, which is expensive on an engine.
"""

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

from litestar.types import Receive

from app.http.errors import ClientDisconnectedError

T = TypeVar("T")

WATCH_AFTER_S = 0.05
"""Most answers are complete before; only longer ones are worth the cost of a watching task. An earlier disconnect
is not missed, because its message waits to be received."""


async def unless_disconnected(work: Coroutine[Any, Any, T], receive: Receive) -> T:
    """Return the result of some work, or cancel it if the client disconnects first.

    The request's body must have been read before.

    Raises:
        ClientDisconnectedError: the client disconnected; the work has been cancelled and has ended.
    """
    watch = _Watch(receive)
    try:
        return await work
    except asyncio.CancelledError:
        if not watch.client_left:
            raise
        watch.worker.uncancel()
        raise ClientDisconnectedError from None
    finally:
        watch.end()


class _Watch:
    """Cancels the task that created it when the client disconnects."""

    def __init__(self, receive: Receive) -> None:
        loop = asyncio.get_running_loop()
        worker = asyncio.current_task(loop)
        assert worker is not None
        self.worker = worker
        self.client_left = False
        self._receive = receive
        self._task: asyncio.Task[None] | None = None
        self._start = loop.call_later(WATCH_AFTER_S, self._begin)

    def end(self) -> None:
        """Stop watching."""
        self._start.cancel()
        if self._task is not None:
            self._task.cancel()

    def _begin(self) -> None:
        self._task = asyncio.create_task(self._run())

    async def _run(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass
        self.client_left = True
        self.worker.cancel()
