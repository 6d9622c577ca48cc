"""Unwraps the input of a custom tool from the arguments of the function that stands for it, as they arrive."""

import re

from domain.openai.responses.tools import INPUT

# What precedes the text, with any white space before each part.
_START = ("{", f'"{INPUT}"', ":", '"')
_HEX = "[0-9a-fA-F]"
_HIGH = rf"\\u[dD][89abAB]{_HEX}{{2}}"
# Models write escapes that JSON does not have, as in `a\d+`: they stand for their own characters.
_INVALID = rf"\\u(?={_HEX}{{0,3}}[^0-9a-fA-F])"
# Text of a JSON string that can be decoded by itself: it ends neither within an escape nor between two surrogates.
_WHOLE = re.compile(
    rf'(?:[^"\\]|\\[^u]|{_HIGH}\\u{_HEX}{{4}}|{_HIGH}(?=[^\\]|\\[^u]|{_INVALID})|'
    rf"\\u(?![dD][89abAB]){_HEX}{{4}}|{_INVALID})*"
)
_ESCAPE = re.compile(rf'\\(?:u({_HEX}{{4}})|(["\\/bfnrt]))')
_ESCAPED = {'"': '"', "\\": "\\", "/": "/", "b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t"}


class CustomInput:
    """Reads `{"input": "…"}` in parts of any size and returns the text inside."""

    def __init__(self) -> None:
        self._unread = ""
        self._arrived: list[str] = []
        """What arrived before the text."""
        self._parts_read = 0
        """How many parts of `_START` have arrived."""
        self._is_other = False
        """Whether the arguments have another form."""
        self._has_ended = False

    def feed(self, arguments: str) -> str:
        """The text that the next part of the arguments adds to the input."""
        if self._has_ended:
            return ""
        if not self._has_started:
            self._arrived.append(arguments)
            if self._is_other:
                return ""
        self._unread += arguments
        if not self._has_started:
            self._read_start()
            if not self._has_started:
                return ""
        whole = _WHOLE.match(self._unread)
        assert whole is not None
        self._unread = self._unread[whole.end() :]
        self._has_ended = self._unread.startswith('"')
        return _decoded(whole[0])

    def rest(self) -> str:
        """What is left at the end: all that arrived, if it did not have the form of the function's arguments."""
        return "" if self._has_started else "".join(self._arrived)

    @property
    def _has_started(self) -> bool:
        return self._parts_read == len(_START)

    def _read_start(self) -> None:
        """Read what has arrived of `_START`, and keep no white space, which may be long."""
        while not self._has_started:
            self._unread = self._unread.lstrip()
            part = _START[self._parts_read]
            if not self._unread.startswith(part):
                self._is_other = not part.startswith(self._unread)
                return
            self._parts_read += 1
            self._unread = self._unread[len(part) :]


def _decoded(text: str) -> str:
    if "\\" not in text:
        return text
    # Two surrogates become one character. A single one can't be encoded.
    return _ESCAPE.sub(_unescaped, text).encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def _unescaped(escape: re.Match[str]) -> str:
    code, character = escape.groups()
    return _ESCAPED[character] if code is None else chr(int(code, 16))
