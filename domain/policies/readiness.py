"""Readiness: a backend takes requests only after it has answered one itself.

An engine that says it is up may still take many seconds over its first request (caches, kernels, tokenizer).
So a start ends with a warm-up request, and until then clients get a 503 that says so. Afterwards a periodic
probe notices an engine that went away, and one that came back. One that was lost, because its process ended or
hangs, is ended and started again (`restarts.py` says when), while whatever else the service does goes on.
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
LONGEST_RETRY_S = 5.0

TROUBLE = (BackendState.UNAVAILABLE, BackendState.DEAD, BackendState.HUNG, BackendState.FAILED)

StateListener = Callable[[Role, BackendHealth], None]


class ReadinessBackend:
    """Wraps a backend: starts it, warms it up, watches it, and turns requests away while it is not ready."""

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
        self._watcher: asyncio.Task[None] | None = None
        self._restarts = Restarts(restart_rules)
        self._start_now = asyncio.Event()
        self._is_given_up = False
        self._last_error: Fault | None = None
        self._card: ModelCard | None = None
        self._servers = layer(backend, ServerGroup)
        self._health = self._new_health(BackendState.STARTING, None)

    @property
    def health(self) -> BackendHealth:
        """The state now. Costs nothing and touches no engine."""
        if self._servers is not None:
            return msgspec.structs.replace(self._health, members=self._servers.members())
        return self._health

    @property
    def card(self) -> ModelCard | None:
        """The model's card, or None until the first start has succeeded."""
        return self._card

    async def start(self, on_step: StepListener = ignore_step) -> ModelCard:
        """Bring the backend up, trying again for as long as it can't be reached, warm it up, and watch it.

        Raises:
            BackendFailedError: it can't start. It is watched all the same, and tried again after a long while.
        """
        try:
            return await self._bring_up(on_step)
        finally:
            if self._is_given_up or self._health.state is BackendState.READY:
                self._watcher = asyncio.create_task(self._watch(), name=f"watch-{self.role}")

    def restart(self) -> bool:
        """Try a failed engine again now, and not only after a long while; False if it has not failed."""
        if self._is_given_up:
            self._start_now.set()
        return self._is_given_up

    def drain(self) -> None:
        """Take nothing new from now on; what is under way goes on."""
        if self._health.state is not BackendState.STOPPED:
            self._change(BackendState.DRAINING, "The service is stopping.")

    async def stop(self) -> None:
        """Stop watching, then stop the backend."""
        if self._watcher is not None:
            self._watcher.cancel()
            await asyncio.gather(self._watcher, return_exceptions=True)
            self._watcher = None
        try:
            self._change(BackendState.STOPPED, "The service is stopping.")
        finally:
            await self._backend.stop()

    async def probe(self) -> None:
        """Raise unless requests are taken now."""
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

    async def _bring_up(self, on_step: StepListener) -> ModelCard:
        def told(step: str) -> None:
            # It may have been on its way from another thread while the service was told to stop.
            if self._health.state is BackendState.STARTING:
                self._change(BackendState.STARTING, step)
                on_step(step)

        delay_s = FIRST_RETRY_S
        while True:
            try:
                card = await self._backend.start(told)
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
            delay_s = min(delay_s * 2, LONGEST_RETRY_S)
        self._model = self._card.name
        self._is_given_up = False
        self._change(BackendState.READY, None)
        return self._card

    def _give_up(self, reason: str) -> None:
        self._is_given_up = True
        self._change(BackendState.FAILED, reason)

    async def _watch(self) -> None:
        """Probe from time to time, and at once when a request met trouble; bring back what was lost."""
        while True:
            try:
                if self._is_given_up:
                    await self._come_back(self._restarts.rules.slow_s)
                else:
                    await _wait(self._probe_now, self._probe_interval_s)
                    await self._look()
            except Exception:
                # Whoever is told of changes may fail, a console whose pipe is closed for one; the watch goes on.
                log.exception("watching the %s backend met trouble", self.role)

    async def _look(self) -> None:
        """One probe, and what follows from it."""
        try:
            await self._backend.probe()
            if self._health.state not in SERVING and self._card is not None:
                # It was away: whatever answers now may be a fresh, cold engine.
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
        """End a lost engine, and start a new one when it is time."""
        is_dead = isinstance(error, EngineDiedError)
        self._change(BackendState.DEAD if is_dead else BackendState.HUNG, error.message)
        delay_s = self._restarts.lost(asyncio.get_running_loop().time())
        await self._end_lost()
        if self._restarts.is_crash_loop:
            rules = self._restarts.rules
            self._give_up(
                f"It was lost {rules.limit} times within {rules.window_s / 60:g} minutes, so the next attempt "
                f"waits for {rules.slow_s / 60:g} minutes. The last time: {error.message}",
            )
        await self._come_back(delay_s)

    async def _come_back(self, delay_s: float) -> None:
        """Start again after a while, or when told to."""
        await _wait(self._start_now, delay_s)
        self._change(BackendState.STARTING, "starting again")
        await self._end_lost()
        with contextlib.suppress(Exception):
            # What went wrong is told by the state; the next attempt follows from it.
            await self._bring_up(ignore_step)

    async def _end_lost(self) -> None:
        with contextlib.suppress(Exception):
            # Whatever keeps it from ending in good order must not keep the next one from starting.
            await self._backend.stop()

    def _change(self, state: BackendState, reason: str | None) -> None:
        before = self._health
        if before.state is BackendState.DRAINING and state is not BackendState.STOPPED:
            return
        if state in TROUBLE and reason:
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


async def _wait(event: asyncio.Event, longest_s: float) -> None:
    """Until something happens, or a while has passed."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(longest_s):
            await event.wait()
    event.clear()


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")


def _reason(error: Exception) -> str:
    """What to tell of a failure. A backend of somebody else's making may not keep to the port's errors."""
    return error.message if isinstance(error, InferenceError) else f"{type(error).__name__}: {error}"
