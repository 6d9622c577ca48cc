"""Restart backoff: restarts a lost engine soon at first, then later, and rarely if it keeps crashing."""

from collections import deque

import msgspec


class RestartRules(msgspec.Struct, frozen=True, kw_only=True):
    """Limits and delays of restarts."""

    limit: int = 5
    """Losses within `window_s` that count as a crash loop."""
    window_s: float = 600.0
    first_delay_s: float = 0.5
    longest_delay_s: float = 30.0
    slow_s: float = 300.0
    """Delay before the next start in a crash loop, or after a failed start."""


DEFAULT_RULES = RestartRules()


class Restarts:
    """Counts losses, and computes the delay after each."""

    def __init__(self, rules: RestartRules) -> None:
        self.rules = rules
        self.count = 0
        """Restarts so far."""
        self._losses: deque[float] = deque()

    @property
    def is_crash_loop(self) -> bool:
        """Whether the engine was lost too often recently."""
        return len(self._losses) >= self.rules.limit

    def lost(self, now: float) -> float:
        """Count a loss.

        Args:
            now: seconds of any monotonic clock.

        Returns:
            Seconds to wait before the next start.
        """
        self._losses.append(now)
        while self._losses[0] <= now - self.rules.window_s:
            self._losses.popleft()
        self.count += 1
        if self.is_crash_loop:
            return self.rules.slow_s
        delay_s: float = self.rules.first_delay_s * 2.0 ** (len(self._losses) - 1)
        return min(delay_s, self.rules.longest_delay_s)
