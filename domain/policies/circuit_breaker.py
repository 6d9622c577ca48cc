"""Circuit breaker: takes a server out of rotation after repeated failures, then tries it with one request.

A state machine without an event loop, a lock or a clock of its own. The libraries for this (aiobreaker, pybreaker,
purgatory) each wrap a single call, so that none can hold the half-open slot during a stream, distinguish a
client's disconnect from a failure, or be inspected without being entered, which load balancing needs.
"""

import math
from collections import deque
from collections.abc import Callable

from domain.health import BreakerState

Clock = Callable[[], float]
"""Returns monotonic seconds."""

WINDOW = 20
"""Number of latest outcomes that the failure rate is computed from."""
OPENING_SHARE = 0.5
MAX_COOL_DOWN_FACTOR = 12
"""The cool-down doubles each time the trial request fails, up to this multiple of the first one."""


class CircuitBreaker:
    """Closed: all requests pass. Open: none pass. Half-open: one trial request passes, and its outcome decides.

    A request that `enter` let through reports its outcome once: `succeeded`, `failed` or `abandoned`.
    """

    def __init__(self, clock: Clock, *, failures: int = 5, cool_down_s: float = 5.0) -> None:
        """Create a closed breaker.

        Args:
            clock: source of the time.
            failures: consecutive requests without an answer that open it. It also opens when half of the last
                twenty outcomes are failures of any kind.
            cool_down_s: how long it stays open at first.
        """
        self._clock = clock
        self._failures = failures
        self._first_cool_down_s = cool_down_s
        self.openings = 0
        """How often it has opened."""
        self.reset()

    @property
    def state(self) -> BreakerState:
        """The current state: half-open after the cool-down of an open breaker."""
        if self._is_closed:
            return BreakerState.CLOSED
        return BreakerState.OPEN if self._clock() < self._until else BreakerState.HALF_OPEN

    @property
    def retry_after_s(self) -> int:
        """Whole seconds until a retry makes sense, at least one."""
        return max(1, math.ceil(self._until - self._clock()))

    def reset(self) -> None:
        """Close the breaker and discard all outcomes, because the server has shown that it works."""
        self._is_closed = True
        self._has_trial = False
        self._until = 0.0
        self._cool_down_s = self._first_cool_down_s
        self._streak = 0
        self._outcomes: deque[bool] = deque(maxlen=WINDOW)

    def cool_down(self) -> None:
        """End the cool-down now, because the server has answered a probe."""
        self._until = min(self._until, self._clock())

    def allows(self) -> bool:
        """Whether `enter` would let a request through now."""
        return self._is_closed or (not self._has_trial and self._clock() >= self._until)

    def enter(self) -> bool:
        """Whether one more request may pass; takes the trial slot of a half-open breaker."""
        if self._is_closed:
            return True
        if not self.allows():
            return False
        self._has_trial = True
        return True

    def succeeded(self) -> None:
        """Record that the server answered, even with a rejection."""
        if self._is_closed:
            self._streak = 0
            self._outcomes.append(True)
        elif self._has_trial:
            self.reset()

    def abandoned(self) -> None:
        """Record a request that ended without a conclusive outcome."""
        self._has_trial = False

    def failed(self, *, is_silent: bool) -> None:
        """Record a failure of the server.

        Args:
            is_silent: whether it was unreachable or timed out, rather than failed on this request.
        """
        if not self._is_closed:
            if self._has_trial:
                self._cool_down_s = min(self._cool_down_s * 2, self._first_cool_down_s * MAX_COOL_DOWN_FACTOR)
                self._open()
            return
        self._streak = self._streak + 1 if is_silent else 0
        self._outcomes.append(False)
        fails_often = len(self._outcomes) == WINDOW and self._outcomes.count(False) >= WINDOW * OPENING_SHARE
        if self._streak >= self._failures or fails_often:
            self._open()

    def _open(self) -> None:
        self.openings += 1
        self._is_closed = False
        self._has_trial = False
        self._until = self._clock() + self._cool_down_s
