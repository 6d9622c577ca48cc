"""A circuit breaker: after enough failures a server is left alone for a while, then tried with one request.

A state machine without a loop, a lock or a clock of its own. The libraries for this (aiobreaker, pybreaker,
purgatory) wrap one call each, so that none can hold a stream's slot, tell a client that left from a failure, or be
looked at without being entered, which is what choosing among several servers needs.
"""

import math
from collections import deque
from collections.abc import Callable

from domain.health import BreakerState

Clock = Callable[[], float]
"""Seconds that only ever grow."""

WINDOW = 20
"""Outcomes that the share of failures is taken of."""
OPENING_SHARE = 0.5
LONGEST_COOL_DOWN = 12
"""A cool-down doubles whenever the one request fails as well, up to so many times the first one."""


class CircuitBreaker:
    """Closed: all may pass. Open: nobody. Half-open: one, whose outcome decides.

    Whoever was let in by `enter` tells its outcome once: `succeeded`, `failed` or `left`.
    """

    def __init__(self, clock: Clock, *, failures: int = 5, cool_down_s: float = 5.0) -> None:
        """Make it, closed.

        Args:
            clock: where the time comes from.
            failures: failures to answer, one after the other, that open it. Half of the last twenty outcomes
                being failures of any kind open it too.
            cool_down_s: for how long it stays open at first.
        """
        self._clock = clock
        self._failures = failures
        self._first_cool_down_s = cool_down_s
        self.openings = 0
        """How often it has opened."""
        self.reset()

    @property
    def state(self) -> BreakerState:
        """The state now: an open one that has cooled down is half-open."""
        if self._is_closed:
            return BreakerState.CLOSED
        return BreakerState.OPEN if self._clock() < self._until else BreakerState.HALF_OPEN

    @property
    def retry_after_s(self) -> int:
        """Whole seconds until it may be worth asking again, at least one."""
        return max(1, math.ceil(self._until - self._clock()))

    def reset(self) -> None:
        """Close it and forget all outcomes: what is behind it has shown that it works."""
        self._is_closed = True
        self._is_tried = False
        self._until = 0.0
        self._cool_down_s = self._first_cool_down_s
        self._streak = 0
        self._outcomes: deque[bool] = deque(maxlen=WINDOW)

    def cool_down(self) -> None:
        """Let the one request through now: there is a sign of life."""
        self._until = min(self._until, self._clock())

    def allows(self) -> bool:
        """Whether `enter` would let somebody in now."""
        return self._is_closed or (not self._is_tried and self._clock() >= self._until)

    def enter(self) -> bool:
        """Whether one more request may go; of an open breaker it takes the only place."""
        if self._is_closed:
            return True
        if not self.allows():
            return False
        self._is_tried = True
        return True

    def succeeded(self) -> None:
        """The server answered, be it with a refusal."""
        if self._is_closed:
            self._streak = 0
            self._outcomes.append(True)
        elif self._is_tried:
            self.reset()

    def abandoned(self) -> None:
        """Nobody waited for the outcome, so that it says nothing."""
        self._is_tried = False

    def failed(self, *, is_silent: bool) -> None:
        """The server failed.

        Args:
            is_silent: it can't be reached or did not answer in time, rather than failed on this request.
        """
        if not self._is_closed:
            if self._is_tried:
                self._cool_down_s = min(self._cool_down_s * 2, self._first_cool_down_s * LONGEST_COOL_DOWN)
                self._open()
            return
        self._streak = self._streak + 1 if is_silent else 0
        self._outcomes.append(False)
        most = len(self._outcomes) == WINDOW and self._outcomes.count(False) >= WINDOW * OPENING_SHARE
        if self._streak >= self._failures or most:
            self._open()

    def _open(self) -> None:
        self.openings += 1
        self._is_closed = False
        self._is_tried = False
        self._until = self._clock() + self._cool_down_s
