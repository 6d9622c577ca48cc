"""Runs the lines of a batch: starts as many as there are places for, and writes down what became of each."""

import asyncio
from collections.abc import AsyncIterator, Sequence

from app.batches.checks import LineChecker, LineRefusedError, LineRequest
from app.batches.lines import Line
from app.batches.parts import PartWriter
from app.batches.reading import read_lines
from app.batches.records import OK, Records, usage_of
from app.batches.saving import Saver, repeat
from app.batches.tools import Tools
from domain.batches import BatchError

MAX_UNWRITTEN = 2**24
"""Bytes of records in memory, beyond which no line begins before they are written."""
MAX_BODIES = 2**26
"""Bytes of the bodies of one batch that run at a time, or a single larger one."""
Checked = LineRequest | LineRefusedError


class Feeder:
    """Runs those lines of one batch that have no record yet."""

    def __init__(self, saver: Saver, writer: PartWriter, tools: Tools, leave: asyncio.Event) -> None:
        """Create it.

        Args:
            saver: saves the batch.
            writer: gets the records.
            tools: what all batches share.
            leave: once it is set, the running lines are cancelled.
        """
        self._saver = saver
        self._writer = writer
        self._tools = tools
        self._leave = leave
        self._batch = saver.batch
        self._records = Records(saver.batch.id)
        self._feeding: asyncio.Task[None] | None = None
        self._bodies = 0
        self._body_ended = asyncio.Event()

    async def run(self) -> None:
        """Run all lines; returns once each has a record, or `leave` is set and all have ended.

        Raises:
            FileNotFoundError: the input file is missing.
        """
        async with asyncio.TaskGroup() as group:
            if not self._leave.is_set():
                self._feeding = group.create_task(self._feed(group))

    def stop(self) -> None:
        """Begin no further lines."""
        if self._feeding is not None:
            self._feeding.cancel()

    async def give_up(self, error: BatchError) -> bool:
        """Write a record with this error for each line that has none; False if `leave` is set meanwhile.

        Raises:
            FileNotFoundError: the input file is missing.
        """
        async for checked in self._lines(checks_bodies=False):
            for line in checked:
                if isinstance(line, LineRefusedError):
                    self._refuse(line)
                else:
                    self._add_error(line.number, line.custom_id, error)
            await repeat(self._saver.write)
            if self._leave.is_set():
                return False
        return True

    async def _feed(self, group: asyncio.TaskGroup) -> None:
        async for checked in self._lines(checks_bodies=self._tools.options.skips_invalid):
            for line in checked:
                await self._wait_for_room()
                if isinstance(line, LineRefusedError):
                    self._refuse(line)
                else:
                    await self._begin(group, line)

    async def _begin(self, group: asyncio.TaskGroup, line: LineRequest) -> None:
        while self._bodies and self._bodies + len(line.body) > MAX_BODIES:
            self._body_ended.clear()
            await self._body_ended.wait()
        tools = self._tools
        place = await tools.slots.take(tools.role_of(self._batch.endpoint, line.model))
        self._bodies += len(line.body)
        group.create_task(self._run_line(line, place))
        # One in each iteration of the event loop: hundreds at once would delay the requests of clients.
        await asyncio.sleep(0)

    async def _run_line(self, line: LineRequest, place: asyncio.Semaphore) -> None:
        try:
            batch = self._batch
            answer = await self._tools.executor.run(
                batch.endpoint, line.body, owner=batch.owner, leave=self._leave
            )
        finally:
            place.release()
            self._bodies -= len(line.body)
            self._body_ended.set()
        if answer is not None:
            is_error = answer.status != OK
            self._writer.add(self._records.answer(line.number, line.custom_id, answer), is_error=is_error)
            self._saver.answered.add(line.number, None if is_error else usage_of(answer.body))
            self._tools.counts.add(is_error=is_error)

    async def _wait_for_room(self) -> None:
        if self._writer.unwritten_bytes > MAX_UNWRITTEN or not self._saver.has_room.is_set():
            await repeat(self._saver.write)

    def _lines(self, *, checks_bodies: bool) -> AsyncIterator[list[Checked]]:
        """The lines without a record, piece by piece."""
        batch, options = self._batch, self._tools.options
        checker = LineChecker(self._tools.rules(batch.endpoint, are_checked=True), checks_bodies=checks_bodies)

        def check(lines: Sequence[Line]) -> list[Checked]:
            # All are checked, because a `custom_id` may repeat that of a line with a record.
            found = [_checked(checker, line) for line in lines]
            done = self._saver.answered.lines
            return [each for each in found if _number(each) not in done]

        return read_lines(
            self._tools.contents, batch.input_file_id, max_line_bytes=options.max_line_bytes, work=check
        )

    def _refuse(self, line: LineRefusedError) -> None:
        self._add_error(_number(line), line.custom_id, line.error)

    def _add_error(self, number: int, custom_id: str | None, error: BatchError) -> None:
        self._writer.add(self._records.error(number, custom_id, error), is_error=True)
        self._saver.answered.add(number, None)
        self._tools.counts.add(is_error=True)


def _checked(checker: LineChecker, line: Line) -> Checked:
    try:
        return checker.check(line)
    except LineRefusedError as refused:
        return refused


def _number(line: Checked) -> int:
    """The number of a line."""
    if isinstance(line, LineRequest):
        return line.number
    assert line.error.line is not None
    return line.error.line
