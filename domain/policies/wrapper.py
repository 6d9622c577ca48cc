"""A backend around another one: everything passes through, and a policy changes what it is about."""

import contextlib
from collections.abc import AsyncGenerator
from typing import TypeVar

from domain.port import InferenceBackend, ModelCard, RequestContext, StepListener, ignore_step
from domain.requests import EmbeddingRequest, GenerationRequest, TokenizeRequest
from domain.results import EmbeddingResult, GenerationEvent, Tokenization

T = TypeVar("T")


def layer(backend: InferenceBackend, kind: type[T]) -> T | None:
    """The outermost layer of a stack that is of a kind, if there is one."""
    found: object = backend
    while not isinstance(found, kind):
        if not isinstance(found, BackendWrapper):
            return None
        found = found._backend
    return found


class BackendWrapper:
    """Passes every call of the port on to the backend inside."""

    def __init__(self, backend: InferenceBackend) -> None:
        self._backend = backend

    async def start(self, on_step: StepListener = ignore_step) -> ModelCard:
        """See the port."""
        return await self._backend.start(on_step)

    async def stop(self) -> None:
        """See the port."""
        await self._backend.stop()

    async def probe(self) -> None:
        """See the port."""
        await self._backend.probe()

    async def embed(self, request: EmbeddingRequest, context: RequestContext) -> EmbeddingResult:
        """See the port."""
        return await self._backend.embed(request, context)

    async def generate(
        self, request: GenerationRequest, context: RequestContext
    ) -> AsyncGenerator[GenerationEvent, None]:
        """See the port."""
        async with contextlib.aclosing(self._backend.generate(request, context)) as events:
            async for event in events:
                yield event

    async def tokenize(self, request: TokenizeRequest, context: RequestContext) -> Tokenization:
        """See the port."""
        return await self._backend.tokenize(request, context)

    async def detokenize(self, token_ids: list[int], context: RequestContext) -> str:
        """See the port."""
        return await self._backend.detokenize(token_ids, context)
