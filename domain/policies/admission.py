"""Admission: how much a role works on at a time, and how much may wait; past that a client hears no at once.

A queue without a bound grows until everybody in it has given up by the time of their turn. Each role has bounds
of its own, in requests and in tokens, so that a flood for one model leaves the other's clients alone. Who waits
is let in by order of arrival.
"""

import asyncio
import contextlib
import math
import time
from collections import deque
from collections.abc import AsyncGenerator

from domain.errors import OverloadedError
from domain.load import Bounds, Load
from domain.observation import Phase
from domain.policies.wrapper import BackendWrapper
from domain.port import Events, InferenceBackend, RequestContext
from domain.requests import GenerationRequest, Request, ResultT

LONGEST_RETRY_AFTER_S = 60
LEARNING = 0.1
"""Weight of the newest request in the running mean of how long one takes."""


class AdmissionBackend(BackendWrapper):
    """Lets requests through up to the bounds, keeps some waiting, and refuses the rest."""

    def __init__(self, backend: InferenceBackend, bounds: Bounds) -> None:
        super().__init__(backend)
        self._bounds = bounds
        self._running = self._running_tokens = self._waiting_tokens = 0
        self._queue: deque[_Place] = deque()
        self._mean_s = 0.0

    @property
    def load(self) -> Load:
        """What there is to do now."""
        return Load(
            running=self._running,
            waiting=len(self._queue),
            running_tokens=self._running_tokens,
            waiting_tokens=self._waiting_tokens,
            bounds=self._bounds,
        )

    async def call(self, request: Request[ResultT], context: RequestContext) -> ResultT:
        """See the port. Raises OverloadedError if too much waits already."""
        if not request.needs_inference:
            return await self._backend.call(request, context)
        tokens = request.estimated_tokens
        await self._enter(tokens, context)
        began = time.monotonic()
        try:
            return await self._backend.call(request, context)
        finally:
            self._leave(tokens, began)

    @contextlib.asynccontextmanager
    async def stream(self, request: GenerationRequest, context: RequestContext) -> AsyncGenerator[Events, None]:
        """See the port. Raises OverloadedError if too much waits already."""
        tokens = request.estimated_tokens
        await self._enter(tokens, context)
        began = time.monotonic()
        try:
            async with self._backend.stream(request, context) as events:
                yield events
        finally:
            self._leave(tokens, began)

    async def _enter(self, tokens: int, context: RequestContext) -> None:
        if not self._queue and self._has_room(tokens):
            self._take(tokens)
            return
        bounds = self._bounds
        if (
            len(self._queue) >= bounds.max_waiting
            # A request larger than the bound may still wait alone, or it could never be served.
            or (self._queue and self._waiting_tokens + tokens > bounds.max_waiting_tokens)
        ):
            raise OverloadedError(
                f"Too many requests are waiting for this model ({len(self._queue)} requests of some "
                f"{self._waiting_tokens} tokens). Please try again later.",
                retry_after_s=self._retry_after_s(),
            )
        place = _Place(tokens)
        self._queue.append(place)
        self._waiting_tokens += tokens
        began = time.monotonic()
        try:
            await place.turn
        except asyncio.CancelledError:
            if place.is_waiting:
                self._queue.remove(place)
                self._waiting_tokens -= tokens
                self._let_in()
            elif not place.turn.cancelled():
                # Its turn had come at the same moment.
                self._give_back(tokens)
            raise
        finally:
            if context.observer is not None:
                context.observer.waited(Phase.QUEUE, began, time.monotonic())

    def _leave(self, tokens: int, began: float) -> None:
        took = time.monotonic() - began
        self._mean_s = took if self._mean_s == 0.0 else self._mean_s + LEARNING * (took - self._mean_s)
        self._give_back(tokens)

    def _give_back(self, tokens: int) -> None:
        self._running -= 1
        self._running_tokens -= tokens
        self._let_in()

    def _let_in(self) -> None:
        while self._queue and (self._queue[0].turn.cancelled() or self._has_room(self._queue[0].tokens)):
            place = self._queue.popleft()
            place.is_waiting = False
            self._waiting_tokens -= place.tokens
            # One that has just been cancelled has not yet had the time to leave.
            if not place.turn.cancelled():
                self._take(place.tokens)
                place.turn.set_result(None)

    def _take(self, tokens: int) -> None:
        self._running += 1
        self._running_tokens += tokens

    def _has_room(self, tokens: int) -> bool:
        # What is larger than the bound by itself is let in when nothing else runs.
        return not self._running or (
            self._running < self._bounds.max_running
            and self._running_tokens + tokens <= self._bounds.max_running_tokens
        )

    def _retry_after_s(self) -> int:
        """When the queue will have moved on by as much as it holds now."""
        wait_s = self._mean_s * (len(self._queue) + 1) / max(1, self._running)
        return min(LONGEST_RETRY_AFTER_S, max(1, math.ceil(wait_s)))


class _Place:
    """One in the queue."""

    def __init__(self, tokens: int) -> None:
        self.tokens = tokens
        self.is_waiting = True
        self.turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
