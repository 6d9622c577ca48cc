"""Statistics of in-process engines and of retries, for metrics and health."""

from collections.abc import Iterable

import msgspec


class Sample(msgspec.Struct, frozen=True):
    """One sample of a metric family."""

    suffix: str
    """Suffix of the family's name: empty, `_total`, `_bucket`, `_sum` or `_count`."""
    labels: dict[str, str]
    value: float


class Family(msgspec.Struct, frozen=True, kw_only=True):
    """A Prometheus metric family."""

    name: str
    """Without the `_total` of counters."""
    kind: str
    """counter, gauge or histogram."""
    about: str
    samples: list[Sample]


class LocalEngine:
    """An engine whose processes belong to the service. `layer` finds it in a stack of backends."""

    def process_ids(self) -> list[int]:
        """Ids of its processes, possibly none. Takes a few milliseconds; thread-safe."""
        raise NotImplementedError  # Not abstract: `layer` takes the class, and mypy requires a concrete one.

    def families(self) -> Iterable[Family]:
        """The engine's own metrics, under its own names; none if they are disabled. Thread-safe."""
        raise NotImplementedError  # Not abstract: `layer` takes the class, and mypy requires a concrete one.


class RetryCounter:
    """A layer that retries requests, and counts the retries."""

    retries = 0
    """Retries made."""
    given_up = 0
    """Requests that failed although they could have been made again: too often, too late or over the budget."""
