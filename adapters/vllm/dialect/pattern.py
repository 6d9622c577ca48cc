"""Rewrites regular expressions of JSON schemas so that what the engine matches with them is always JSON.

xgrammar 0.2.8 matches an expression against the text between the quotation marks of a string. It mostly leaves out
what JSON can't hold there, but not always: an expression that it can't turn into a small automaton, and its own
length limit (`maxLength`), may match raw quotation marks, backslashes and control characters, and such JSON can't
be parsed. A rewritten expression has these characters removed from its classes. One that needs them is refused,
and so is everything that the library would ignore. Nothing else changes: the expression matches the same strings
as before, as far as JSON writes them without escapes.
"""

import re
from collections.abc import Iterable, Iterator

Ranges = list[tuple[int, int]]

LAST = 0x10FFFF
# Quotation mark, backslash and control characters, which JSON writes as escapes; and halves of surrogate pairs.
FORBIDDEN: Ranges = [(0x00, 0x1F), (0x22, 0x22), (0x5C, 0x5C), (0xD800, 0xDFFF)]
DIGITS: Ranges = [(0x30, 0x39)]
WORDS: Ranges = [(0x30, 0x39), (0x41, 0x5A), (0x5F, 0x5F), (0x61, 0x7A)]
SPACES: Ranges = [(0x09, 0x0D), (0x20, 0x20), (0xA0, 0xA0), (0x2028, 0x2029), (0x3000, 0x3000), (0xFEFF, 0xFEFF)]

_CONTROLS = {"n": 0x0A, "r": 0x0D, "t": 0x09, "f": 0x0C, "v": 0x0B, "0": 0x00}
_CLASSES = {"d": DIGITS, "w": WORDS, "s": SPACES}
_HEX = re.compile(r"x([0-9A-Fa-f]{2})|u([0-9A-Fa-f]{4})|u\{([0-9A-Fa-f]{1,6})\}|c([A-Za-z])")
_GROUP = re.compile(r"\((?:\?(?::|P?<[A-Za-z_]\w*>))?+(?!\?)")
_QUANTIFIER = re.compile(r"[*+?]|\{[0-9]+(?:,[0-9]*)?\}")

_NEEDS_ESCAPES = "that needs a quotation mark, a backslash or a control character"

# A character of a string of limited length: any that JSON writes without an escape. The class contains the é at
# its end already; it stands there because the library does not unroll repetitions of such a class into an
# automaton, which would take seconds for a length of a few thousand and a minute for many strings, but counts, as
# it does for its own length limits.
_ANY = r"[ !#-[\]-\ud7ff\ue000-\u{10ffff}é]"
_OF_LENGTH = re.compile(re.escape(f"^{_ANY}") + r"\{[0-9]+,[0-9]*\}\$")
# The largest count that the library accepts.
_MOST = 2**31 - 1


class PatternError(ValueError):
    """The engine would not follow an expression; the message completes the sentence "has a pattern …"."""


def length_pattern(least: int, most: int | None) -> str:
    """The expression that matches strings of `least` to `most` characters; None is for no upper limit."""
    return f"^{_ANY}{{{min(least, _MOST)},{'' if most is None else min(most, _MOST)}}}$"


def rewrite_pattern(pattern: str) -> str:
    """An expression for the same strings, as far as JSON writes them without escapes. Idempotent.

    Raises:
        PatternError: it needs a character that JSON escapes, or something that the engine would ignore.
    """
    if _OF_LENGTH.fullmatch(pattern):
        return pattern
    reader = _Reader(pattern)
    text = "".join(reader.parts())
    # The engine always matches the whole string, and warns about anchors that don't stand at both ends.
    return text if reader.has_choices else f"^{text}$"


