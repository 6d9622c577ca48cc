"""Durations counted in cells, so that any number of them takes little memory and percentiles can still be told."""

import math
from collections import Counter

CELLS_PER_DECADE = 20
"""A cell ends 12 % above where it begins: that is how far off a percentile may be."""
SHORTEST_S = 1e-4
LONGEST_S = 1e4
LAST_CELL = round(math.log10(LONGEST_S / SHORTEST_S) * CELLS_PER_DECADE)


class Histogram:
    """Durations in seconds.

    Cell 0 holds all up to SHORTEST_S, cell n those in `(bound(n - 1), bound(n)]`, the last one all the rest.
    """

    def __init__(self) -> None:
        self._cells: Counter[int] = Counter()

    def __len__(self) -> int:
        return self._cells.total()

    def add(self, seconds: float) -> None:
        """Count one duration."""
        self._cells[_cell(seconds)] += 1

    def merge(self, other: "Histogram") -> None:
        """Count all that another one has counted."""
        self._cells.update(other._cells)

    def percentile(self, percent: float) -> float | None:
        """An estimate, in seconds, of the nearest-rank percentile; None if nothing was counted.

        The nearest rank of n durations is `ceil(percent / 100 * n)`, at least 1. Which cell that duration lies in
        is exact; inside of the cell, durations are taken to lie evenly on the logarithmic scale, each in the
        middle of its share. So the estimate and the duration lie in the same cell.

        Args:
            percent: above 0, up to 100.
        """
        count = len(self)
        if not count:
            return None
        rank = max(1, math.ceil(percent / 100 * count))
        before = 0
        for cell in sorted(self._cells):
            inside = self._cells[cell]
            if before + inside >= rank:
                return bound(cell - 1 + (rank - before - 0.5) / inside)
            before += inside
        raise AssertionError("a rank is at most the count")


def bound(cell: float) -> float:
    """Upper bound of a cell, in seconds; of a part of a cell, where that part ends."""
    return float(SHORTEST_S * 10 ** (cell / CELLS_PER_DECADE))


def _cell(seconds: float) -> int:
    if seconds <= SHORTEST_S:
        return 0
    # A bound belongs to the cell below it; without the small number, errors of the logarithm would decide.
    cell = math.ceil(math.log10(seconds / SHORTEST_S) * CELLS_PER_DECADE - 1e-9)
    return min(cell, LAST_CELL)
