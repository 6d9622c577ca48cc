"""Helpers that call and stream a backend."""

import contextlib
from collections.abc import AsyncGenerator

from domain.port import InferenceBackend, RequestContext
from domain.requests import GenerationRequest
from domain.results import GenerationEvent


async def stream(
    backend: InferenceBackend, request: GenerationRequest, context: RequestContext
) -> AsyncGenerator[GenerationEvent, None]:
    """The events of a stream as a generator; closing the generator leaves the stream."""
    async with backend.stream(request, context) as events:
        async for event in events:
            yield event


async def events_of(
    backend: InferenceBackend, request: GenerationRequest, context: RequestContext, *, streams: bool = True
) -> list[GenerationEvent]:
    """All events of a generation; without streaming, each choice is a single delta."""
    if not streams:
        result = await backend.call(request, context)
        return [*result.choices, result.usage]
    async with contextlib.aclosing(stream(backend, request, context)) as events:
        return [event async for event in events]
