"""Load balancing: sends each request to the least loaded of several servers of one model.

A member that can't be reached is ejected immediately, probed repeatedly, and readmitted when it answers a warm-up
request. A server that comes back with a different model is not readmitted.
"""

import array
import asyncio
import contextlib
import logging
import math
from collections.abc import AsyncGenerator, Callable, Sequence

import msgspec

from domain.errors import (
    BackendFailedError,
    BackendTimeoutError,
    BackendUnavailableError,
    BackendUnreachableError,
    InferenceError,
)
from domain.health import BackendState
from domain.policies.member import Member, ServerGroup
from domain.policies.warm_up import WarmUpResult, warm_up
from domain.port import Events, ModelCard, RequestContext, StepListener, ignore_step
from domain.requests import GenerationRequest, Request, ResultT

log = logging.getLogger("memoria")

GRACE_S = 2.0
"""How long a start waits for the other members once one is up."""
FIRST_RETRY_S = 0.25
MAX_RETRY_S = 5.0
SILENT_PROBES = 2
"""Consecutive probes without an answer that eject a member: a busy server may time out once."""
SAME_MODEL_COSINE = 0.98
"""Least cosine similarity of one text's vectors from two servers of one model, in any precision."""


class BalancingBackend(ServerGroup):
    """Combines several backends into one, which is ready while at least one of them serves."""

    def __init__(self, members: Sequence[Member], *, setting: str, probe_interval_s: float = 5.0) -> None:
        """Make the policy.

        Args:
            members: at least one, each for a different server.
            setting: the variable that lists them, for messages.
            probe_interval_s: how often a serving member is probed; it is also probed right after a failure.
        """
        self._group = list(members)
        self._setting = setting
        self._probe_interval_s = probe_interval_s
        self._serving: list[Member] = []
        self._next = 0
        self._model: WarmUpResult | None = None
        self._probe_now = {member: asyncio.Event() for member in self._group}
        self._monitors: list[asyncio.Task[None]] = []
        self.on_readmit: Callable[[], None] = lambda: None
        """Called before an ejected member serves again: its engine may be a new one."""
        for member in self._group:
            member.on_failure = self._failure_handler(member)

    def has_free(self) -> bool:
        """Whether any member accepts requests and is not backing off."""
        return any(member.breaker.allows() and not member.is_backing_off for member in self._serving)

    async def start(self, on_step: StepListener = ignore_step) -> ModelCard:
        """See the port. Waits briefly for members that are not up yet, and admits the rest when they come up.

        Raises:
            BackendUnavailableError: none of them can be reached yet.
            BackendFailedError: they serve different models, or none of them can serve.
        """
        await self._stop_monitors()
        self._serving.clear()
        connected = await self._connect_available()
        first, model = next(iter(connected.items()))
        for member, other in connected.items():
            if member is not first and (difference := _difference(model, other)):
                raise BackendFailedError(
                    f"{self._setting} lists servers of different models: {self._name(first)} serves "
                    f"'{model.card.name}', and {self._name(member)} {difference}. All must serve the same model."
                )
        self._model = model
        for member in connected:
            self._admit(member)
        self._monitors = [
            asyncio.create_task(self._monitor(member), name=f"watch-{member.address}") for member in self._group
        ]
        all_report = all(other.card.reports_tokens_per_input for other in connected.values())
        return msgspec.structs.replace(model.card, reports_tokens_per_input=all_report)

    async def stop(self) -> None:
        """See the port."""
        await self._stop_monitors()
        self._serving.clear()
        for member in self._group:
            member.state = BackendState.STOPPED
        await asyncio.gather(*(member.stop() for member in self._group))

    async def probe(self) -> None:
        """See the port: raises if no member serves. Sends nothing; the monitors probe each member."""
        if not self._serving:
            raise self._no_server_error()

    async def call(self, request: Request[ResultT], context: RequestContext) -> ResultT:
        """See the port."""
        return await self._pick().call(request, context)

    @contextlib.asynccontextmanager
    async def stream(self, request: GenerationRequest, context: RequestContext) -> AsyncGenerator[Events, None]:
        """See the port."""
        async with self._pick().stream(request, context) as events:
            yield events

    def _pick(self) -> Member:
        """The least loaded member; members that back off only if all do; round-robin among equals."""
        serving = self._serving
        best: Member | None = None
        least = (True, math.inf)
        for offset in range(len(serving)):
            member = serving[(self._next + offset) % len(serving)]
            if member.breaker.allows():
                load = (member.is_backing_off, member.outstanding)
                if best is None or load < least:
                    best, least = member, load
        if best is None:
            raise self._no_server_error()
        self._next = (serving.index(best) + 1) % len(serving)
        return best

    def _no_server_error(self) -> BackendUnavailableError:
        if not self._group or not self._serving:
            # As if no connection could be made, so that it is retried: a member may be back in a moment.
            return BackendUnreachableError("None of the model's servers can be reached.", retry_after_s=1)
        return BackendUnavailableError(
            "All of the model's servers have failed too often and are temporarily out of rotation. Please try "
            "again later.",
            retry_after_s=min(member.breaker.retry_after_s for member in self._serving),
        )

    def _failure_handler(self, member: Member) -> Callable[[InferenceError], None]:
        def handle(error: InferenceError) -> None:
            if member not in self._serving:
                return
            if isinstance(error, BackendUnreachableError):
                self._eject(member, error.message)
            self._probe_now[member].set()

        return handle

    async def _connect_available(self) -> dict[Member, WarmUpResult]:
        """Members that answer within GRACE_S after the first one, in the order of the setting."""
        connections = {member: asyncio.create_task(self._connect(member)) for member in self._group}
        pending: set[asyncio.Task[WarmUpResult]] = set(connections.values())
        try:
            while pending and all(_failure(task) is not None for task in set(connections.values()) - pending):
                _, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
            if pending:
                await asyncio.wait(pending, timeout=GRACE_S)
        finally:
            for task in connections.values():
                task.cancel()
            await asyncio.gather(*connections.values(), return_exceptions=True)
        connected = {member: task.result() for member, task in connections.items() if _failure(task) is None}
        if connected:
            return connected
        failures = [failure for task in connections.values() if (failure := _failure(task)) is not None]
        reasons = " ".join(
            f"{self._name(member).capitalize()}: {_reason(failure)}"
            for member, failure in zip(connections, failures, strict=True)
        )
        if all(isinstance(failure, BackendUnavailableError | BackendTimeoutError) for failure in failures):
            raise BackendUnavailableError(f"None of the servers in {self._setting} serves yet. {reasons}")
        raise BackendFailedError(f"None of the servers in {self._setting} can serve. {reasons}")

    async def _connect(self, member: Member) -> WarmUpResult:
        """Start a member and send it a warm-up request."""
        try:
            card = await member.start()
            member.breaker.reset()
            return await warm_up(member, card)
        except Exception as error:
            member.last_error = _reason(error)
            if member.state is BackendState.FAILED:
                member.state = BackendState.UNAVAILABLE
            raise

    async def _monitor(self, member: Member) -> None:
        delay_s = FIRST_RETRY_S
        silent_probes = 0
        while True:
            serves = member in self._serving
            wait_s = self._probe_interval_s if serves and silent_probes == 0 else delay_s
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(wait_s):
                    await self._probe_now[member].wait()
            self._probe_now[member].clear()
            try:
                if member in self._serving:
                    await member.probe()
                else:
                    await self._readmit(member)
            except BackendTimeoutError as error:
                silent_probes += 1
                if silent_probes >= SILENT_PROBES:
                    self._eject(member, error.message)
            except Exception as error:
                self._eject(member, _reason(error))
            else:
                silent_probes = 0
            delay_s = FIRST_RETRY_S if member in self._serving else min(delay_s * 2, MAX_RETRY_S)

    async def _readmit(self, member: Member) -> None:
        """Put a member (back) into rotation if it serves the same model as the others."""
        await member.probe()
        found = await self._connect(member)
        model = self._model
        difference = _difference(model, found) if model is not None else None
        # If none serves, all may have been replaced by a newer version of the model under the same name.
        if model is not None and difference and (self._serving or found.card.name != model.card.name):
            member.state = BackendState.FAILED
            raise BackendFailedError(
                f"{self._name(member).capitalize()} in {self._setting} {difference}. It gets no requests until it "
                f"serves '{model.card.name}' as the others do."
            )
        if not self._serving:
            self._model = found
        if member.ejections:
            self.on_readmit()
        self._admit(member)

    def _admit(self, member: Member) -> None:
        if member.state is not BackendState.STARTING:
            log.warning("server %s is back in rotation", member.address)
        member.state = BackendState.READY
        self._serving.append(member)

    def _eject(self, member: Member, reason: str) -> None:
        if member in self._serving:
            log.warning("server %s is ejected: %s", member.address, reason)
            self._serving.remove(member)
            member.eject(reason)
        else:
            member.last_error = reason

    def _name(self, member: Member) -> str:
        return f"number {self._group.index(member) + 1} ({member.address})"

    async def _stop_monitors(self) -> None:
        for monitor in self._monitors:
            monitor.cancel()
        await asyncio.gather(*self._monitors, return_exceptions=True)
        self._monitors = []


def _failure(task: asyncio.Task[WarmUpResult]) -> BaseException | None:
    """Why a finished connection attempt failed; None if it succeeded."""
    return asyncio.CancelledError() if task.cancelled() else task.exception()


def _difference(model: WarmUpResult, other: WarmUpResult) -> str | None:
    """How the model of one server differs from another's; None if no difference shows."""
    mine, others = model.card, other.card
    if mine.name != others.name:
        return f"serves '{others.name}'"
    if mine.max_model_len != others.max_model_len:
        return f"serves it with a context of {others.max_model_len} tokens instead of {mine.max_model_len}"
    if len(model.vector) != len(other.vector):
        return f"returns vectors of {others.dimensions} dimensions instead of {mine.dimensions}"
    pairs = zip(array.array("f", model.vector), array.array("f", other.vector), strict=True)
    if model.vector and sum(a * b for a, b in pairs) < SAME_MODEL_COSINE:
        return "returns other vectors for the same text: it serves a different model under the same name"
    return None


def _reason(error: BaseException) -> str:
    return error.message if isinstance(error, InferenceError) else f"{type(error).__name__}: {error}"
