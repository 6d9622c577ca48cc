"""Parses server-sent events incrementally.

Source: the WHATWG HTML standard, "Server-sent events". Lines end at CR, LF or CRLF and nowhere else: data
may contain a raw U+2028, at which `str.splitlines` and `httpx.Response.iter_lines` would split it.
"""

import re

_LINE_END = re.compile(rb"\r\n|\n|\r(?!$)")


class EventReader:
    """Takes bytes in pieces of any size and returns the data of each complete event."""

    def __init__(self) -> None:
        self._rest = b""
        self._data: list[bytes] = []

    def feed(self, chunk: bytes) -> list[bytes]:
        """The data fields of the events that these bytes complete, in order.

        A CR at the end may be the first half of a CRLF, so it is kept until more bytes arrive.
        """
        *lines, self._rest = _LINE_END.split(self._rest + chunk)
        events: list[bytes] = []
        for line in lines:
            if line:
                self._add_line(line)
            elif self._data:
                events.append(b"\n".join(self._data))
                self._data = []
        return events

    def _add_line(self, line: bytes) -> None:
        """Keep a `data` line; completion streams use no other fields."""
        field, _, value = line.partition(b":")
        if field == b"data":
            self._data.append(value.removeprefix(b" "))
