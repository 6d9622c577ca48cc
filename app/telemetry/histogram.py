"""A histogram of durations: counts them in logarithmic bins, in bounded memory, and estimates percentiles."""

import math
from collections import Counter

BINS_PER_DECADE = 20
"""A bin's upper bound is 12 % above its lower bound; that is a percentile's largest error."""
SHORTEST_S = 1e-4
LONGEST_S = 1e4
LAST_BIN = round(math.log10(LONGEST_S / SHORTEST_S) * BINS_PER_DECADE)


class Histogram:
    """Durations in seconds.

    Bin 0 holds all up to SHORTEST_S, bin n those in `(bound(n - 1), bound(n)]`, and the last bin all longer ones.
    """

    def __init__(self) -> None:
        self._bins: Counter[int] = Counter()

    def __len__(self) -> int:
        return self._bins.total()

    def add(self, seconds: float) -> None:
        """Add one duration."""
        self._bins[_bin(seconds)] += 1

    def merge(self, other: "Histogram") -> None:
        """Add all durations of another histogram."""
        self._bins.update(other._bins)

    def percentile(self, percent: float) -> float | None:
        """Estimate the nearest-rank percentile in seconds; None if the histogram is empty.

        The nearest rank of n durations is `ceil(percent / 100 * n)`, at least 1. The bin of that duration is
        exact; within the bin, durations are assumed to be evenly spaced on the logarithmic scale, each in the
        middle of its share. So the estimate and the duration lie in the same bin.

        Args:
            percent: above 0, up to 100.
        """
        count = len(self)
        if not count:
            return None
        rank = max(1, math.ceil(percent / 100 * count))
        before = 0
        for index in sorted(self._bins):
            inside = self._bins[index]
            if before + inside >= rank:
                return bound(index - 1 + (rank - before - 0.5) / inside)
            before += inside
        raise AssertionError("the rank exceeds the count")


def bound(index: float) -> float:
    """Upper bound of a bin, in seconds; a fraction gives a point inside a bin."""
    return float(SHORTEST_S * 10 ** (index / BINS_PER_DECADE))


def _bin(seconds: float) -> int:
    if seconds <= SHORTEST_S:
        return 0
    # A bound belongs to the bin below it; the small number absorbs rounding errors of the logarithm.
    index = math.ceil(math.log10(seconds / SHORTEST_S) * BINS_PER_DECADE - 1e-9)
    return min(index, LAST_BIN)
