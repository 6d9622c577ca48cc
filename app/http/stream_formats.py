"""How streams are written: as OpenAI's chunks, or as events with names.

Sources: OpenAI's streaming format is `data: {…}` for each chunk and `data: [DONE]` at the end; its Responses API
and Anthropic's Messages API write `event: {type}` before the data, and end with an event of their own.
"""

from collections.abc import Callable, Sequence
from functools import cache
from typing import Any, cast

import msgspec

from app.http.errors import error_body
from domain.errors import InferenceError

DONE = b"data: [DONE]\n\n"
# A line that begins with a colon is a comment, which clients ignore.
KEEP_ALIVE = b": keep-alive\n\n"

_encode_into = msgspec.json.Encoder().encode_into


class StreamFormat(msgspec.Struct, frozen=True, kw_only=True):
    """The parts of a stream that differ from one API to another."""

    encode: Callable[[Sequence[Any]], bytes]
    """Encodes the chunks of one write; may return any bytes-like object."""
    error: Callable[[InferenceError, str], bytes]
    """The last bytes of a stream that fails after its first byte, from the error and the id of the request."""
    keep_alive: bytes = KEEP_ALIVE
    """Written while there are no chunks."""
    end: bytes = b""
    """The end mark, after the last chunks of a complete stream."""


def encode_data(chunks: Sequence[Any]) -> bytes:
    """Encode chunks as events without a name.

    JSON contains no raw line breaks, so one data line per chunk is enough.
    """
    buffer = bytearray()
    for chunk in chunks:
        buffer += b"data: "
        _encode_into(chunk, buffer, -1)
        buffer += b"\n\n"
    # Servers accept any bytes-like object; this saves a copy per token.
    return cast(bytes, buffer)


def encode_named(chunks: Sequence[Any]) -> bytes:
    """Encode chunks as events whose name is their `type`: the struct's tag, or the default of such a field."""
    buffer = bytearray()
    for chunk in chunks:
        buffer += _head(chunk.__class__)
        _encode_into(chunk, buffer, -1)
        buffer += b"\n\n"
    return cast(bytes, buffer)


@cache
def _head(kind: type[msgspec.Struct]) -> bytes:
    """What precedes the JSON of an event of this type."""
    name = kind.__struct_config__.tag
    if name is None:
        (name,) = (field.default for field in msgspec.structs.fields(kind) if field.name == "type")
    return f"event: {name}\ndata: ".encode()


def _openai_error(error: InferenceError, _request_id: str) -> bytes:
    # openai-python raises on it, and no end mark follows.
    return b"data: %b\n\n" % error_body(error)


OPENAI_STREAM = StreamFormat(encode=encode_data, error=_openai_error, end=DONE)
"""Of chat completions and completions."""
