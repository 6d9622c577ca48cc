"""Work for a client ends when the client leaves.

Litestar runs a plain handler to its end even if nobody is there to hear the answer, which on an engine is
expensive; so the work races against the disconnect.
"""

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

from litestar.types import Receive

from app.errors import ClientDisconnectedError

T = TypeVar("T")


async def unless_disconnected(work: Coroutine[Any, Any, T], receive: Receive) -> T:
    """The result of some work, which is cancelled if the client leaves first.

    The request's body must have been read before.

    Raises:
        ClientDisconnectedError: the client left; the work has been cancelled and has ended.
    """
    worker = asyncio.create_task(work)
    watcher = asyncio.create_task(_disconnect(receive))
    try:
        await asyncio.wait((worker, watcher), return_when=asyncio.FIRST_COMPLETED)
        if not worker.done():
            raise ClientDisconnectedError
        return worker.result()
    finally:
        worker.cancel()
        watcher.cancel()
        await asyncio.gather(worker, watcher, return_exceptions=True)


async def _disconnect(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
