"""A turnstile for requests that go on at the same moment: at their arrival, and when their bodies have come.

Five hundred that become readable together would all begin before the loop looks at anything else: a fifth of a
second in which nobody is answered, load balancers that ask how the service is among them. So some begin in each
turn of the loop, and the others in the next ones, in the order of their arrival.
"""

import asyncio
from collections import deque
from collections.abc import Callable
from functools import partial

TURNSTILE = "turnstile"
"""Where the state of a request's scope has its own, if the server has put one there."""
PER_TURN = 8
"""Requests that go on in one turn; each takes some 0.5 ms until it waits for its engine."""


class Turnstile:
    """One for each event loop."""

    def __init__(self, loop: asyncio.AbstractEventLoop, *, per_turn: int = PER_TURN) -> None:
        self._loop = loop
        self._per_turn = per_turn
        self._begun = 0
        self._waiting: deque[Callable[[], None]] = deque()

    def enter(self, begin: Callable[[], None]) -> None:
        """Begin now, or in one of the next turns of the loop."""
        if self._begun >= self._per_turn:
            self._waiting.append(begin)
            return
        if not self._begun:
            self._loop.call_soon(self._turn)
        self._begun += 1
        begin()

    async def passed(self) -> None:
        """Go on now, or in one of the next turns of the loop."""
        if self._begun < self._per_turn:
            self.enter(_nothing)
            return
        free = self._loop.create_future()
        self.enter(partial(_free, free))
        await free

    def _turn(self) -> None:
        self._begun = min(self._per_turn, len(self._waiting))
        for _ in range(self._begun):
            # Each by itself: what one of them raises is nothing to the others.
            self._loop.call_soon(self._waiting.popleft())
        if self._begun:
            self._loop.call_soon(self._turn)


def _nothing() -> None:
    pass


def _free(waiting: asyncio.Future[None]) -> None:
    if not waiting.done():
        # Whoever waited may have given up.
        waiting.set_result(None)
