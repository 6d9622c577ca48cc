"""Reads the input file of a batch in a thread, a small piece at a time, and never further than needed."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from typing import TypeVar

from app.batches.lines import Line, LineSplitter
from domain.files import FileContents

T = TypeVar("T")

PIECE_BYTES = 2**16
"""Small, because the thread that reads and decodes a piece delays the event loop."""


async def read_lines(
    contents: FileContents, name: str, *, max_line_bytes: int, work: Callable[[Sequence[Line]], T]
) -> AsyncIterator[T]:
    """What a function makes of the lines of a file, piece by piece.

    Args:
        contents: where files are.
        name: of the file.
        max_line_bytes: longest line that is read whole.
        work: called with the lines of each piece, in a thread.

    Raises:
        FileNotFoundError: there is no such file.
        OSError: it can't be read.
    """
    pieces = contents.read(name, piece_bytes=PIECE_BYTES)
    splitter = LineSplitter(max_line_bytes)

    def advance() -> tuple[T, bool]:
        piece = next(pieces, None)
        lines = splitter.end() if piece is None else splitter.feed(piece)
        return work(lines), piece is not None

    has_more = True
    while has_more:
        result, has_more = await asyncio.to_thread(advance)
        yield result
