"""One server behind a role: tracks its load and last error, and guards it with a circuit breaker."""

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

MAX_BACK_OFF_S = 10.0
"""Maximum time that a busy server gets requests only if no other one is available."""


class ServerGroup:
    """A layer that knows the servers behind a role."""

    _group: Sequence["Member"]

    def members(self) -> list[MemberHealth]:
        """Current states of the servers. Cheap: contacts no server."""
        return [member.health() for member in self._group]


class Member(BackendWrapper):
    """Forwards requests while the breaker is closed, and records their outcomes."""

    def __init__(self, backend: InferenceBackend, *, address: str, breaker: CircuitBreaker, clock: Clock) -> None:
        """Make the policy.

        Args:
            backend: the server.
            address: host and port, which identify the server.
            breaker: this server's own.
            clock: source of the time.
        """
        super().__init__(backend)
        self.address = address
        self.breaker = breaker
        self.state = BackendState.STARTING
        """Set by the monitor of this server."""
        self.outstanding = 0
        self.ejections = 0
        self.last_error: str | None = None
        self.on_failure: Callable[[InferenceError], None] = lambda _error: None
        """Called when a request fails because of the server."""
        self._clock = clock
        self._backs_off_until = 0.0

    @property
    def is_backing_off(self) -> bool:
        """Whether the server recently answered that it is busy."""
        return self._backs_off_until > 0 and self._clock() < self._backs_off_until

    def health(self) -> MemberHealth:
        """The current state. Cheap: does not contact the server."""
        return MemberHealth(
            address=self.address,
            state=self.state,
            breaker=self.breaker.state,
            outstanding=self.outstanding,
            ejections=self.ejections,
            last_error=self.last_error,
        )

    def eject(self, reason: str) -> None:
        """Mark a ready server as unavailable."""
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
        """Let a request through to the server if the breaker allows it, and record the outcome."""
        if not self.breaker.enter():
            raise BackendUnavailableError(
                "The model's server has failed too often and is temporarily out of rotation. Please try again "
                "later.",
                retry_after_s=self.breaker.retry_after_s,
            )
        self.outstanding += weight
        progress = _Progress()
        try:
            yield progress
        except InferenceError as error:
            self._record(error)
            raise
        except BaseException:
            # The client disconnected; a server that had begun to answer counts as successful.
            if progress.has_answered:
                self.breaker.succeeded()
            else:
                self.breaker.abandoned()
            raise
        else:
            self.breaker.succeeded()
        finally:
            self.outstanding -= weight

    def _record(self, error: InferenceError) -> None:
        """Record an error's meaning for the state of the server."""
        if not error.has_reached_engine:
            self.breaker.abandoned()
        elif isinstance(error, BackendBusyError):
            # The server is alive and rejects the request: neither a failure nor a success.
            self.breaker.abandoned()
            self._backs_off_until = self._clock() + min(error.retry_after_s or 1, MAX_BACK_OFF_S)
            self.last_error = error.message
        elif isinstance(error, BackendUnavailableError | BackendTimeoutError | BackendFailedError):
            is_silent = isinstance(error, BackendUnreachableError | BackendTimeoutError)
            self.breaker.failed(is_silent=is_silent)
            self.last_error = error.message
            self.on_failure(error)
        else:
            self.breaker.succeeded()


class _Progress:
    """Progress of a request to a server."""

    has_answered = False
    """Whether the server has begun to answer."""


class LoneMember(Member, ServerGroup):
    """The only server of its role. It has no monitor: `start`, `stop` and `probe` update its state."""

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
        """See the port. If the server is back, ends the cool-down of its breaker."""
        try:
            await super().probe()
        except InferenceError as error:
            if self.state is BackendState.READY:
                self.eject(error.message)
            raise
        if self.state is BackendState.UNAVAILABLE:
            self.breaker.cool_down()
            self.state = BackendState.READY
