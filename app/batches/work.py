"""The work on one batch that this process has claimed, from its validation to its end."""

import asyncio
import contextlib
import enum
import logging
import secrets
import time
from collections.abc import Coroutine, Sequence

from app.batches.ending import end_batch
from app.batches.feeding import Feeder
from app.batches.parts import PartWriter, recover
from app.batches.records import CANCELLED, EXPIRED, INPUT_DELETED
from app.batches.saving import ClaimLostError, Saver
from app.batches.tools import Tools
from app.batches.validation import validate
from domain.batches import BatchError, BatchStatus, StoredBatch
from domain.errors import StateUnavailableError

log = logging.getLogger("memoria")

WRITE_S = 0.1
"""How often records are written. What a killed process has not written runs again."""
SAVE_S = 1.0
"""How often progress is saved, and how soon a request to cancel from another process is seen."""
LEAVE_S = 5.0
"""How long lines that are cancelled may take to end."""


class Stop(enum.Enum):
    """Why lines are given up."""

    CANCELLED = enum.auto()
    EXPIRED = enum.auto()
    INPUT_DELETED = enum.auto()


class BatchWork:
    """Works on one batch."""

    def __init__(self, batch: StoredBatch, tools: Tools) -> None:
        """Create it.

        Args:
            batch: as it was claimed.
            tools: what all batches share.
        """
        self._tools = tools
        self._leave = asyncio.Event()
        self._reason: Stop | None = None
        self._is_drained = self._is_recovered = False
        self._feeder: Feeder | None = None
        self._writer = PartWriter(f"{batch.id}-{secrets.token_hex(8)}", tools.contents)
        self._saver = Saver(batch, self._writer, tools.batches)

    def shown(self, batch: StoredBatch) -> StoredBatch:
        """A batch as it is stored, with the counts of this moment."""
        return self._saver.shown(batch) if self._is_recovered else batch

    def cancel(self) -> None:
        """Give up the lines that have not been answered, because a client has asked for it."""
        self._stop(Stop.CANCELLED)

    def drain(self) -> None:
        """Cancel the lines that run, without an answer: another process, or a later start, runs them again."""
        self._is_drained = True
        self._break_off()

    async def run(self) -> None:
        """Work on the batch until it has ended, is drained, or its claim is lost."""
        try:
            await self._recover()
            await self._go_on()
            if not self._saver.is_ended:
                # Records are saved before the next claim can begin.
                await self._saver.save_surely()
                # If that fails, it is claimed anew here, or elsewhere when this process has ended.
                with contextlib.suppress(StateUnavailableError):
                    await self._tools.batches.release_batch(self.batch)
        except ClaimLostError:
            self._break_off()
            log.warning("batch %s is left to another process, which has taken this one for ended", self.id)
        finally:
            await self._writer.close()

    @property
    def batch(self) -> StoredBatch:
        """The batch as it was saved last."""
        return self._saver.batch

    @property
    def id(self) -> str:
        """The batch's id."""
        return self.batch.id

    @property
    def _is_answered(self) -> bool:
        """Whether each line has a record."""
        batch = self._saver.batch
        return batch.in_progress_at is not None and len(self._saver.answered.lines) >= batch.total

    async def _go_on(self) -> None:
        """Do what is left of the batch, as far as it is not drained."""
        if self._saver.batch.endpoint not in self._tools.lines:
            await self._fail([_unknown_endpoint(self._saver.batch.endpoint)])
            return
        if self._saver.batch.status is BatchStatus.CANCELLING:
            self.cancel()
        if self._saver.batch.status is BatchStatus.VALIDATING:
            await self._attend(self._validate())
        if self._saver.batch.status in (BatchStatus.IN_PROGRESS, BatchStatus.FINALIZING) and not self._is_answered:
            await self._attend(self._run_lines())
        if not self._saver.is_ended and not self._is_drained:
            await self._end()

    def _stop(self, reason: Stop) -> None:
        self._reason = self._reason or reason
        self._break_off()

    def _break_off(self) -> None:
        self._leave.set()
        if self._feeder is not None:
            self._feeder.stop()

    async def _recover(self) -> None:
        """Find out what earlier claims have answered, and store how much of their parts counts."""
        earlier = self._saver.batch.parts
        self._saver.earlier = await asyncio.to_thread(recover, earlier, self._tools.contents, self._saver.answered)
        self._is_recovered = True
        await self._saver.save_surely()

    async def _attend(self, work: Coroutine[object, object, None]) -> None:
        """Save progress while some work is done, and stop it if its batch is to end.

        Raises:
            ClaimLostError: the claim was lost; the work has ended.
        """
        running = asyncio.create_task(work, name=f"batch-{self.id}")
        looked = time.monotonic()
        try:
            while not running.done():
                await asyncio.wait({running}, timeout=WRITE_S)
                if running.done() or time.monotonic() - looked >= SAVE_S:
                    await self._look()
                    looked = time.monotonic()
                else:
                    await self._saver.write()
        except BaseException:
            self._break_off()
            await asyncio.wait({running}, timeout=LEAVE_S)
            running.cancel()
            await asyncio.wait({running})
            raise
        await running

    async def _look(self) -> None:
        """Save progress, and see whether the batch is to end."""
        await self._saver.save()
        batch = self._saver.batch
        if batch.status is BatchStatus.CANCELLING:
            self._stop(Stop.CANCELLED)
        elif self._tools.now >= batch.expires:
            self._stop(Stop.EXPIRED)
        else:
            # The next look may succeed.
            with contextlib.suppress(StateUnavailableError):
                if await self._tools.files.file(batch.owner, batch.input_file_id) is None:
                    self._stop(Stop.INPUT_DELETED)

    async def _validate(self) -> None:
        try:
            validation = await validate(self._saver.batch, self._tools, self._leave)
        except FileNotFoundError:
            self._stop(Stop.INPUT_DELETED)
            return
        if validation is None:
            return
        if validation.errors:
            await self._fail(validation.errors, total=validation.total)
            return
        await self._saver.save_surely(
            status=BatchStatus.IN_PROGRESS,
            in_progress_at=self._tools.now,
            total=validation.total,
            model=validation.model,
        )

    async def _run_lines(self) -> None:
        self._feeder = Feeder(self._saver, self._writer, self._tools, self._leave)
        try:
            await self._feeder.run()
        except* FileNotFoundError:
            self._stop(Stop.INPUT_DELETED)

    async def _end(self) -> None:
        now = self._tools.now
        if self._reason is Stop.CANCELLED:
            if await self._give_up(CANCELLED):
                await self._finish(status=BatchStatus.CANCELLED, cancelled_at=now)
        elif self._is_answered:
            if self._saver.batch.status is BatchStatus.IN_PROGRESS:
                await self._saver.save_surely(status=BatchStatus.FINALIZING, finalizing_at=now)
            await self._finish(status=BatchStatus.COMPLETED, completed_at=now)
        elif self._reason is Stop.EXPIRED:
            if await self._give_up(EXPIRED):
                await self._finish(status=BatchStatus.EXPIRED, expired_at=now)
        elif self._reason is Stop.INPUT_DELETED:
            await self._fail([INPUT_DELETED])
        else:
            raise RuntimeError("a batch has run, but some of its lines have no record")

    async def _give_up(self, error: BatchError) -> bool:
        """Write a record for each line that has none; False if the work is drained meanwhile."""
        if self._saver.batch.in_progress_at is None:
            # It is not known which lines there are.
            return True
        # Set until now, to end the running lines.
        self._leave = asyncio.Event()
        if self._is_drained:
            return False
        self._feeder = Feeder(self._saver, self._writer, self._tools, self._leave)
        try:
            return await self._feeder.give_up(error)
        except FileNotFoundError:
            return True

    async def _fail(self, errors: Sequence[BatchError], **changes: int) -> None:
        await self._finish(status=BatchStatus.FAILED, failed_at=self._tools.now, errors=tuple(errors), **changes)

    async def _finish(self, **changes: object) -> None:
        await end_batch(self._saver, self._tools.contents, now=self._tools.now, **changes)
        batch = self._saver.batch
        log.info(
            "batch %s is %s: %d of %d lines answered, %d failed",
            batch.id,
            batch.status,
            batch.completed,
            batch.total,
            batch.failed,
        )


def _unknown_endpoint(path: str) -> BatchError:
    return BatchError(
        code="invalid_endpoint", message=f"The endpoint '{path}' takes no batches any more.", param="endpoint"
    )
