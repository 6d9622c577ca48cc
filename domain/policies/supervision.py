"""Supervision: starts, probes and restarts a backend and rejects requests while it is not ready.

An engine that reports that it is up may still need many seconds for its first request (caches, kernels,
tokenizer). So a start ends with a warm-up request, and until then clients get a 503 that says so. Afterwards a
periodic probe detects an engine that became unavailable, and one that came back. An engine whose process ended or
hangs is stopped and restarted (`restarts.py` says when), without interrupting the rest of the service.
"""

import asyncio
import contextlib
import logging
from collections.abc import AsyncGenerator, Callable
from datetime import UTC, datetime

import msgspec

from domain.errors import (
    BackendFailedError,
    BackendTimeoutError,
    BackendUnavailableError,
    EngineDiedError,
    EngineHungError,
    InferenceError,
)
from domain.health import SERVING, BackendHealth, BackendState, Fault
from domain.policies.member import ServerGroup
from domain.policies.restarts import DEFAULT_RULES, RestartRules, Restarts
from domain.policies.warm_up import warm_up
from domain.policies.wrapper import layer
from domain.port import Events, InferenceBackend, ModelCard, RequestContext, StepListener, ignore_step
from domain.requests import GenerationRequest, Request, ResultT
from domain.roles import Role

log = logging.getLogger("memoria")

RETRY_AFTER_S = 5
FIRST_RETRY_S = 0.25
MAX_RETRY_S = 5.0

UNHEALTHY = (BackendState.UNAVAILABLE, BackendState.DEAD, BackendState.HUNG, BackendState.FAILED)

StateListener = Callable[[Role, BackendHealth], None]


