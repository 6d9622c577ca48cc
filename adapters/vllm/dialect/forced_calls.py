"""Calls that the client insists on, read from a text that can be nothing but such calls.

vLLM's own readers look for the marks around a call wherever they stand, so that a call whose arguments have such
a mark in a text is lost, and one that `max_tokens` cuts off comes out as markup. The grammar of a forced call
leaves no doubt what is what: a fixed beginning with the name, one JSON value, a fixed end.
"""

import enum
import json
import re
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

from domain.choices import join_calls
from domain.results import ToolCallDelta

_NAME = re.compile(r'"name": "([^"]*)"')


class CallShape(NamedTuple):
    """What stands around the arguments of a call."""

    name: str
    head: str
    """Up to the end of the name."""
    rest: str
    """From there to the arguments."""
    end: str


class _At(enum.Enum):
    OUTSIDE = enum.auto()
    BEFORE_ARGUMENTS = enum.auto()
    ARGUMENTS = enum.auto()
    AFTER_ARGUMENTS = enum.auto()
    LOST = enum.auto()


def shapes_of_tag(structural_tag: str | None) -> list[CallShape]:
    """The shapes of calls in a structural tag of xgrammar's; none if it allows anything but calls in JSON."""
    if structural_tag is None:
        return []
    form = json.loads(structural_tag).get("format") or {}
    tags = form.get("tags", []) if form.get("type") == "tags_with_separator" else []
    shapes = [shape for tag in tags for shape in _shapes_of(tag)]
    return shapes if len(shapes) == len(tags) else []


def hermes_shapes(names: Iterable[str]) -> list[CallShape]:
    """The shapes of calls in the format that most models have, for functions of these names."""
    return [
        CallShape(name, f'<tool_call>{line_end}{{"name": "{name}"', ', "arguments": ', f"}}{line_end}</tool_call>")
        for name in names
        for line_end in ("\n", "")
    ]


def _shapes_of(tag: Any) -> list[CallShape]:
    begin, end, content = tag.get("begin"), tag.get("end"), tag.get("content", {})
    named = _NAME.search(begin) if isinstance(begin, str) else None
    is_json = content.get("type") == "json_schema" and content.get("style", "json") == "json"
    if named is None or not is_json or not isinstance(end, str):
        return []
    return [CallShape(named[1], begin[: named.end()], begin[named.end() :], end)]


class CallReader:
    """Reads calls from a text that comes in parts."""

    def __init__(self, shapes: list[CallShape], make_id: Callable[[], str]) -> None:
        """Make the reader.

        Args:
            shapes: of the calls that may come.
            make_id: gives each call its id.
        """
        self._shapes = shapes
        self._make_id = make_id
        self._at = _At.OUTSIDE
        self._unread = ""
        self._index = -1
        self._shape: CallShape | None = None
        self._depth = 0
        self._in_text = False
        self._is_escaped = False

    @property
    def is_lost(self) -> bool:
        """Whether something came that is no call."""
        return self._at is _At.LOST

    def feed(self, text: str) -> list[ToolCallDelta]:
        """What a part of the text adds to the calls."""
        self._unread += text
        deltas: list[ToolCallDelta] = []
        while self._unread and self._step(deltas):
            pass
        return deltas

    def _step(self, deltas: list[ToolCallDelta]) -> bool:
        """Read on; False if that takes more text."""
        if self._at is _At.OUTSIDE:
            return self._begin(deltas)
        if self._at is _At.ARGUMENTS:
            return self._arguments(deltas)
        if self._at is _At.LOST or self._shape is None:
            self._unread = ""
            return False
        if self._at is _At.BEFORE_ARGUMENTS:
            return self._fixed(self._shape.rest, _At.ARGUMENTS)
        return self._fixed(self._shape.end, _At.OUTSIDE)

    def _begin(self, deltas: list[ToolCallDelta]) -> bool:
        text = self._unread.lstrip()
        for shape in self._shapes:
            if text.startswith(shape.head):
                self._shape, self._at = shape, _At.BEFORE_ARGUMENTS
                self._unread = text[len(shape.head) :]
                self._index += 1
                deltas.append(ToolCallDelta(index=self._index, id=self._make_id(), name=shape.name, arguments=""))
                return True
        if not any(shape.head.startswith(text) for shape in self._shapes):
            self._at = _At.LOST
        return False

    def _fixed(self, wanted: str, then: _At) -> bool:
        if self._unread.startswith(wanted):
            self._unread = self._unread[len(wanted) :]
            self._at = then
            return True
        if not wanted.startswith(self._unread):
            self._at = _At.LOST
        return False

    def _arguments(self, deltas: list[ToolCallDelta]) -> bool:
        end = self._end_of_value()
        gained = self._unread if end is None else self._unread[:end]
        self._unread = self._unread[len(gained) :]
        if gained:
            deltas.append(ToolCallDelta(index=self._index, id=None, name=None, arguments=gained))
        if end is not None:
            self._at = _At.AFTER_ARGUMENTS
        return end is not None

    def _end_of_value(self) -> int | None:
        """Where the JSON value ends in what has not been read yet, or None if it goes on."""
        for position, sign in enumerate(self._unread):
            if self._in_text:
                if self._is_escaped:
                    self._is_escaped = False
                elif sign == "\\":
                    self._is_escaped = True
                elif sign == '"':
                    self._in_text = False
            elif sign == '"':
                self._in_text = True
            elif sign in "{[":
                self._depth += 1
            elif sign in "}]":
                if self._depth == 0:
                    # Of the call itself: the value was neither object nor array.
                    return position
                self._depth -= 1
                if self._depth == 0:
                    return position + 1
        return None


def whole_calls(text: str, shapes: list[CallShape], make_id: Callable[[], str]) -> list[ToolCallDelta] | None:
    """All calls of a whole text, each in one piece, or None if it is no text of calls.

    Arguments that are complete are written as vLLM's server writes them.
    """
    reader = CallReader(shapes, make_id)
    calls = join_calls(reader.feed(text))
    if reader.is_lost and not calls:
        return None
    return [_tidied(call) for call in calls]


def _tidied(call: ToolCallDelta) -> ToolCallDelta:
    try:
        arguments = json.dumps(json.loads(call.arguments), ensure_ascii=False)
    except (ValueError, RecursionError):
        # Cut off.
        return call
    return ToolCallDelta(index=call.index, id=call.id, name=call.name, arguments=arguments)
