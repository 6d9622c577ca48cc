"""The part of a batch's answers that one claim writes, and what it reads of the parts of earlier claims.

Each claim appends to two files of its own: the records of answers, and those of errors. How much of them counts is
stored with the batch. A process that has lost its claim without knowing it may go on to append to its own part,
which has no effect: the next claim has stored the sizes that count.

A process that was killed has usually appended more than it had stored. The next claim takes all whole records of
that part, and stores its size before it goes on. Only the part of the last claim is treated like that: the sizes
of earlier ones were fixed when the last claim began.
"""

import asyncio
import contextlib
from collections import deque
from collections.abc import Awaitable, Callable, Iterator, Sequence

import msgspec

from app.batches.records import read_record
from domain.batches import Part, TokenUsage
from domain.files import FileContents, GrowingContents

PIECE_BYTES = 2**20


def output_name(part: Part) -> str:
    """The file of a part's answers."""
    return f"{part.name}.output"


def error_name(part: Part) -> str:
    """The file of a part's failed lines."""
    return f"{part.name}.errors"


class Answered:
    """Which lines have a record, and of what kind."""

    def __init__(self) -> None:
        self.lines: set[int] = set()
        """Their numbers."""
        self.completed = 0
        self.failed = 0
        self.usage = TokenUsage()

    def add(self, number: int, usage: TokenUsage | None) -> None:
        """Add a line: with the tokens of its answer, or None for a failed line."""
        self.lines.add(number)
        if usage is None:
            self.failed += 1
        else:
            self.completed += 1
            self.usage += usage


class PartWriter:
    """Appends records to the two files of one claim."""

    def __init__(self, name: str, contents: FileContents) -> None:
        """Create it without creating the files.

        Args:
            name: of the part.
            contents: where files are.
        """
        self.part = Part(name=name, output_bytes=0, error_bytes=0)
        """What is durable."""
        self._output = _Appender(output_name(self.part), contents)
        self._errors = _Appender(error_name(self.part), contents)
        self._one_write = asyncio.Lock()

    @property
    def unwritten_bytes(self) -> int:
        """Records that are only in memory."""
        return self._output.unwritten_bytes + self._errors.unwritten_bytes

    def add(self, record: bytes, *, is_error: bool) -> None:
        """Add a record; it is written later."""
        (self._errors if is_error else self._output).add(record)

    async def write(self) -> None:
        """Write all records; those survive the end of this process.

        Raises:
            OSError: they can't be written; the next call goes on where this one stopped.
        """
        await self._to_its_end(self._write)

    async def sync(self) -> None:
        """Write all records, and return once they survive a loss of power. Raises as `write`."""
        await self._to_its_end(self._write_durably)

    async def close(self) -> None:
        """Close the files."""
        async with self._one_write:
            await asyncio.to_thread(self._output.close)
            await asyncio.to_thread(self._errors.close)

    async def _to_its_end(self, write: Callable[[], Awaitable[None]]) -> None:
        """Keep others from writing until this has ended, also if the task that waits for it is cancelled.

        The thread that writes goes on then. Another one would write the same records again.
        """

        async def alone() -> None:
            async with self._one_write:
                await write()

        task = asyncio.create_task(alone())
        try:
            await asyncio.shield(task)
        except asyncio.CancelledError:
            task.add_done_callback(_ignore_failure)
            raise

    async def _write_durably(self) -> None:
        await self._write()
        await asyncio.to_thread(self._sync)
        self.part = msgspec.structs.replace(
            self.part, output_bytes=self._output.size, error_bytes=self._errors.size
        )

    async def _write(self) -> None:
        for appender in (self._output, self._errors):
            # Collected here, and not in the thread, because records are added meanwhile.
            if appender.collect():
                await asyncio.to_thread(appender.write)

    def _sync(self) -> None:
        self._output.sync()
        self._errors.sync()


