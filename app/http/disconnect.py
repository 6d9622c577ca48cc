"""Work for a client ends when the client leaves.

Litestar runs a plain handler to its end even if nobody is there to hear the answer, which on an engine is
expensive; so the work races against the disconnect.
"""

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

from litestar.types import Receive

from app.http.errors import ClientDisconnectedError

T = TypeVar("T")

WATCH_AFTER_S = 0.05
"""Most answers are there before; only for longer ones a watching task is worth its price. A client that left
earlier is noticed then, because its disconnect message waits to be received."""


async def unless_disconnected(work: Coroutine[Any, Any, T], receive: Receive) -> T:
    """The result of some work, which is cancelled if the client leaves first.

    The request's body must have been read before.

    Raises:
        ClientDisconnectedError: the client left; the work has been cancelled and has ended.
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
    """Cancels the task that made it when the client leaves."""

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
