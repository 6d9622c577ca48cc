"""The port: what the service asks of an engine, whatever the engine is and wherever it runs.

Everything here speaks of inference, not of HTTP. An adapter implements `InferenceBackend` once; a policy
wraps one and is one. `tests/contract` holds every implementation to the sentences below.
"""

from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager
from typing import Protocol

import msgspec

from domain.observation import Observer
from domain.requests import GenerationRequest, Request, ResultT
from domain.results import GenerationEvent
from domain.roles import Role

Events = AsyncIterator[GenerationEvent]
EventStream = AbstractAsyncContextManager[Events]
"""A generation under way: entered to begin, left to end it, finished or not."""


class ModelCard(msgspec.Struct, frozen=True, kw_only=True):
    """What is known of a model once its engine serves."""

    name: str
    """The id that clients use."""
    role: Role
    created: int
    """Unix time in seconds at which the engine became known."""
    max_model_len: int | None = None
    """Context length in tokens, prompt and completion together."""
    dimensions: int | None = None
    """Length of one embedding vector; None for a generator."""
    reports_tokens_per_input: bool = False
    """Whether embeddings come with the tokens of each input, and not only with their sum."""


class RequestContext(msgspec.Struct, frozen=True, kw_only=True):
    """What travels with a request besides its content."""

    request_id: str
    timeout_s: float | None = None
    """Seconds that the client gives the request; None leaves it to the service."""
    trace: Mapping[str, str] | None = None
    """Headers that carry the trace on to the engine (W3C Trace Context); None if nobody traces the request."""
    observer: Observer | None = None
    """Told of what happens to the request; None if nobody watches."""


StepListener = Callable[[str], None]
"""Called with what a start is doing now, in a few words such as "loading the model"."""


def ignore_step(_step: str) -> None:
    """Ignores the steps of a start."""


class InferenceBackend(Protocol):
    """One engine in one role.

    Errors: every method raises subclasses of `domain.errors.InferenceError` and nothing else, save
    `asyncio.CancelledError`, which passes through. A request that the role does not serve raises
    `WrongEndpointError`.

    Cancellation: when the task that awaits `call` is cancelled, or the context of `stream` is left, the work in
    the engine ends too.
    """

    async def start(self, on_step: StepListener = ignore_step) -> ModelCard:
        """Bring the engine up and return its card once it can take requests.

        Args:
            on_step: called with what takes its time, on the event loop.

        Raises:
            BackendUnavailableError: it can't be reached yet; calling again later may help.
            BackendFailedError: it can't start; the message says why.
        """
        ...

    async def stop(self) -> None:
        """End everything that `start` began, processes included. Safe at any time, and more than once."""
        ...

    async def probe(self) -> None:
        """Return if the engine is alive, raise if it is not. Costs the engine no inference."""
        ...

    async def call(self, request: Request[ResultT], context: RequestContext) -> ResultT:
        """The whole result, or an error and no part of it."""
        ...

    def stream(self, request: GenerationRequest, context: RequestContext) -> EventStream:
        """The events of a generation as they come.

        Entering the context returns once the engine has begun to answer, so whatever it refuses raises there.
        The iterator yields deltas of all choices, then exactly one `GenerationUsage`. Deltas of one choice come
        in order and none is empty; joined they are the choice, and exactly one of them, the last, has a finish
        reason. A failure raises from the iterator, and no usage follows.
        """
        ...
