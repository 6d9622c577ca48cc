"""Splits the contents of a file into lines, without holding more than one line of bounded length in memory."""

from typing import NamedTuple

UTF8_BOM = b"\xef\xbb\xbf"


class Line(NamedTuple):
    """One line that is not blank."""

    number: int
    """From 1; blank lines count."""
    content: bytes | None
    """Without its end; None if it is longer than allowed."""


class LineSplitter:
    """Finds the lines of a file in its pieces. Blank lines are left out.

    Lines end with a line feed, with or without a carriage return before it; the last one may have no end. A byte
    order mark at the beginning is left out.
    """

    def __init__(self, max_bytes: int) -> None:
        """Create it.

        Args:
            max_bytes: longest line that is returned whole.
        """
        self._max_bytes = max_bytes
        # With room for what does not count: a byte order mark and a carriage return.
        self._limit = max_bytes + len(UTF8_BOM) + 1
        self._number = 1
        self._held: list[bytes] = []
        self._held_bytes = 0

    def feed(self, piece: bytes) -> list[Line]:
        """The lines that end in the next piece of the file."""
        *ends, rest = piece.split(b"\n")
        lines = []
        for end in ends:
            if end or self._held_bytes:
                self._hold(end)
                lines += self._take()
            self._number += 1
        self._hold(rest)
        return lines

    def end(self) -> list[Line]:
        """The last line, if it has no end of its own."""
        return self._take()

    def _hold(self, part: bytes) -> None:
        self._held_bytes += len(part)
        if self._held_bytes > self._limit:
            self._held.clear()
        elif part:
            self._held.append(part)

    def _take(self) -> list[Line]:
        """The held line, unless it is blank."""
        content, is_long = b"".join(self._held), self._held_bytes > self._limit
        self._held.clear()
        self._held_bytes = 0
        if self._number == 1:
            content = content.removeprefix(UTF8_BOM)
        content = content.removesuffix(b"\r")
        if is_long or len(content) > self._max_bytes:
            return [Line(self._number, None)]
        return [Line(self._number, content)] if content.strip() else []
