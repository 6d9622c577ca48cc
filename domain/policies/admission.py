"""Admission control: limits running and waiting requests per role and rejects excess requests immediately.

An unbounded queue grows until its requests time out before they run. Each role has its own bounds, in requests
and in tokens, so that a burst for one model does not affect clients of the other. The queue is first in, first
out.
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

MAX_RETRY_AFTER_S = 60
SMOOTHING = 0.1
"""Weight of the newest request in the moving average of request durations."""


class AdmissionBackend(BackendWrapper):
    """Runs requests up to the bounds, queues further ones up to a limit, and rejects the rest."""

    def __init__(self, backend: InferenceBackend, bounds: Bounds) -> None:
        super().__init__(backend)
        self._bounds = bounds
        self._running = self._running_tokens = self._waiting_tokens = 0
        self._queue: deque[_Waiter] = deque()
        self._mean_s = 0.0

    @property
    def load(self) -> Load:
        """Running and waiting work now."""
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
            self._acquire(tokens)
            return
        bounds = self._bounds
        if (
            len(self._queue) >= bounds.max_waiting
            # A request larger than the bound may wait if the queue is empty; otherwise it could never be served.
            or (self._queue and self._waiting_tokens + tokens > bounds.max_waiting_tokens)
        ):
            raise OverloadedError(
                f"Too many requests are waiting for this model ({len(self._queue)} requests, about "
                f"{self._waiting_tokens} tokens). Please try again later.",
                retry_after_s=self._retry_after_s(),
            )
        waiter = _Waiter(tokens)
        self._queue.append(waiter)
        self._waiting_tokens += tokens
        began = time.monotonic()
        try:
            await waiter.admitted
        except asyncio.CancelledError:
            if waiter.is_waiting:
                self._queue.remove(waiter)
                self._waiting_tokens -= tokens
                self._admit_waiters()
            elif not waiter.admitted.cancelled():
                # It was admitted just before the cancellation.
                self._release(tokens)
            raise
        finally:
            if context.observer is not None:
                context.observer.waited(Phase.QUEUE, began, time.monotonic())

    def _leave(self, tokens: int, began: float) -> None:
        took = time.monotonic() - began
        self._mean_s = took if self._mean_s == 0.0 else self._mean_s + SMOOTHING * (took - self._mean_s)
        self._release(tokens)

    def _release(self, tokens: int) -> None:
        self._running -= 1
        self._running_tokens -= tokens
        self._admit_waiters()

    def _admit_waiters(self) -> None:
        while self._queue and (self._queue[0].admitted.cancelled() or self._has_room(self._queue[0].tokens)):
            waiter = self._queue.popleft()
            waiter.is_waiting = False
            self._waiting_tokens -= waiter.tokens
            # A waiter that was just cancelled may still be in the queue.
            if not waiter.admitted.cancelled():
                self._acquire(waiter.tokens)
                waiter.admitted.set_result(None)

    def _acquire(self, tokens: int) -> None:
        self._running += 1
        self._running_tokens += tokens

    def _has_room(self, tokens: int) -> bool:
        # A request that exceeds the bound by itself is admitted when nothing else runs.
        return not self._running or (
            self._running < self._bounds.max_running
            and self._running_tokens + tokens <= self._bounds.max_running_tokens
        )

    def _retry_after_s(self) -> int:
        """Estimated seconds until the requests that wait now have been admitted."""
        wait_s = self._mean_s * (len(self._queue) + 1) / max(1, self._running)
        return min(MAX_RETRY_AFTER_S, max(1, math.ceil(wait_s)))


class _Waiter:
    """A request in the queue."""

    def __init__(self, tokens: int) -> None:
        self.tokens = tokens
        self.is_waiting = True
        self.admitted: asyncio.Future[None] = asyncio.get_running_loop().create_future()
