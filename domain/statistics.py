"""What an engine inside the service can tell of itself beside the port, for whoever measures."""

from collections.abc import Iterable

import msgspec


class Sample(msgspec.Struct, frozen=True):
    """One number of a family."""

    suffix: str
    """What follows the family's name: nothing, `_total`, `_bucket`, `_sum` or `_count`."""
    labels: dict[str, str]
    value: float


class Family(msgspec.Struct, frozen=True, kw_only=True):
    """Numbers of one name, in Prometheus's terms."""

    name: str
    """Without the `_total` of counters."""
    kind: str
    """counter, gauge or histogram."""
    about: str
    samples: list[Sample]


class LocalEngine:
    """An engine whose processes belong to the service; a layer of a stack can be found by this kind."""

    def process_ids(self) -> list[int]:
        """Its processes; none while it has none. Takes some milliseconds, in any thread."""
        raise NotImplementedError  # Not abstract: layers are looked for by class, and mypy wants that concrete.

    def families(self) -> Iterable[Family]:
        """What it counts itself, under its own names; nothing if it was told not to. In any thread."""
        raise NotImplementedError  # Not abstract: layers are looked for by class, and mypy wants that concrete.


class RetryCounter:
    """A layer that makes requests again, and counts how often."""

    retries = 0
    """Retries made."""
    given_up = 0
    """Requests that failed although they could have been made again: too often, too late or over the budget."""
