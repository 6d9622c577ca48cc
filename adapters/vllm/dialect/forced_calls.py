"""Parses forced tool calls from text that consists of nothing but such calls.

vLLM's parsers search for the markup around a call anywhere in the text. A call with such markup in an argument is
lost, and one that `max_tokens` cuts off is returned as text. The grammar of a forced call is unambiguous: a fixed
start with the name, one JSON value, a fixed end.
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
    """The fixed text around the arguments of a call."""

    name: str
    head: str
    """Text up to and including the name."""
    rest: str
    """Text between the name and the arguments."""
    end: str


class _State(enum.Enum):
    OUTSIDE = enum.auto()
    BEFORE_ARGUMENTS = enum.auto()
    ARGUMENTS = enum.auto()
    AFTER_ARGUMENTS = enum.auto()
    FAILED = enum.auto()


def shapes_from_tag(structural_tag: str | None) -> list[CallShape]:
    """The call shapes in an xgrammar structural tag; empty if it allows anything but calls in JSON."""
    if structural_tag is None:
        return []
    form = json.loads(structural_tag).get("format") or {}
    tags = form.get("tags", []) if form.get("type") == "tags_with_separator" else []
    shapes = [shape for tag in tags for shape in _shapes_from(tag)]
    return shapes if len(shapes) == len(tags) else []


def hermes_shapes(names: Iterable[str]) -> list[CallShape]:
    """The call shapes of the Hermes format, which most models use, for these function names."""
    return [
        CallShape(name, f'<tool_call>{line_end}{{"name": "{name}"', ', "arguments": ', f"}}{line_end}</tool_call>")
        for name in names
        for line_end in ("\n", "")
    ]


def _shapes_from(tag: Any) -> list[CallShape]:
    begin, end, content = tag.get("begin"), tag.get("end"), tag.get("content", {})
    named = _NAME.search(begin) if isinstance(begin, str) else None
    is_json = content.get("type") == "json_schema" and content.get("style", "json") == "json"
    if named is None or not is_json or not isinstance(end, str):
        return []
    return [CallShape(named[1], begin[: named.end()], begin[named.end() :], end)]


class CallReader:
    """Parses calls incrementally."""

    def __init__(self, shapes: list[CallShape], make_id: Callable[[], str]) -> None:
        """Create the reader.

        Args:
            shapes: the shapes of allowed calls.
            make_id: generates the id of each call.
        """
        self._shapes = shapes
        self._make_id = make_id
        self._state = _State.OUTSIDE
        self._unread = ""
        self._index = -1
        self._shape: CallShape | None = None
        self._depth = 0
        self._in_string = False
        self._is_escaped = False

    @property
    def has_failed(self) -> bool:
        """Whether the text contains anything that is not a call."""
        return self._state is _State.FAILED

    def feed(self, text: str) -> list[ToolCallDelta]:
        """The deltas of the calls for the next part of the text."""
        self._unread += text
        deltas: list[ToolCallDelta] = []
        while self._unread and self._step(deltas):
            pass
        return deltas

    def _step(self, deltas: list[ToolCallDelta]) -> bool:
        """Take one step; False if it needs more text."""
        if self._state is _State.OUTSIDE:
            return self._start_call(deltas)
        if self._state is _State.ARGUMENTS:
            return self._arguments(deltas)
        if self._state is _State.FAILED or self._shape is None:
            self._unread = ""
            return False
        if self._state is _State.BEFORE_ARGUMENTS:
            return self._expect(self._shape.rest, _State.ARGUMENTS)
        return self._expect(self._shape.end, _State.OUTSIDE)

    def _start_call(self, deltas: list[ToolCallDelta]) -> bool:
        text = self._unread.lstrip()
        for shape in self._shapes:
            if text.startswith(shape.head):
                self._shape, self._state = shape, _State.BEFORE_ARGUMENTS
                self._unread = text[len(shape.head) :]
                self._index += 1
                deltas.append(ToolCallDelta(index=self._index, id=self._make_id(), name=shape.name, arguments=""))
                return True
        if not any(shape.head.startswith(text) for shape in self._shapes):
            self._state = _State.FAILED
        return False

    def _expect(self, wanted: str, then: _State) -> bool:
        if self._unread.startswith(wanted):
            self._unread = self._unread[len(wanted) :]
            self._state = then
            return True
        if not wanted.startswith(self._unread):
            self._state = _State.FAILED
        return False

    def _arguments(self, deltas: list[ToolCallDelta]) -> bool:
        end = self._value_end()
        new = self._unread if end is None else self._unread[:end]
        self._unread = self._unread[len(new) :]
        if new:
            deltas.append(ToolCallDelta(index=self._index, id=None, name=None, arguments=new))
        if end is not None:
            self._state = _State.AFTER_ARGUMENTS
        return end is not None

    def _value_end(self) -> int | None:
        """The end of the JSON value in the unread text, or None if it is incomplete."""
        for position, character in enumerate(self._unread):
            if self._in_string:
                if self._is_escaped:
                    self._is_escaped = False
                elif character == "\\":
                    self._is_escaped = True
                elif character == '"':
                    self._in_string = False
            elif character == '"':
                self._in_string = True
            elif character in "{[":
                self._depth += 1
            elif character in "}]":
                if self._depth == 0:
                    # Belongs to the call: the value was neither an object nor an array.
                    return position
                self._depth -= 1
                if self._depth == 0:
                    return position + 1
        return None


def parse_calls(text: str, shapes: list[CallShape], make_id: Callable[[], str]) -> list[ToolCallDelta] | None:
    """Parse all calls of a complete text; None if the text does not consist of calls.

    Complete arguments are formatted as by vLLM's server.
    """
    reader = CallReader(shapes, make_id)
    calls = join_calls(reader.feed(text))
    if reader.has_failed and not calls:
        return None
    return [_normalize_arguments(call) for call in calls]


def _normalize_arguments(call: ToolCallDelta) -> ToolCallDelta:
    try:
        arguments = json.dumps(json.loads(call.arguments), ensure_ascii=False)
    except (ValueError, RecursionError):
        # Truncated by `max_tokens`.
        return call
    return ToolCallDelta(index=call.index, id=call.id, name=call.name, arguments=arguments)