class SupervisionBackend:
    """Starts, warms up and monitors a backend, and rejects requests while it is not ready."""

    def __init__(
        self,
        backend: InferenceBackend,
        role: Role,
        *,
        model: str | None,
        probe_interval_s: float = 5.0,
        restart_rules: RestartRules = DEFAULT_RULES,
        on_change: StateListener = lambda _role, _health: None,
    ) -> None:
        self.role = role
        self._backend = backend
        self._model = model
        self._probe_interval_s = probe_interval_s
        self._on_change = on_change
        self._probe_now = asyncio.Event()
        self._monitor_task: asyncio.Task[None] | None = None
        self._restarts = Restarts(restart_rules)
        self._restart_now = asyncio.Event()
        self._has_failed = False
        self._last_error: Fault | None = None
        self._card: ModelCard | None = None
        self._servers = layer(backend, ServerGroup)
        self._health = self._new_health(BackendState.STARTING, None)

    @property
    def health(self) -> BackendHealth:
        """The current state. Cheap: contacts no engine."""
        if self._servers is not None:
            return msgspec.structs.replace(self._health, members=self._servers.members())
        return self._health

    @property
    def is_serving(self) -> bool:
        """Whether requests are accepted."""
        return self._health.state in SERVING

    @property
    def card(self) -> ModelCard | None:
        """The model's card, or None until the first start has succeeded."""
        return self._card

    async def start(self, on_step: StepListener = ignore_step) -> ModelCard:
        """Start the backend, retrying while it can't be reached, warm it up, and monitor it.

        Raises:
            BackendFailedError: it can't start. It is monitored nevertheless, and restarted after `slow_s`.
        """
        try:
            return await self._start_backend(on_step)
        finally:
            if self._has_failed or self._health.state is BackendState.READY:
                self._monitor_task = asyncio.create_task(self._monitor(), name=f"watch-{self.role}")

    def restart(self) -> bool:
        """Restart a failed engine now instead of after `slow_s`; return False if it has not failed."""
        if self._has_failed:
            self._restart_now.set()
        return self._has_failed

    def drain(self) -> None:
        """Reject new requests from now on; requests in progress continue."""
        if self._health.state is not BackendState.STOPPED:
            self._change(BackendState.DRAINING, "The service is stopping.")

    async def stop(self) -> None:
        """Stop monitoring, then stop the backend."""
        if self._monitor_task is not None:
            self._monitor_task.cancel()
            await asyncio.gather(self._monitor_task, return_exceptions=True)
            self._monitor_task = None
        try:
            self._change(BackendState.STOPPED, "The service is stopping.")
        finally:
            await self._backend.stop()

    async def probe(self) -> None:
        """Raise BackendUnavailableError unless the backend is ready."""
        self._require_ready()

    async def call(self, request: Request[ResultT], context: RequestContext) -> ResultT:
        """See the port. Raises BackendUnavailableError while not ready."""
        self._require_ready()
        try:
            return await self._backend.call(request, context)
        except (BackendUnavailableError, BackendFailedError):
            self._probe_now.set()
            raise

    @contextlib.asynccontextmanager
    async def stream(self, request: GenerationRequest, context: RequestContext) -> AsyncGenerator[Events, None]:
        """See the port. Raises BackendUnavailableError while not ready."""
        self._require_ready()
        try:
            async with self._backend.stream(request, context) as events:
                yield events
        except (BackendUnavailableError, BackendFailedError):
            self._probe_now.set()
            raise

    def _require_ready(self) -> None:
        health = self._health
        if health.state is BackendState.READY:
            return
        sentence = {
            BackendState.STARTING: "is still starting",
            BackendState.DRAINING: "is stopping",
            BackendState.STOPPED: "is stopping",
        }.get(health.state, "is not available at the moment")
        name = f"The model '{self._model}'" if self._model else f"The {self.role} backend"
        raise BackendUnavailableError(f"{name} {sentence}. Please try again later.", retry_after_s=RETRY_AFTER_S)

    async def _start_backend(self, on_step: StepListener) -> ModelCard:
        def report(step: str) -> None:
            # A step from another thread may arrive after the service began to stop.
            if self._health.state is BackendState.STARTING:
                self._change(BackendState.STARTING, step)
                on_step(step)

        delay_s = FIRST_RETRY_S
        while True:
            try:
                card = await self._backend.start(report)
                self._card = (await warm_up(self._backend, card)).card
            except (BackendUnavailableError, BackendTimeoutError) as error:
                if isinstance(error, (EngineDiedError, EngineHungError)):
                    self._give_up(error.message)
                    raise
                self._change(BackendState.STARTING, error.message)
            except Exception as error:
                self._give_up(_reason(error))
                raise
            else:
                break
            await asyncio.sleep(delay_s)
            delay_s = min(delay_s * 2, MAX_RETRY_S)
        self._model = self._card.name
        self._has_failed = False
        self._change(BackendState.READY, None)
        return self._card

    def _give_up(self, reason: str) -> None:
        self._has_failed = True
        self._change(BackendState.FAILED, reason)

    async def _monitor(self) -> None:
        """Probe periodically, and immediately after a failed request; restart a lost engine."""
        while True:
            try:
                if self._has_failed:
                    await self._restart_after(self._restarts.rules.slow_s)
                else:
                    await _wait(self._probe_now, self._probe_interval_s)
                    await self._check()
            except Exception:
                # A state listener may fail, such as a console whose pipe is closed; monitoring continues.
                log.exception("error while monitoring the %s backend", self.role)

    async def _check(self) -> None:
        """Probe once, and update the state."""
        try:
            await self._backend.probe()
            if self._health.state not in SERVING and self._card is not None:
                # It was unavailable: what answers now may be a new, cold engine.
                self._card = (await warm_up(self._backend, self._card)).card
        except (EngineDiedError, EngineHungError) as error:
            await self._recover(error)
        except (BackendUnavailableError, BackendTimeoutError) as error:
            self._change(BackendState.UNAVAILABLE, error.message)
        except Exception as error:
            self._change(BackendState.FAILED, _reason(error))
        else:
            self._change(BackendState.READY, None)

    async def _recover(self, error: InferenceError) -> None:
        """Stop a lost engine, and restart it after a delay."""
        is_dead = isinstance(error, EngineDiedError)
        self._change(BackendState.DEAD if is_dead else BackendState.HUNG, error.message)
        delay_s = self._restarts.lost(asyncio.get_running_loop().time())
        await self._stop_lost()
        if self._restarts.is_crash_loop:
            rules = self._restarts.rules
            self._give_up(
                f"The engine was lost {rules.limit} times within {rules.window_s / 60:g} minutes, so the next "
                f"start is delayed by {rules.slow_s / 60:g} minutes. Last error: {error.message}",
            )
        await self._restart_after(delay_s)

    async def _restart_after(self, delay_s: float) -> None:
        """Restart after a delay, or when `restart` is called."""
        await _wait(self._restart_now, delay_s)
        self._change(BackendState.STARTING, "restarting")
        await self._stop_lost()
        with contextlib.suppress(Exception):
            # The state reports the failure, and the next attempt follows from it.
            await self._start_backend(ignore_step)

    async def _stop_lost(self) -> None:
        with contextlib.suppress(Exception):
            # A failure to shut down cleanly must not prevent the next start.
            await self._backend.stop()

    def _change(self, state: BackendState, reason: str | None) -> None:
        before = self._health
        if before.state is BackendState.DRAINING and state is not BackendState.STOPPED:
            return
        if state in UNHEALTHY and reason:
            self._last_error = Fault(message=reason, at=_now())
        health = self._new_health(state, reason)
        if state is before.state:
            health = msgspec.structs.replace(health, since=before.since)
        if health != before:
            self._health = health
            self._on_change(self.role, health)

    def _new_health(self, state: BackendState, reason: str | None) -> BackendHealth:
        return BackendHealth(
            state=state,
            reason=reason,
            model=self._model,
            since=_now(),
            restarts=self._restarts.count,
            last_error=self._last_error,
        )


async def _wait(event: asyncio.Event, timeout_s: float) -> None:
    """Wait for an event or a timeout, then clear the event."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(timeout_s):
            await event.wait()
    event.clear()


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")


def _reason(error: Exception) -> str:
    """Message for a failure; a third-party backend may raise other errors than the port's."""
    return error.message if isinstance(error, InferenceError) else f"{type(error).__name__}: {error}"
