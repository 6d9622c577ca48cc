"""What is shown of batches while they run: their counts of this moment, and how fast their lines are answered."""

from collections import deque
from collections.abc import Collection

import msgspec

from domain.batches import ENDED, BatchStatus, StoredBatch

WINDOW_S = 15.0
"""Period over which the speed is measured."""
MIN_PERIOD_S = 1.0
"""Shortest period from which a speed is computed, and between two measurements."""


class BatchProgress(msgspec.Struct, frozen=True, kw_only=True):
    """One batch, without its content. Times are Unix times in seconds."""

    id: str
    endpoint: str
    model: str | None
    """None if its lines name several, or have not been read yet."""
    status: BatchStatus
    total: int
    """Lines; 0 until they have been read."""
    completed: int
    failed: int
    lines_per_s: float | None
    """In the last seconds; None if it does not run, and at first."""
    left_s: float | None
    """Estimated seconds until its last line is answered; None if that can't be estimated."""
    created: int
    expires: int
    ended: int | None
    """None until it has ended."""


class LineRates:
    """Measures how fast the lines of batches are answered, whenever it is asked."""

    def __init__(self) -> None:
        self._counts: dict[str, deque[tuple[float, int]]] = {}

    def rate(self, batch_id: str, answered: int, now: float) -> float | None:
        """Lines per second in the last seconds; None if nothing is known of these.

        Args:
            batch_id: the batch.
            answered: its lines that have been answered until now.
            now: seconds of a clock.
        """
        counts = self._counts.setdefault(batch_id, deque())
        while counts and now - counts[0][0] > WINDOW_S:
            counts.popleft()
        if not counts or now - counts[-1][0] >= MIN_PERIOD_S:
            counts.append((now, answered))
        began, before = counts[0]
        # A process that takes over a batch of one that was killed may know of fewer lines for a moment.
        return max(0, answered - before) / (now - began) if now - began >= MIN_PERIOD_S else None

    def keep(self, batch_ids: Collection[str]) -> None:
        """Forget all batches but these."""
        self._counts = {batch_id: counts for batch_id, counts in self._counts.items() if batch_id in batch_ids}


def progress_of(batch: StoredBatch, lines_per_s: float | None) -> BatchProgress:
    """What is shown of a batch."""
    left = batch.total - batch.completed - batch.failed
    return BatchProgress(
        id=batch.id,
        endpoint=batch.endpoint,
        model=batch.model,
        status=batch.status,
        total=batch.total,
        completed=batch.completed,
        failed=batch.failed,
        lines_per_s=lines_per_s,
        left_s=left / lines_per_s if lines_per_s else None,
        created=batch.created,
        expires=batch.expires,
        ended=ended_at(batch),
    )


def ended_at(batch: StoredBatch) -> int | None:
    """When a batch has ended; None if it has not."""
    if batch.status not in ENDED:
        return None
    times = (batch.completed_at, batch.failed_at, batch.expired_at, batch.cancelled_at)
    return max((each for each in times if each is not None), default=batch.created)
