"""How much one API key may use in a minute: arithmetic alone, on a clock that is given.

A bucket holds a minute's worth and refills steadily, so that a key may use its share in one burst or evenly,
and never more than twice a minute's worth in any minute. What a request will cost is not known before it ends: it
takes an estimate, and puts the difference back, or takes it, when it is known.
"""

import math
from collections.abc import Callable

Clock = Callable[[], float]
"""Seconds that only grow, such as `time.monotonic`."""


class Bucket:
    """What is left of a minute's worth. It may go below nothing when a request cost more than was thought."""

    def __init__(self, per_minute: int, *, shares: int = 1, clock: Clock) -> None:
        """A full bucket.

        Args:
            per_minute: what may be used in a minute, at least 1.
            shares: how many buckets share that evenly; each holds at least 1.
            clock: tells the time.
        """
        self.capacity = max(1, per_minute // shares)
        self._per_second = per_minute / shares / 60
        self._clock = clock
        self._level = float(self.capacity)
        self._at = clock()

    @property
    def remaining(self) -> int:
        """What can be taken now."""
        self._refill()
        return max(0, math.floor(self._level))

    @property
    def reset_s(self) -> float:
        """Seconds until it is full again, if nothing is taken."""
        self._refill()
        return (self.capacity - self._level) / self._per_second

    def take(self, amount: int) -> float:
        """Take some; 0.0, or if there is not so much, take nothing and tell the seconds until there will be.

        Infinity means never: it is more than the bucket holds.
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
        """Put some back that was taken and not used; below 0 takes more, whatever is left."""
        self._refill()
        self._level = min(self._level + amount, float(self.capacity))

    def _refill(self) -> None:
        now = self._clock()
        self._level = min(self._level + (now - self._at) * self._per_second, float(self.capacity))
        self._at = now


def duration(seconds: float) -> str:
    """As OpenAI writes durations in its headers: `20ms`, `1s`, `1.5s`, `6m0s`, `1h0m0s`."""
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
