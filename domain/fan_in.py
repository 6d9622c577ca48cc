"""Merges several generations of one request into one stream."""

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator, Sequence

from domain.port import InferenceBackend, RequestContext
from domain.requests import GenerationRequest
from domain.results import GenerationEvent
from domain.streams import open_stream

Indexed = tuple[int, GenerationEvent]


@contextlib.asynccontextmanager
async def stream_all(
    backend: InferenceBackend, requests: Sequence[GenerationRequest], context: RequestContext
) -> AsyncGenerator[AsyncIterator[Indexed], None]:
    """Stream the events of all requests as they arrive, each with the index of its request.

    Entering the context waits for the first event. The first failure cancels the other requests and is raised.
    Leaving the context cancels all requests.
    """
    queue: asyncio.Queue[Indexed | Exception | None] = asyncio.Queue()

    async def forward(index: int, request: GenerationRequest) -> None:
        try:
            async with backend.stream(request, context) as events:
                async for event in events:
                    queue.put_nowait((index, event))
            queue.put_nowait(None)
        except Exception as error:
            queue.put_nowait(error)

    tasks = [asyncio.create_task(forward(index, request)) for index, request in enumerate(requests)]
    try:
        async with open_stream(_merged(queue, len(tasks))) as events:
            yield events
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _merged(queue: asyncio.Queue[Indexed | Exception | None], running: int) -> AsyncGenerator[Indexed, None]:
    while running:
        item = await queue.get()
        if item is None:
            running -= 1
        elif isinstance(item, Exception):
            raise item
        else:
            yield item
