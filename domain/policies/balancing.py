"""Several servers of one model: each request goes to the one with the least to do.

A member that can't be reached is ejected at once, looked at again and again, and readmitted when it answers a
request of ours. A server whose place has been taken by one with another model stays out.
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
"""What a start waits for the other members when one is up."""
FIRST_LOOK_S = 0.25
LONGEST_LOOK_S = 5.0
SILENT_PROBES = 2
"""Probes in a row without an answer that eject a member: a busy server may be late once."""
SAME_MODEL_COSINE = 0.98
"""Vectors of one text by one model are nearer than this, in whatever precision each server computes."""


class BalancingBackend(ServerGroup):
    """One backend made of several, ready while at least one of them serves."""

    def __init__(self, members: Sequence[Member], *, setting: str, probe_interval_s: float = 5.0) -> None:
        """Make the policy.

        Args:
            members: at least one, each over a server of its own.
            setting: the variable that lists them, for messages.
            probe_interval_s: how often a member that serves is looked at; at once when it met trouble.
        """
        self._group = list(members)
        self._setting = setting
        self._probe_interval_s = probe_interval_s
        self._serving: list[Member] = []
        self._turn = 0
        self._model: WarmUpResult | None = None
        self._look_now = {member: asyncio.Event() for member in self._group}
        self._watchers: list[asyncio.Task[None]] = []
        self.on_return: Callable[[], None] = lambda: None
        """Called before a member that was away serves again: its engine may be a new one."""
        for member in self._group:
            member.on_trouble = self._trouble_of(member)

    def has_free(self) -> bool:
        """Whether a member would take a request that has not just said it is busy."""
        return any(member.breaker.allows() and not member.is_backing_off for member in self._serving)

    async def start(self, on_step: StepListener = ignore_step) -> ModelCard:
        """See the port. Members that are not up yet are waited for a moment, and admitted when they come.

        Raises:
            BackendUnavailableError: none of them can be reached yet.
            BackendFailedError: they serve different models, or none of them can serve.
        """
        await self._end_watches()
        self._serving.clear()
        met = await self._connect_available()
        first, model = next(iter(met.items()))
        for member, other in met.items():
            if member is not first and (difference := _difference(model, other)):
                raise BackendFailedError(
                    f"{self._setting} lists servers of different models: {self._name(first)} serves "
                    f"'{model.card.name}', and {self._name(member)} {difference}. All have to serve one model."
                )
        self._model = model
        for member in met:
            self._admit(member)
        self._watchers = [
            asyncio.create_task(self._watch(member), name=f"watch-{member.address}") for member in self._group
        ]
        tells = all(other.card.reports_tokens_per_input for other in met.values())
        return msgspec.structs.replace(model.card, reports_tokens_per_input=tells)

    async def stop(self) -> None:
        """See the port."""
        await self._end_watches()
        self._serving.clear()
        for member in self._group:
            member.state = BackendState.STOPPED
        await asyncio.gather(*(member.stop() for member in self._group))

    async def probe(self) -> None:
        """See the port: raises if no member serves. They are looked at all the time anyway."""
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
        """The member with the least to do; those that rest only if all do; in turn among equals."""
        serving = self._serving
        best: Member | None = None
        least = (True, math.inf)
        for offset in range(len(serving)):
            member = serving[(self._turn + offset) % len(serving)]
            if member.breaker.allows():
                load = (member.is_backing_off, member.outstanding)
                if best is None or load < least:
                    best, least = member, load
        if best is None:
            raise self._no_server_error()
        self._turn = (serving.index(best) + 1) % len(serving)
        return best

    def _no_server_error(self) -> BackendUnavailableError:
        if not self._group or not self._serving:
            # No connection is made for this, and one of them may be back in a moment.
            return BackendUnreachableError("None of the model's servers can be reached.", retry_after_s=1)
        return BackendUnavailableError(
            "All of the model's servers have failed too often and are left alone for a moment. Please try again "
            "later.",
            retry_after_s=min(member.breaker.retry_after_s for member in self._serving),
        )

    def _trouble_of(self, member: Member) -> Callable[[InferenceError], None]:
        def heard(error: InferenceError) -> None:
            if member not in self._serving:
                return
            if isinstance(error, BackendUnreachableError):
                self._eject(member, error.message)
            self._look_now[member].set()

        return heard

    async def _connect_available(self) -> dict[Member, WarmUpResult]:
        """Those that answer, in the order of the setting: all that do soon after the first."""
        meetings = {member: asyncio.create_task(self._meet(member)) for member in self._group}
        pending: set[asyncio.Task[WarmUpResult]] = set(meetings.values())
        try:
            while pending and all(_failure(task) is not None for task in set(meetings.values()) - pending):
                _, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
            if pending:
                await asyncio.wait(pending, timeout=GRACE_S)
        finally:
            for task in meetings.values():
                task.cancel()
            await asyncio.gather(*meetings.values(), return_exceptions=True)
        met = {member: task.result() for member, task in meetings.items() if _failure(task) is None}
        if met:
            return met
        failures = [failure for task in meetings.values() if (failure := _failure(task)) is not None]
        told = " ".join(
            f"{self._name(member).capitalize()}: {_reason(failure)}"
            for member, failure in zip(meetings, failures, strict=True)
        )
        if all(isinstance(failure, BackendUnavailableError | BackendTimeoutError) for failure in failures):
            raise BackendUnavailableError(f"None of the servers in {self._setting} serves yet. {told}")
        raise BackendFailedError(f"None of the servers in {self._setting} can serve. {told}")

    async def _meet(self, member: Member) -> WarmUpResult:
        """Start a member and put a request through it."""
        try:
            card = await member.start()
            member.breaker.reset()
            return await warm_up(member, card)
        except Exception as error:
            member.last_error = _reason(error)
            if member.state is BackendState.FAILED:
                member.state = BackendState.UNAVAILABLE
            raise

    async def _watch(self, member: Member) -> None:
        delay_s = FIRST_LOOK_S
        silent_probes = 0
        while True:
            serves = member in self._serving
            wait_s = self._probe_interval_s if serves and silent_probes == 0 else delay_s
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(wait_s):
                    await self._look_now[member].wait()
            self._look_now[member].clear()
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
            delay_s = FIRST_LOOK_S if member in self._serving else min(delay_s * 2, LONGEST_LOOK_S)

    async def _readmit(self, member: Member) -> None:
        """Let a member serve (again), if it serves the model that the others do."""
        await member.probe()
        found = await self._meet(member)
        model = self._model
        difference = _difference(model, found) if model is not None else None
        # If none serves, all may have been replaced by a newer version of the model, under the name it had.
        if model is not None and difference and (self._serving or found.card.name != model.card.name):
            member.state = BackendState.FAILED
            raise BackendFailedError(
                f"{self._name(member).capitalize()} in {self._setting} {difference}. It gets no requests until it "
                f"serves '{model.card.name}' as the others do."
            )
        if not self._serving:
            self._model = found
        if member.ejections:
            self.on_return()
        self._admit(member)

    def _admit(self, member: Member) -> None:
        if member.state is not BackendState.STARTING:
            log.warning("server %s serves again", member.address)
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

    async def _end_watches(self) -> None:
        for watcher in self._watchers:
            watcher.cancel()
        await asyncio.gather(*self._watchers, return_exceptions=True)
        self._watchers = []


def _failure(task: asyncio.Task[WarmUpResult]) -> BaseException | None:
    """Why a meeting has not led to anything (yet)."""
    return asyncio.CancelledError() if task.cancelled() else task.exception()


def _difference(model: WarmUpResult, other: WarmUpResult) -> str | None:
    """In what the model that a server has is another one; None if nothing shows that it is."""
    mine, others = model.card, other.card
    if mine.name != others.name:
        return f"serves '{others.name}'"
    if mine.max_model_len != others.max_model_len:
        return f"serves it with a context of {others.max_model_len} tokens instead of {mine.max_model_len}"
    if len(model.vector) != len(other.vector):
        return f"makes vectors of {others.dimensions} dimensions instead of {mine.dimensions}"
    pairs = zip(array.array("f", model.vector), array.array("f", other.vector), strict=True)
    if model.vector and sum(a * b for a, b in pairs) < SAME_MODEL_COSINE:
        return "makes other vectors of the same text: its model goes by the same name and is another one"
    return None


def _reason(error: BaseException) -> str:
    return error.message if isinstance(error, InferenceError) else f"{type(error).__name__}: {error}"
