"""What the status page and the metrics show of batches.

The page is polled, and metrics are scraped, by any number of clients. The store is read once a second at most for
all keys together, and once more for each key whose batches are shown.
"""

import time
from collections import Counter
from collections.abc import Callable, Sequence

import msgspec

from app.batches.known import Known
from app.batches.progress import BatchProgress, LineRates, ended_at, progress_of
from domain.batches import ENDED, BatchStatus, BatchStore, StoredBatch

MAX_AGE_S = 1.0
"""How old what was read of the store may be."""
SHOWN_UNFINISHED, SHOWN_ENDED = 20, 5
"""Batches of a key that are shown at most."""
LOOKED_AT = 20
"""The latest batches of a key, among which those are that ended last."""
Shown = Callable[[StoredBatch], StoredBatch]


class BatchesOverview(msgspec.Struct, frozen=True, kw_only=True):
    """The batches of one key, and how many there are besides."""

    batches: list[BatchProgress]
    """The first ones that have not ended, in the order in which they began; then those that ended last."""
    unfinished: int
    """All of this key that have not ended."""
    unfinished_of_all: int
    """All of all keys that have not ended."""


class BatchWatch:
    """Knows the batches of all processes with the same database, as of a second ago."""

    def __init__(self, store: BatchStore, *, clock: Callable[[], float] = time.monotonic) -> None:
        """Create it without reading anything.

        Args:
            store: the batches.
            clock: returns seconds.
        """
        self._store = store
        self._clock = clock
        self._rates = LineRates()
        self._unfinished: Known[Sequence[StoredBatch]] = Known(store.unfinished_batches, at_first=(), clock=clock)
        self._latest: dict[str, Known[Sequence[StoredBatch]]] = {}

    async def overview(self, owner: str, shown: Shown) -> BatchesOverview:
        """The batches of an owner. Takes a fraction of a second at most, whatever the store does.

        Args:
            owner: whose batches; the number of owners is that of the API keys.
            shown: gives a batch the counts of this moment.
        """
        unfinished = await self._read_unfinished()
        # Read after the others, so that a batch that ends meanwhile is among them.
        latest = await self._latest_of(owner).since(self._unfinished.tried_at)
        ended = [batch for batch in latest if batch.status in ENDED]
        ids = {batch.id for batch in ended}
        mine = [batch for batch in unfinished if batch.owner == owner and batch.id not in ids]
        ended.sort(key=lambda batch: ended_at(batch) or 0, reverse=True)
        return BatchesOverview(
            batches=[
                *(self._progress(shown(batch)) for batch in mine[:SHOWN_UNFINISHED]),
                *(progress_of(batch, None) for batch in ended[:SHOWN_ENDED]),
            ],
            unfinished=len(mine),
            unfinished_of_all=len(unfinished),
        )

    async def counts(self) -> dict[BatchStatus, int]:
        """How many batches of all owners have each of the statuses of those that have not ended."""
        found = Counter(batch.status for batch in await self._read_unfinished())
        return {status: found[status] for status in BatchStatus if status not in ENDED}

    def stop(self) -> None:
        """Cancel reads in progress."""
        for known in (self._unfinished, *self._latest.values()):
            known.stop()

    async def _read_unfinished(self) -> Sequence[StoredBatch]:
        unfinished = await self._unfinished.since(self._clock() - MAX_AGE_S)
        self._rates.keep({batch.id for batch in unfinished})
        return unfinished

    def _latest_of(self, owner: str) -> Known[Sequence[StoredBatch]]:
        if owner not in self._latest:

            async def read() -> Sequence[StoredBatch]:
                return await self._store.batches(owner, after=None, limit=LOOKED_AT) or ()

            self._latest[owner] = Known(read, at_first=(), clock=self._clock)
        return self._latest[owner]

    def _progress(self, batch: StoredBatch) -> BatchProgress:
        is_running = batch.status is BatchStatus.IN_PROGRESS
        answered = batch.completed + batch.failed
        return progress_of(batch, self._rates.rate(batch.id, answered, self._clock()) if is_running else None)
