"""Rate limit: a token bucket that limits what one API key may use per minute.

A bucket holds one minute's quota and refills continuously, so that a key may use its quota in one burst or evenly,
and never more than twice the quota in any minute. The cost of a request is known only when it ends: a request
takes an estimate first, and the difference is given back or taken afterwards.
"""

import math
from collections.abc import Callable

Clock = Callable[[], float]
"""Returns monotonic seconds, such as `time.monotonic`."""


class Bucket:
    """Remaining quota. It may become negative if a request costs more than its estimate."""

    def __init__(self, per_minute: int, *, shares: int = 1, clock: Clock) -> None:
        """Create a full bucket.

        Args:
            per_minute: quota per minute, at least 1.
            shares: number of buckets that share the quota evenly; each holds at least 1.
            clock: source of the time.
        """
        self.capacity = max(1, per_minute // shares)
        self._per_second = per_minute / shares / 60
        self._clock = clock
        self._level = float(self.capacity)
        self._at = clock()

    @property
    def remaining(self) -> int:
        """Amount that can be taken now."""
        self._refill()
        return max(0, math.floor(self._level))

    @property
    def reset_s(self) -> float:
        """Seconds until the bucket is full again, if nothing is taken."""
        self._refill()
        return (self.capacity - self._level) / self._per_second

    def take(self, amount: int) -> float:
        """Take an amount and return 0.0, or take nothing and return the seconds until it is available.

        Returns infinity for an amount above the capacity.
        """
        if amount > self.capacity:
            return math.inf
        self._refill()
        missing = amount - self._level
        if missing > 0:
            return missing / self._per_second
        self._level -= amount
        return 0.0

    def give(self, amount: int) -> None:
        """Give back an unused amount; a negative amount takes more, even below zero."""
        self._refill()
        self._level = min(self._level + amount, float(self.capacity))

    def _refill(self) -> None:
        now = self._clock()
        self._level = min(self._level + (now - self._at) * self._per_second, float(self.capacity))
        self._at = now


def duration(seconds: float) -> str:
    """Format a duration as OpenAI does in its headers: `20ms`, `1s`, `1.5s`, `6m0s`, `1h0m0s`."""
    milliseconds = math.ceil(max(0.0, seconds) * 1000)
    if milliseconds == 0:
        return "0s"
    if milliseconds < 1000:
        return f"{milliseconds}ms"
    whole, rest = divmod(milliseconds, 1000)
    minutes, left = divmod(whole, 60)
    tail = f"{left}.{rest:03}".rstrip("0") + "s" if rest else f"{left}s"
    hours, minutes = divmod(minutes, 60)
    return (f"{hours}h" if hours else "") + (f"{minutes}m" if hours or minutes else "") + tail
