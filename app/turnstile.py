"""A turnstile for requests that arrive at the same moment.

Five hundred that become readable together would all begin before the loop looks at anything else: a fifth of a
second in which nobody is answered, load balancers that ask how the service is among them. So some begin in each
turn of the loop, and the others in the next ones, in the order of their arrival.
"""

import asyncio
from collections import deque
from collections.abc import Callable

PER_TURN = 16
"""Requests that begin in one turn; each takes some 0.3 ms until it waits for its engine."""


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

    def _turn(self) -> None:
        self._begun = min(self._per_turn, len(self._waiting))
        for _ in range(self._begun):
            # Each by itself: what one of them raises is nothing to the others.
            self._loop.call_soon(self._waiting.popleft())
        if self._begun:
            self._loop.call_soon(self._turn)
