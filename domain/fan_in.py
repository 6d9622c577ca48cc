"""Several generations for one request, merged into one stream."""

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator, Sequence

from domain.port import InferenceBackend, RequestContext
from domain.requests import GenerationRequest
from domain.results import GenerationEvent
from domain.streams import begun

Indexed = tuple[int, GenerationEvent]


@contextlib.asynccontextmanager
async def stream_all(
    backend: InferenceBackend, requests: Sequence[GenerationRequest], context: RequestContext
) -> AsyncGenerator[AsyncIterator[Indexed], None]:
    """Events of all requests as they come, each with the index of its request.

    Entering returns once the first event is there. The first failure ends the other requests and is raised;
    leaving the context ends them all.
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
        async with begun(_merged(queue, len(tasks))) as events:
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
