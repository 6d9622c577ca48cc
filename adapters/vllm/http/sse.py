"""Server-sent events from bytes, incrementally.

Source: the WHATWG HTML standard, "Server-sent events". Lines end at CR, LF or CRLF and nowhere else: text
may carry U+2028 raw, at which `str.splitlines` and `httpx.Response.iter_lines` would break it.
"""

import re

_LINE_END = re.compile(rb"\r\n|\n|\r(?!$)")


class EventReader:
    """Takes bytes in any portions and gives the data of each complete event."""

    def __init__(self) -> None:
        self._rest = b""
        self._data: list[bytes] = []

    def feed(self, portion: bytes) -> list[bytes]:
        """Data of the events that this portion completes, in order.

        A CR at the very end may be half of a CRLF, so it waits for the next portion.
        """
        *lines, self._rest = _LINE_END.split(self._rest + portion)
        events: list[bytes] = []
        for line in lines:
            if line:
                self._take(line)
            elif self._data:
                events.append(b"\n".join(self._data))
                self._data = []
        return events

    def _take(self, line: bytes) -> None:
        """Keep a data line; comments and other fields mean nothing to a completion stream."""
        field, _, value = line.partition(b":")
        if field == b"data":
            self._data.append(value.removeprefix(b" "))
