"""Rewrites regular expressions of JSON schemas so that the engine's matches are always valid JSON.

xgrammar 0.2.8 matches an expression against the text between the quotation marks of a string. It usually excludes
characters that JSON does not allow there, but not always: an expression that it can't turn into a small automaton,
and its own length limit (`maxLength`), may match raw quotation marks, backslashes and control characters, which
make the JSON invalid. Rewriting removes these characters from all classes. Expressions that need them are
rejected, as is everything that the library would ignore. Otherwise the expression matches the same strings as
before, as far as JSON can write them without escapes.
"""

import re
from collections.abc import Iterable, Iterator

Ranges = list[tuple[int, int]]

MAX_CODE_POINT = 0x10FFFF
# Quotation mark, backslash and control characters, which JSON escapes, and surrogates.
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

# A character of a string of limited length: any that JSON writes without an escape. The é at its end is redundant,
# but makes the library count repetitions, as it does for its own length limits, instead of unrolling them into an
# automaton, which would take seconds for a length of a few thousand and a minute for many strings.
_ANY = r"[ !#-[\]-\ud7ff\ue000-\u{10ffff}é]"
_OF_LENGTH = re.compile(re.escape(f"^{_ANY}") + r"\{[0-9]+,[0-9]*\}\$")
# The largest repetition count that the library accepts.
_MAX_COUNT = 2**31 - 1


class PatternError(ValueError):
    """The engine does not support an expression; the message completes the sentence "has a pattern …"."""


def length_pattern(minimum: int, maximum: int | None) -> str:
    """An expression for strings of `minimum` to `maximum` characters; None means no upper limit."""
    return f"^{_ANY}{{{min(minimum, _MAX_COUNT)},{'' if maximum is None else min(maximum, _MAX_COUNT)}}}$"


def rewrite_pattern(pattern: str) -> str:
    """Rewrite an expression to match the same strings, as far as JSON writes them without escapes. Idempotent.

    Raises:
        PatternError: it needs a character that JSON escapes, or syntax that the engine would ignore.
    """
    if _OF_LENGTH.fullmatch(pattern):
        return pattern
    reader = _Reader(pattern)
    text = "".join(reader.tokens())
    # The engine always matches the whole string, and warns about anchors that are not at both ends.
    return text if reader.has_choices else f"^{text}$"


class _Reader:
    """Parses an expression in one pass."""

    def __init__(self, pattern: str) -> None:
        self._pattern = pattern
        self._position = 0
        # For the whole expression and each open group: whether it is at the start, and whether a '$' has ended it.
        self._begins = [True]
        self._ends = [False]
        self._begin = True
        self._end = False
        self.has_choices = False
        """Whether there is a '|' outside all groups."""

    def tokens(self) -> Iterator[str]:
        while self._position < len(self._pattern):
            yield self._next_token()

    def _next_token(self) -> str:
        character = self._pattern[self._position]
        if character in "^$|)":
            self._position += 1
            return self._structure(character)
        if quantifier := _QUANTIFIER.match(self._pattern, self._position):
            self._check_no_anchor_before()
            self._position = quantifier.end()
            return quantifier[0]
        if character == "(":
            return self._open()
        self._check_no_anchor_before()
        self._begin = False
        self._position += 1
        if character == "[":
            return _character_class(self._class())
        if character == ".":
            return _character_class([(0, MAX_CODE_POINT)])
        if character == "\\":
            return self._escape()
        return _literal(ord(character))

    def _open(self) -> str:
        self._check_no_anchor_before()
        group = _GROUP.match(self._pattern, self._position)
        if group is None:
            raise PatternError("with a lookaround or an inline flag")
        self._position = group.end()
        self._begins.append(self._begin)
        self._ends.append(False)
        return "(?:"

    def _structure(self, character: str) -> str:
        if character == "^":
            if not self._begin:
                raise PatternError("with '^' in the middle")
        elif character == "$":
            self._begin, self._end = False, True
        elif character == "|":
            self._ends[-1] |= self._end
            self._begin, self._end = self._begins[-1], False
            self.has_choices |= len(self._begins) == 1
        elif len(self._begins) == 1:
            raise PatternError("with an unmatched ')'")
        else:
            self._begins.pop()
            self._end |= self._ends.pop()
            self._begin = False
        return character if character in "|)" else ""

    def _check_no_anchor_before(self) -> None:
        if self._end:
            raise PatternError("with '$' in the middle")

    def _escape(self) -> str:
        found = self._escaped()
        return _literal(found) if isinstance(found, int) else _character_class(found)

    def _escaped(self) -> int | Ranges:
        """The character or class of an escape, after its backslash."""
        if self._position == len(self._pattern):
            raise PatternError("that ends with a backslash")
        character = self._pattern[self._position]
        if coded := _HEX.match(self._pattern, self._position):
            self._position = coded.end()
            digits = coded[1] or coded[2] or coded[3]
            return ord(coded[4]) % 32 if coded[4] else min(int(digits, 16), MAX_CODE_POINT)
        self._position += 1
        if character.lower() in _CLASSES:
            found = _CLASSES[character.lower()]
            return found if character.islower() else _without([(0, MAX_CODE_POINT)], found)
        if character in _CONTROLS:
            return _CONTROLS[character]
        if character.isalnum():
            raise PatternError(f"with '\\{character}'")
        return ord(character)

    def _class(self) -> Ranges:
        """The characters of a class, after its opening bracket."""
        is_negated = self._pattern.startswith("^", self._position)
        self._position += is_negated
        found: Ranges = []
        while not self._pattern.startswith("]", self._position):
            first = self._member()
            rest = self._pattern[self._position : self._position + 2]
            is_range = rest.startswith("-") and rest != "-]"
            if not is_range or not isinstance(first, int):
                found += [(first, first)] if isinstance(first, int) else first
                continue
            self._position += 1
            last = self._member()
            if not isinstance(last, int) or last < first:
                raise PatternError("with a range in the wrong order")
            found.append((first, last))
        self._position += 1
        return _without([(0, MAX_CODE_POINT)], found) if is_negated else found

    def _member(self) -> int | Ranges:
        if self._position >= len(self._pattern):
            raise PatternError("with a '[' that is not closed")
        character = self._pattern[self._position]
        self._position += 1
        if character != "\\":
            return ord(character)
        if self._pattern.startswith("b", self._position):
            self._position += 1
            return 0x08
        return self._escaped()


def _literal(code: int) -> str:
    if any(first <= code <= last for first, last in FORBIDDEN):
        raise PatternError(_NEEDS_ESCAPES)
    return "\\" * (chr(code) in "^$.*+?()[]{}|/") + chr(code)


def _character_class(ranges: Ranges) -> str:
    """The class of these characters, minus those that JSON escapes."""
    kept = _without(ranges, FORBIDDEN)
    if not kept:
        raise PatternError(_NEEDS_ESCAPES)
    return "[" + "".join(_class_range(first, last) for first, last in kept) + "]"


def _class_range(first: int, last: int) -> str:
    return _class_character(first) + ("-" + _class_character(last) if last > first else "")


def _class_character(code: int) -> str:
    # In ASCII, escape only what has a meaning in a class: xgrammar reads a digit after \x1f as a third hex digit.
    if code < 0x7F:
        return "\\" * (chr(code) in "^-[]") + chr(code)
    return rf"\u{code:04x}" if code < 0x10000 else rf"\u{{{code:x}}}"


def _without(ranges: Iterable[tuple[int, int]], others: Iterable[tuple[int, int]]) -> Ranges:
    """The ranges minus others, sorted and without overlaps."""
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