class _Reader:
    """Reads an expression once, from left to right."""

    def __init__(self, pattern: str) -> None:
        self._pattern = pattern
        self._at = 0
        # Of the whole and each open group: whether nothing stands before it, and whether a '$' has ended it.
        self._begins = [True]
        self._ends = [False]
        self._begin = True
        self._end = False
        self.has_choices = False
        """Whether a '|' has been read outside all groups."""

    def parts(self) -> Iterator[str]:
        while self._at < len(self._pattern):
            yield self._part()

    def _part(self) -> str:
        sign = self._pattern[self._at]
        if sign in "^$|)":
            self._at += 1
            return self._structure(sign)
        if quantifier := _QUANTIFIER.match(self._pattern, self._at):
            self._require_no_end()
            self._at = quantifier.end()
            return quantifier[0]
        if sign == "(":
            return self._open()
        self._require_no_end()
        self._begin = False
        self._at += 1
        if sign == "[":
            return _written(self._class())
        if sign == ".":
            return _written([(0, LAST)])
        if sign == "\\":
            return self._escape()
        return _literal(ord(sign))

    def _open(self) -> str:
        self._require_no_end()
        group = _GROUP.match(self._pattern, self._at)
        if group is None:
            raise PatternError("that looks ahead or behind, or sets a flag")
        self._at = group.end()
        self._begins.append(self._begin)
        self._ends.append(False)
        return "(?:"

    def _structure(self, sign: str) -> str:
        if sign == "^":
            if not self._begin:
                raise PatternError("with '^' in the middle")
        elif sign == "$":
            self._begin, self._end = False, True
        elif sign == "|":
            self._ends[-1] |= self._end
            self._begin, self._end = self._begins[-1], False
            self.has_choices |= len(self._begins) == 1
        elif len(self._begins) == 1:
            raise PatternError("with a ')' too many")
        else:
            self._begins.pop()
            self._end |= self._ends.pop()
            self._begin = False
        return sign if sign in "|)" else ""

    def _require_no_end(self) -> None:
        if self._end:
            raise PatternError("with '$' in the middle")

    def _escape(self) -> str:
        found = self._escaped()
        return _literal(found) if isinstance(found, int) else _written(found)

    def _escaped(self) -> int | Ranges:
        """The character, or the class, of an escape whose backslash has been read."""
        if self._at == len(self._pattern):
            raise PatternError("that ends with a backslash")
        sign = self._pattern[self._at]
        if coded := _HEX.match(self._pattern, self._at):
            self._at = coded.end()
            return ord(coded[4]) % 32 if coded[4] else min(int(coded[1] or coded[2] or coded[3], 16), LAST)
        self._at += 1
        if sign.lower() in _CLASSES:
            found = _CLASSES[sign.lower()]
            return found if sign.islower() else _without([(0, LAST)], found)
        if sign in _CONTROLS:
            return _CONTROLS[sign]
        if sign.isalnum():
            raise PatternError(f"with '\\{sign}'")
        return ord(sign)

    def _class(self) -> Ranges:
        """The characters of a class whose opening bracket has been read."""
        is_negated = self._pattern.startswith("^", self._at)
        self._at += is_negated
        found: Ranges = []
        while not self._pattern.startswith("]", self._at):
            first = self._member()
            is_range = self._pattern.startswith("-", self._at) and not self._pattern.startswith("-]", self._at)
            if not is_range or not isinstance(first, int):
                found += [(first, first)] if isinstance(first, int) else first
                continue
            self._at += 1
            last = self._member()
            if not isinstance(last, int) or last < first:
                raise PatternError("with a range in the wrong order")
            found.append((first, last))
        self._at += 1
        return _without([(0, LAST)], found) if is_negated else found

    def _member(self) -> int | Ranges:
        if self._at >= len(self._pattern):
            raise PatternError("with a '[' that is not closed")
        sign = self._pattern[self._at]
        self._at += 1
        if sign != "\\":
            return ord(sign)
        if self._pattern.startswith("b", self._at):
            self._at += 1
            return 0x08
        return self._escaped()


def _literal(code: int) -> str:
    if any(first <= code <= last for first, last in FORBIDDEN):
        raise PatternError(_NEEDS_ESCAPES)
    return "\\" * (chr(code) in "^$.*+?()[]{}|/") + chr(code)


def _written(ranges: Ranges) -> str:
    """The class of these characters without those that JSON escapes."""
    kept = _without(ranges, FORBIDDEN)
    if not kept:
        raise PatternError(_NEEDS_ESCAPES)
    return "[" + "".join(_sign(first) + ("-" + _sign(last) if last > first else "") for first, last in kept) + "]"


def _sign(code: int) -> str:
    # In ASCII, escapes only what has a meaning in a class: xgrammar reads a digit behind \x1f as a third one.
    if code < 0x7F:
        return "\\" * (chr(code) in "^-[]") + chr(code)
    return rf"\u{code:04x}" if code < 0x10000 else rf"\u{{{code:x}}}"


def _without(ranges: Iterable[tuple[int, int]], others: Iterable[tuple[int, int]]) -> Ranges:
    """The ranges minus the others, in order and without overlaps."""
    taken = _merged(others)
    kept: Ranges = []
    for first, last in _merged(ranges):
        for other_first, other_last in taken:
            if other_last < first or other_first > last:
                continue
            if other_first > first:
                kept.append((first, other_first - 1))
            first = other_last + 1
        if first <= last:
            kept.append((first, last))
    return kept


def _merged(ranges: Iterable[tuple[int, int]]) -> Ranges:
    merged: Ranges = []
    for first, last in sorted(ranges):
        if merged and first <= merged[-1][1] + 1:
            merged[-1] = (merged[-1][0], max(last, merged[-1][1]))
        else:
            merged.append((first, last))
    return merged
