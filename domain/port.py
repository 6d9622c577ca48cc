"""The port: the interface of inference backends, in-process or remote.

It is independent of HTTP. An adapter implements `InferenceBackend`; a policy implements it by wrapping another
one. `tests/contract` tests every implementation against the contract below.
"""

from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager
from typing import Protocol

import msgspec

from domain.observation import Observer
from domain.requests import GenerationRequest, Request, ResultT
from domain.results import GenerationEvent
from domain.roles import Role
from domain.service_class import ServiceClass

Events = AsyncIterator[GenerationEvent]
EventStream = AbstractAsyncContextManager[Events]
"""A streamed generation: entering the context starts it, and leaving the context ends it, finished or not."""


class ModelCard(msgspec.Struct, frozen=True, kw_only=True):
    """Facts about a model that are known once its engine serves."""

    name: str
    """The id that clients use."""
    role: Role
    created: int
    """Unix time in seconds at which the engine was first seen."""
    max_model_len: int | None = None
    """Context length in tokens, prompt and completion together."""
    dimensions: int | None = None
    """Length of one embedding vector; None for a generation model."""
    max_sequences: int | None = None
    """Sequences that the engine computes at a time; None if unknown."""
    reports_tokens_per_input: bool = False
    """Whether embedding results include the tokens of each input, and not only their total."""


class RequestContext(msgspec.Struct, frozen=True, kw_only=True):
    """Metadata of a request."""

    request_id: str
    timeout_s: float | None = None
    """The client's timeout in seconds; None for the service's default."""
    trace: Mapping[str, str] | None = None
    """Headers that propagate the trace to the engine (W3C Trace Context); None if the request is not traced."""
    observer: Observer | None = None
    """Receives events of the request; None if it is not observed."""
    service_class: ServiceClass = ServiceClass.INTERACTIVE
    """Which requests it gives way to."""


StepListener = Callable[[str], None]
"""Called with the current step of a start, in a few words such as "loading the model"."""


def ignore_step(_step: str) -> None:
    """Ignore the steps of a start."""


class InferenceBackend(Protocol):
    """One engine in one role.

    Errors: every method raises only subclasses of `domain.errors.InferenceError`, and `asyncio.CancelledError`.
    A request that the role does not serve raises `WrongEndpointError`.

    Cancellation: when the task that awaits `call` is cancelled, or the context of `stream` is left, the engine
    aborts its work.
    """

    async def start(self, on_step: StepListener = ignore_step) -> ModelCard:
        """Start the engine and return its card once it accepts requests.

        Args:
            on_step: called on the event loop with each step of the start.

        Raises:
            BackendUnavailableError: it is not reachable yet; a later call may succeed.
            BackendFailedError: it can't start; the message says why.
        """
        ...

    async def stop(self) -> None:
        """Stop everything that `start` started, including processes. Safe to call at any time, and repeatedly."""
        ...

    async def probe(self) -> None:
        """Return if the engine is alive, raise if it is not. Runs no inference."""
        ...

    async def call(self, request: Request[ResultT], context: RequestContext) -> ResultT:
        """Run a request and return its complete result. Never returns a partial one."""
        ...

    def stream(self, request: GenerationRequest, context: RequestContext) -> EventStream:
        """Stream the events of a generation as they arrive.

        Entering the context returns once the engine has begun to answer, so a rejected request raises there.
        The iterator yields deltas of all choices, then exactly one `GenerationUsage`. Deltas of one choice are in
        order and not empty; joined they are the choice, and only the last one has a finish reason. A failure
        raises from the iterator, and no usage follows.
        """
        ...
