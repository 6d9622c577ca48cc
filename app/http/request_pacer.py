"""Paces requests that are ready at the same moment: when they arrive, and when their bodies are complete.

Five hundred that become readable together would all start before the event loop looks at anything else. For a
fifth of a second nothing would be answered, health probes included. So a few start in each iteration of the loop
and the others in the next ones, in order of arrival.
"""

import asyncio
from collections import deque
from collections.abc import Callable
from functools import partial

PACER = "request_pacer"
"""Where the state of a request's scope keeps its pacer, if the server has set one."""
PER_ITERATION = 8
"""Requests that continue in one iteration; each takes some 0.5 ms until it waits for its engine."""


class RequestPacer:
    """One for each event loop."""

    def __init__(self, loop: asyncio.AbstractEventLoop, *, per_iteration: int = PER_ITERATION) -> None:
        self._loop = loop
        self._per_iteration = per_iteration
        self._started = 0
        self._waiting: deque[Callable[[], None]] = deque()

    def start(self, callback: Callable[[], None]) -> None:
        """Call it now, or in one of the next iterations of the loop."""
        if self._started >= self._per_iteration:
            self._waiting.append(callback)
            return
        if not self._started:
            self._loop.call_soon(self._next_iteration)
        self._started += 1
        callback()

    async def wait_turn(self) -> None:
        """Return now, or in one of the next iterations of the loop."""
        if self._started < self._per_iteration:
            self.start(_do_nothing)
            return
        turn = self._loop.create_future()
        self.start(partial(_resolve, turn))
        await turn

    def _next_iteration(self) -> None:
        self._started = min(self._per_iteration, len(self._waiting))
        for _ in range(self._started):
            # Scheduled one by one, so that an exception in one does not affect the others.
            self._loop.call_soon(self._waiting.popleft())
        if self._started:
            self._loop.call_soon(self._next_iteration)


def _do_nothing() -> None:
    pass


def _resolve(turn: asyncio.Future[None]) -> None:
    if not turn.done():
        # The waiter may have been cancelled.
        turn.set_result(None)
