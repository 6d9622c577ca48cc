"""Base class of policies: forwards every call to the wrapped backend; a policy overrides the calls it changes."""

from typing import TypeVar

from domain.port import EventStream, InferenceBackend, ModelCard, RequestContext, StepListener, ignore_step
from domain.requests import GenerationRequest, Request, ResultT

T = TypeVar("T")


def layer(backend: InferenceBackend, kind: type[T]) -> T | None:
    """The outermost layer of a stack that is an instance of `kind`; None if there is none."""
    current: object = backend
    while not isinstance(current, kind):
        if not isinstance(current, BackendWrapper):
            return None
        current = current._backend
    return current


class BackendWrapper:
    """Forwards every call of the port to the wrapped backend."""

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

    async def call(self, request: Request[ResultT], context: RequestContext) -> ResultT:
        """See the port."""
        return await self._backend.call(request, context)

    def stream(self, request: GenerationRequest, context: RequestContext) -> EventStream:
        """See the port."""
        return self._backend.stream(request, context)
