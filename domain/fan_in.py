"""Several generations for one request, heard as one stream."""

import asyncio
import contextlib
from collections.abc import AsyncGenerator

import msgspec

from domain.port import InferenceBackend, RequestContext
from domain.requests import GenerationRequest
from domain.results import GenerationEvent, GenerationUsage, ToolCallDelta

Indexed = tuple[int, GenerationEvent]


async def generate_all(
    backend: InferenceBackend, requests: list[GenerationRequest], context: RequestContext
) -> AsyncGenerator[Indexed, None]:
    """Events of all requests as they come, each with the index of its request.

    The first failure ends the others and is raised. Closing the iterator ends them all.
    """
    if len(requests) == 1:
        async with contextlib.aclosing(_generate(backend, requests[0], context)) as events:
            async for event in events:
                yield 0, event
        return
    queue: asyncio.Queue[Indexed | BaseException | None] = asyncio.Queue()

    async def forward(index: int, request: GenerationRequest) -> None:
        try:
            async with contextlib.aclosing(_generate(backend, request, context)) as events:
                async for event in events:
                    queue.put_nowait((index, event))
            queue.put_nowait(None)
        except Exception as error:
            queue.put_nowait(error)

    tasks = [asyncio.create_task(forward(index, request)) for index, request in enumerate(requests)]
    running = len(tasks)
    try:
        while running:
            item = await queue.get()
            if item is None:
                running -= 1
            elif isinstance(item, BaseException):
                raise item
            else:
                yield item
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _generate(
    backend: InferenceBackend, request: GenerationRequest, context: RequestContext
) -> AsyncGenerator[GenerationEvent, None]:
    """The backend's events; several greedy choices, which can't differ, are generated once and copied.

    vLLM refuses them, OpenAI serves them.
    """
    copies = request.sampling.n if request.sampling.temperature == 0 else 1
    if copies > 1:
        request = msgspec.structs.replace(request, sampling=msgspec.structs.replace(request.sampling, n=1))
    async with contextlib.aclosing(backend.generate(request, context)) as events:
        async for event in events:
            if copies == 1:
                yield event
            elif isinstance(event, GenerationUsage):
                yield msgspec.structs.replace(event, completion_tokens=event.completion_tokens * copies)
            else:
                for index in range(copies):
                    calls = [_renamed(call, index) for call in event.tool_calls]
                    yield msgspec.structs.replace(event, index=index, tool_calls=calls)


def _renamed(call: ToolCallDelta, copy: int) -> ToolCallDelta:
    """The call in a copy; its id is its own, so that results can be told apart."""
    return call if call.id is None or copy == 0 else msgspec.structs.replace(call, id=f"{call.id}-{copy}")
