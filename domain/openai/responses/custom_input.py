"""Unwraps the input of a custom tool from the arguments of the function that stands for it, as they arrive."""

import json
import re

from domain.openai.responses.tools import INPUT

_START = re.compile(r'\s*\{\s*"' + INPUT + r'"\s*:\s*"')
# Text of a JSON string that can be decoded by itself: it ends neither within an escape nor between two surrogates.
_HIGH = r"\\u[dD][89abAB][0-9a-fA-F]{2}"
_WHOLE = re.compile(
    r'(?:[^"\\]|\\[^u]|' + _HIGH + r"\\u[0-9a-fA-F]{4}|" + _HIGH + r"(?=[^\\]|\\[^u])|"
    r"\\u(?![dD][89abAB])[0-9a-fA-F]{4})*"
)


class CustomInput:
    """Reads `{"input": "…"}` in parts of any size and returns the text inside."""

    def __init__(self) -> None:
        self._unread = ""
        self._has_started = False
        self._has_ended = False

    def feed(self, arguments: str) -> str:
        """The text that the next part of the arguments adds to the input."""
        if self._has_ended:
            return ""
        self._unread += arguments
        if not self._has_started:
            start = _START.match(self._unread)
            if start is None:
                return ""
            self._has_started = True
            self._unread = self._unread[start.end() :]
        whole = _WHOLE.match(self._unread)
        assert whole is not None
        self._unread = self._unread[whole.end() :]
        self._has_ended = self._unread.startswith('"')
        return _decoded(whole[0])

    def rest(self) -> str:
        """What is left at the end: all that arrived, if it did not have the form of the function's arguments."""
        return "" if self._has_started else self._unread


def _decoded(text: str) -> str:
    if "\\" not in text:
        return text
    try:
        decoded: str = json.loads(f'"{text}"', strict=False)
    except ValueError:
        # An escape that JSON does not have.
        return text
    # A single surrogate can't be encoded.
    return decoded.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
