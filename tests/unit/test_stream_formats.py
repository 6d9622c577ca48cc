"""How the chunks of a stream are written."""

from typing import Literal

import msgspec
import pytest

from app.http.stream_formats import DONE, OPENAI_STREAM, encode_data, encode_named
from domain.errors import BackendFailedError


class Tagged(msgspec.Struct, tag_field="type", tag="thing.happened"):
    text: str


class Field(msgspec.Struct):
    text: str
    type: Literal["field.happened"] = "field.happened"


class Plain(msgspec.Struct):
    text: str


def test_chunks_are_data_lines():
    assert encode_data([Plain("a\nb"), Plain("c")]) == b'data: {"text":"a\\nb"}\n\ndata: {"text":"c"}\n\n'


def test_events_have_the_name_of_their_type():
    written = bytes(encode_named([Tagged("a\nb"), Field("c"), Tagged("d")]))
    assert written.decode().split("\n\n") == [
        'event: thing.happened\ndata: {"type":"thing.happened","text":"a\\nb"}',
        'event: field.happened\ndata: {"text":"c","type":"field.happened"}',
        'event: thing.happened\ndata: {"type":"thing.happened","text":"d"}',
        "",
    ]


@pytest.mark.parametrize("encode", [encode_data, encode_named])
def test_nothing_is_written_as_nothing(encode):
    assert encode([]) == b""


def test_openais_streams_end_with_a_mark_or_an_error():
    assert OPENAI_STREAM.end == DONE
    last = OPENAI_STREAM.error(BackendFailedError("Broken."), "req_1")
    assert last.startswith(b'data: {"error":')
    assert last.endswith(b"\n\n")
    assert b"req_1" not in last
