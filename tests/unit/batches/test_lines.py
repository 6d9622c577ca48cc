"""The lines of a file, found in pieces of any length."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.batches.lines import Line, LineSplitter

LIMIT = 20
BOM = b"\xef\xbb\xbf"


def lines_of(*pieces: bytes, max_bytes: int = LIMIT) -> list[Line]:
    splitter = LineSplitter(max_bytes)
    return [*(line for piece in pieces for line in splitter.feed(piece)), *splitter.end()]


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"", []),
        (b"a\nb\n", [(1, b"a"), (2, b"b")]),
        (b"a\nb", [(1, b"a"), (2, b"b")]),
        (b"a\r\nb\r\n", [(1, b"a"), (2, b"b")]),
        (BOM + b"a\n" + BOM + b"b\n", [(1, b"a"), (2, BOM + b"b")]),
        (BOM, []),
        (b"a\n\n \t\n\r\nb\n\n\n", [(1, b"a"), (5, b"b")]),
        (b"x" * LIMIT + b"\nb\n", [(1, b"x" * LIMIT), (2, b"b")]),
        (BOM + b"x" * LIMIT + b"\r\n", [(1, b"x" * LIMIT)]),
        (b"x" * (LIMIT + 1) + b"\nb\n", [(1, None), (2, b"b")]),
        (b"a\n" + b"x" * 1000, [(1, b"a"), (2, None)]),
        (b" " * 1000 + b"\nb", [(1, None), (2, b"b")]),
    ],
)
def test_lines_end_with_a_line_feed_and_keep_their_numbers(content: bytes, expected: list):
    assert lines_of(content) == expected
    assert lines_of(*(content[i : i + 1] for i in range(len(content)))) == expected


@settings(deadline=None)
@given(st.lists(st.binary(max_size=50), max_size=20))
def test_pieces_make_no_difference(pieces: list[bytes]):
    assert lines_of(*pieces) == lines_of(b"".join(pieces))


def test_a_long_line_is_not_held_in_memory():
    splitter = LineSplitter(LIMIT)
    for _ in range(1000):
        assert splitter.feed(b"x" * 1000) == []
        assert sum(map(len, splitter._held)) <= LIMIT + 1000
    assert splitter.feed(b"\nnext\n") == [Line(1, None), Line(2, b"next")]
