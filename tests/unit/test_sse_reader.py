import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from adapters.vllm.http.sse import EventReader

LINE_ENDS = [b"\n", b"\r", b"\r\n"]
# Raw U+2028, U+2029, U+0085, form feeds and the like end no line in server-sent events.
NOT_LINE_ENDS = "\u2028\u2029\u0085\x0b\x0c\x1c"
characters = st.characters(codec="utf-8", exclude_characters="\r\n")
data_lines = st.text(st.sampled_from("a: {}" + NOT_LINE_ENDS) | characters, max_size=6)
events = st.lists(data_lines, min_size=1, max_size=3)


def written(all_events: list[list[str]], end: bytes) -> bytes:
    blocks = [b"".join(b"data: " + line.encode() + end for line in lines) + end for lines in all_events]
    # End with a comment: a CR at the very end would not be processed yet.
    return b"".join(blocks) + b": end"


def read(*portions: bytes) -> list[bytes]:
    reader = EventReader()
    return [event for portion in portions for event in reader.feed(portion)]


@pytest.mark.parametrize("end", LINE_ENDS)
@given(all_events=st.lists(events, max_size=3))
@settings(max_examples=20, deadline=None)
@example(all_events=[["a\u2028b"], ["c\u0085", ""], [""]])
def test_events_are_the_same_however_the_bytes_are_split(end, all_events):
    text = written(all_events, end)
    expected = ["\n".join(lines).encode() for lines in all_events]
    assert read(text) == expected
    assert read(*(text[at : at + 1] for at in range(len(text)))) == expected
    for cut in range(len(text)):
        assert read(text[:cut], text[cut:]) == expected


def test_line_ends_may_differ_within_one_stream():
    assert read(b"data: 1\n\r\ndata: 2\r\rdata: 3\r\n\ndata: 4\n\n") == [b"1", b"2", b"3", b"4"]


def test_an_event_is_complete_at_its_empty_line():
    reader = EventReader()
    assert reader.feed(b"data: 1\n") == []
    assert reader.feed(b"\n") == [b"1"]


def test_an_event_without_its_empty_line_is_incomplete():
    assert read(b"data: whole\n\ndata: cut\n") == [b"whole"]


def test_lines_of_one_event_are_joined():
    assert read(b"data: 1\ndata: 2\n\n") == [b"1\n2"]


@pytest.mark.parametrize(
    ("line", "data"),
    [
        (b"data:x", b"x"),
        (b"data: x", b"x"),
        (b"data:  x", b" x"),
        (b"data: a: b", b"a: b"),
        (b"data:", b""),
        (b"data", b""),
    ],
)
def test_one_space_after_the_colon_is_removed(line, data):
    assert read(line + b"\n\n") == [data]


@pytest.mark.parametrize(
    "line", [b": comment", b"event: ping", b"id: 1", b"retry: 10", b"database: x", b"DATA: x"]
)
def test_comments_and_other_fields_are_ignored(line):
    assert read(line + b"\n\n") == []
    assert read(line + b"\ndata: x\n\n") == [b"x"]


def test_empty_lines_are_no_events():
    assert read(b"\n\n\r\n\r\r\n") == []
