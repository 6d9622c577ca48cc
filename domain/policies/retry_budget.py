"""Retry budget: limits the retries of all requests together, so that they can't worsen an overload."""

from domain.policies.circuit_breaker import Clock

FLOOR_PER_S = 2.0
"""Retries per second that are allowed even with little traffic."""
MAX_TOKENS = 100.0
"""Capacity of the budget: enough for all requests in progress at one failing server."""


class RetryBudget:
    """A token bucket: each request adds a fraction of a token, and each retry takes a whole one.

    As in Finagle and Envoy. Over any period, retries are limited to `share` per request, plus two per second, plus
    the capacity of one hundred.
    """

    def __init__(self, clock: Clock, *, share: float = 0.2) -> None:
        """Create a full budget.

        Args:
            clock: source of the time.
            share: average retries per request.
        """
        self._clock = clock
        self._share = share
        self._tokens = MAX_TOKENS
        self._filled_at = clock()

    def earn(self) -> None:
        """Add the share of a new request."""
        self._tokens += self._share

    def spend(self) -> bool:
        """Take a token for a retry; return False if there is none."""
        now = self._clock()
        self._tokens = min(MAX_TOKENS, self._tokens + (now - self._filled_at) * FLOOR_PER_S)
        self._filled_at = now
        if self._tokens < 1:
            return False
        self._tokens -= 1
        return True