def _ignore_failure(task: "asyncio.Task[None]") -> None:
    # The next write goes on where this one stopped, and reports what stands in its way.
    with contextlib.suppress(asyncio.CancelledError):
        task.exception()


class _Appender:
    """Appends to one file, which is created when there is something to write."""

    def __init__(self, name: str, contents: FileContents) -> None:
        self._name = name
        self._contents = contents
        self._file: GrowingContents | None = None
        self._added: list[bytes] = []
        self._added_bytes = 0
        # What was collected, and is not written yet.
        self._rest: deque[bytes] = deque()
        self._rest_bytes = 0
        self.size = 0
        """Bytes that are durable."""

    @property
    def unwritten_bytes(self) -> int:
        # Of two numbers, because a thread that writes changes the rest while records are added.
        return self._added_bytes + self._rest_bytes

    def add(self, record: bytes) -> None:
        self._added.append(record)
        self._added_bytes += len(record)

    def collect(self) -> bool:
        """Take what was added, to write it after what a failure has left; return whether there is anything."""
        self._rest.extend(self._added)
        self._rest_bytes += self._added_bytes
        self._added.clear()
        self._added_bytes = 0
        return bool(self._rest)

    def write(self) -> None:
        """Write what was collected. Blocks."""
        if self._file is None:
            self._file = self._contents.append_to(self._name)
        while self._rest:
            # Small, because it is copied: hundreds of MB at once would hold up the event loop.
            piece = self._next_piece()
            before = self._file.size
            try:
                self._file.append(piece)
            finally:
                written = self._file.size - before
                self._rest_bytes -= written
                if written < len(piece):
                    self._rest.appendleft(piece[written:])

    def _next_piece(self) -> bytes:
        """The next records that are written together."""
        records = [self._rest.popleft()]
        size = len(records[0])
        while self._rest and size + len(self._rest[0]) <= PIECE_BYTES:
            records.append(self._rest.popleft())
            size += len(records[-1])
        return b"".join(records)

    def sync(self) -> None:
        """Return once everything is durable. Blocks."""
        if self._file is not None and self._file.size > self.size:
            size = self._file.size
            self._file.sync()
            self.size = size

    def close(self) -> None:
        if self._file is not None:
            self._file.close()


def recover(parts: Sequence[Part], contents: FileContents, answered: Answered) -> list[Part]:
    """Read the parts of earlier claims. Blocks.

    Args:
        parts: as they were stored, in the order of their claims.
        contents: where files are.
        answered: gets the lines that have a record.

    Returns:
        The parts with the sizes that count.
    """
    found = []
    for part in parts:
        is_last = part is parts[-1]
        sizes = [
            _read(name, contents, answered, limit=None if is_last else size, are_errors=name.endswith(".errors"))
            for name, size in ((output_name(part), part.output_bytes), (error_name(part), part.error_bytes))
        ]
        found.append(msgspec.structs.replace(part, output_bytes=sizes[0], error_bytes=sizes[1]))
    return found


def _read(name: str, contents: FileContents, answered: Answered, *, limit: int | None, are_errors: bool) -> int:
    """Read the whole records of a file up to a size; returns the size of those that count."""
    size = 0
    try:
        for content in _records(contents.read(name, piece_bytes=PIECE_BYTES)):
            record = read_record(content)
            if record is None or (limit is not None and size + len(content) + 1 > limit):
                break
            if record.number in answered.lines:
                # A line has one record. Two would mean that files were changed from outside.
                break
            answered.add(record.number, None if are_errors else record.usage)
            size += len(content) + 1
    except FileNotFoundError:
        # Nothing was written.
        return 0
    if size:
        # A killed process may have written without making that durable.
        contents.sync(name)
    return size


def _records(pieces: Iterator[bytes]) -> Iterator[bytes]:
    """The lines of a file, without one that has no end."""
    held: list[bytes] = []
    for piece in pieces:
        *ends, rest = piece.split(b"\n")
        for end in ends:
            held.append(end)
            yield b"".join(held)
            held.clear()
        held.append(rest)
