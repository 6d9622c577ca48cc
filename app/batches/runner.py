"""Finds batches that no process works on, claims them, and works on some of them side by side."""

import asyncio
import contextlib
import logging

from app.batches.tools import Tools
from app.batches.waiting import wait_for_event
from app.batches.work import BatchWork
from domain.batches import StoredBatch
from domain.errors import StateUnavailableError

log = logging.getLogger("memoria")

SIDE_BY_SIDE = 4
"""Batches of this process that run at a time; they share the places for lines."""
POLL_S = 2.0
"""How often it is looked for batches, besides the moments when this process has created one."""
FAILURE_PAUSE_S = 30.0
"""How long a batch is left alone after an unexpected failure."""
STOP_S = 10.0
"""How long the work on batches may take to save its progress when the service stops."""


class BatchRunner:
    """Runs the batches of this process."""

    def __init__(self, tools: Tools) -> None:
        """Create it without starting anything.

        Args:
            tools: what all batches share.
        """
        self._tools = tools
        self._work: dict[str, BatchWork] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._places = asyncio.Semaphore(SIDE_BY_SIDE)
        self._created = asyncio.Event()
        self._claiming: asyncio.Task[None] | None = None
        self._is_draining = False

    def start(self) -> None:
        """Begin to work on batches."""
        self._claiming = asyncio.create_task(self._claim_repeatedly(), name="claim-batches")

    def notice(self) -> None:
        """Look for batches now, because one was created."""
        self._created.set()

    def cancel(self, batch_id: str) -> None:
        """Cancel the lines of a batch now, if this process works on it."""
        work = self._work.get(batch_id)
        if work is not None:
            work.cancel()

    def shown(self, batch: StoredBatch) -> StoredBatch:
        """A batch as it is stored, with the counts of this moment if this process works on it."""
        work = self._work.get(batch.id)
        return batch if work is None else work.shown(batch)

    def drain(self) -> None:
        """Begin no batches and no lines from now on, and cancel those that run: they run again later."""
        self._is_draining = True
        if self._claiming is not None:
            self._claiming.cancel()
        for work in self._work.values():
            work.drain()

    async def stop(self) -> None:
        """Drain, save what was answered, and give up the claims. Safe to call repeatedly."""
        self.drain()
        tasks = [*self._tasks] if self._claiming is None else [*self._tasks, self._claiming]
        if tasks:
            _, late = await asyncio.wait(tasks, timeout=STOP_S)
            for task in late:
                # What could not be saved is found in the files by the next claim.
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _claim_repeatedly(self) -> None:
        while True:
            await self._places.acquire()
            batch = await self._next()
            work = BatchWork(batch, self._tools)
            self._work[batch.id] = work
            task = asyncio.create_task(self._run(work), name=f"work-on-{batch.id}")
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _next(self) -> StoredBatch:
        """Wait for a batch, and claim it."""
        while True:
            self._created.clear()
            try:
                batch = await self._tools.batches.claim_batch(held=tuple(self._work))
            except StateUnavailableError:
                batch = None
            except Exception:
                log.exception("unexpected error while looking for batches")
                batch = None
            if batch is not None:
                return batch
            await wait_for_event(self._created, POLL_S)

    async def _run(self, work: BatchWork) -> None:
        try:
            await work.run()
        except Exception:
            log.exception("unexpected error in batch %s; it goes on in %.0f s", work.id, FAILURE_PAUSE_S)
            await self._leave_alone(work)
        finally:
            del self._work[work.id]
            self._places.release()
            # There may be one that waits for a place, or was left to another process for a moment.
            self._created.set()

    async def _leave_alone(self, work: BatchWork) -> None:
        if not self._is_draining:
            await asyncio.sleep(FAILURE_PAUSE_S)
        # If that fails, it is claimed anew here, or elsewhere when this process has ended.
        with contextlib.suppress(StateUnavailableError):
            await self._tools.batches.release_batch(work.batch)
