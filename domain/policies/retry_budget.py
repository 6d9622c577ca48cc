"""A bound on all retries together, so that they can't make an overload worse."""

from domain.policies.circuit_breaker import Clock

FLOOR_PER_S = 2.0
"""Retries a second that are there even if hardly anybody asks."""
MOST = 100.0
"""What can be saved up: enough for all requests that one dying server had under way."""


class RetryBudget:
    """A bucket of tokens: each request puts a part of one in, each retry takes a whole one out.

    The way of Finagle and Envoy. Over any time there are at most `share` retries for each request, two a second,
    and the hundred that may have been saved up.
    """

    def __init__(self, clock: Clock, *, share: float = 0.2) -> None:
        """Make it, full.

        Args:
            clock: where the time comes from.
            share: retries for each request, on average.
        """
        self._clock = clock
        self._share = share
        self._tokens = MOST
        self._filled_at = clock()

    def earn(self) -> None:
        """A request begins."""
        self._tokens += self._share

    def spend(self) -> bool:
        """Whether a retry may be made now; if so, it is paid."""
        now = self._clock()
        self._tokens = min(MOST, self._tokens + (now - self._filled_at) * FLOOR_PER_S)
        self._filled_at = now
        if self._tokens < 1:
            return False
        self._tokens -= 1
        return True
