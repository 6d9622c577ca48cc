"""One server behind a role: what it has to do, how it failed last, and a circuit breaker before it."""

import contextlib
from collections.abc import AsyncGenerator, Callable, Iterator, Sequence

from domain.errors import (
    BackendBusyError,
    BackendFailedError,
    BackendTimeoutError,
    BackendUnavailableError,
    BackendUnreachableError,
    InferenceError,
)
from domain.health import BackendState, MemberHealth
from domain.policies.circuit_breaker import CircuitBreaker, Clock
from domain.policies.wrapper import BackendWrapper
from domain.port import Events, InferenceBackend, ModelCard, RequestContext, StepListener, ignore_step
from domain.requests import GenerationRequest, Request, ResultT

LONGEST_BACK_OFF_S = 10.0
"""For how long at most a busy server is asked only if no other one is there."""


class ServerGroup:
    """A layer that knows the servers behind a role."""

    _group: Sequence["Member"]

    def members(self) -> list[MemberHealth]:
        """Their states now. Costs nothing."""
        return [member.health() for member in self._group]


class Member(BackendWrapper):
    """Passes requests on while the breaker is closed, and remembers what came of them."""

    def __init__(self, backend: InferenceBackend, *, address: str, breaker: CircuitBreaker, clock: Clock) -> None:
        """Make the policy.

        Args:
            backend: the server.
            address: host and port, to tell it apart from others.
            breaker: this server's own.
            clock: where the time comes from.
        """
        super().__init__(backend)
        self.address = address
        self.breaker = breaker
        self.state = BackendState.STARTING
        """Kept by whoever watches it."""
        self.outstanding = 0
        self.ejections = 0
        self.last_error: str | None = None
        self.on_trouble: Callable[[InferenceError], None] = lambda _error: None
        """Told of requests that failed for want of the server."""
        self._clock = clock
        self._backs_off_until = 0.0

    @property
    def is_backing_off(self) -> bool:
        """Whether the server said a moment ago that it has enough to do."""
        return self._backs_off_until > 0 and self._clock() < self._backs_off_until

    def health(self) -> MemberHealth:
        """The state now. Costs nothing."""
        return MemberHealth(
            address=self.address,
            state=self.state,
            breaker=self.breaker.state,
            outstanding=self.outstanding,
            ejections=self.ejections,
            last_error=self.last_error,
        )

    def eject(self, reason: str) -> None:
        """It was ready and is no more."""
        self.state = BackendState.UNAVAILABLE
        self.ejections += 1
        self.last_error = reason

    async def call(self, request: Request[ResultT], context: RequestContext) -> ResultT:
        """See the port."""
        with self._entered(request.width):
            return await self._backend.call(request, context)

    @contextlib.asynccontextmanager
    async def stream(self, request: GenerationRequest, context: RequestContext) -> AsyncGenerator[Events, None]:
        """See the port."""
        with self._entered(request.width) as progress:
            async with self._backend.stream(request, context) as events:
                progress.has_answered = True
                yield events

    @contextlib.contextmanager
    def _entered(self, weight: int) -> Iterator["_Progress"]:
        """Lets a request to the server, if the breaker does, and notes what comes of it."""
        if not self.breaker.enter():
            raise BackendUnavailableError(
                "The model's server has failed too often and is left alone for a moment. Please try again later.",
                retry_after_s=self.breaker.retry_after_s,
            )
        self.outstanding += weight
        progress = _Progress()
        try:
            yield progress
        except InferenceError as error:
            self._note(error)
            raise
        except BaseException:
            # The client has gone; that the server had begun to answer is to its credit.
            if progress.has_answered:
                self.breaker.succeeded()
            else:
                self.breaker.abandoned()
            raise
        else:
            self.breaker.succeeded()
        finally:
            self.outstanding -= weight

    def _note(self, error: InferenceError) -> None:
        """What an error says of the server."""
        if isinstance(error, BackendBusyError):
            # It is well and says no: neither a failure nor a proof of being able to.
            self.breaker.abandoned()
            self._backs_off_until = self._clock() + min(error.retry_after_s or 1, LONGEST_BACK_OFF_S)
            self.last_error = error.message
        elif isinstance(error, BackendUnavailableError | BackendTimeoutError | BackendFailedError):
            is_silent = isinstance(error, BackendUnreachableError | BackendTimeoutError)
            self.breaker.failed(is_silent=is_silent)
            self.last_error = error.message
            self.on_trouble(error)
        else:
            self.breaker.succeeded()


class _Progress:
    """How far a request to a server has come."""

    has_answered = False
    """Whether the server has begun to answer."""


class LoneMember(Member, ServerGroup):
    """The only server of its role, watched by nobody but those who probe it."""

    def members(self) -> list[MemberHealth]:
        """See `ServerGroup`."""
        return [self.health()]

    async def start(self, on_step: StepListener = ignore_step) -> ModelCard:
        """See the port."""
        try:
            card = await super().start(on_step)
        except InferenceError as error:
            self.last_error = error.message
            raise
        self.state = BackendState.READY
        return card

    async def stop(self) -> None:
        """See the port."""
        self.state = BackendState.STOPPED
        await super().stop()

    async def probe(self) -> None:
        """See the port. A server that is back gets its first request at once, whatever the breaker says."""
        try:
            await super().probe()
        except InferenceError as error:
            if self.state is BackendState.READY:
                self.eject(error.message)
            raise
        if self.state is BackendState.UNAVAILABLE:
            self.breaker.cool_down()
            self.state = BackendState.READY
