"""The lines of output and error files: written when a request ends, and read again after a restart.

Source: OpenAI's schema `BatchRequestOutput`. The last digits of a record's id are the number of its line, so that
a restart knows which lines have been answered.
"""

import contextlib
from typing import NamedTuple

import msgspec

from app.batches.execution import LineAnswer
from domain.batches import BatchError, TokenUsage
from domain.openai.malformed import MALFORMED

OK = 200
EXPIRED = BatchError(
    code="batch_expired",
    message="This request could not be executed before the completion window expired.",
)
CANCELLED = BatchError(
    code="batch_cancelled", message="This request was not executed, because the batch was cancelled."
)
INPUT_DELETED = BatchError(
    code="input_file_not_found",
    message="The input file was deleted, or has expired, before the batch had ended. Upload it again, and create "
    "another batch.",
    param="input_file_id",
)
_LINE_DIGITS = 10
LARGE_BYTES = 2**16
"""Size of an answer in which the usage is looked for before it is read as a whole."""


class _Response(msgspec.Struct, frozen=True):
    status_code: int
    request_id: str
    body: msgspec.Raw


class _Error(msgspec.Struct, frozen=True):
    code: str
    message: str
    param: str | None = None
    line: int | None = None


class _Record(msgspec.Struct, frozen=True, kw_only=True):
    id: str
    custom_id: str | None
    response: _Response | None = None
    error: _Error | None = None


class ReadRecord(NamedTuple):
    """What a restart needs of a record."""

    number: int
    """Of the input file's line."""
    usage: TokenUsage


class Records:
    """Writes and reads the records of one batch."""

    def __init__(self, batch_id: str) -> None:
        self._prefix = f"batch_req_{batch_id.removeprefix('batch_')[:22]}"

    def answer(self, number: int, custom_id: str, answer: LineAnswer) -> bytes:
        """The record of an answer, whose body becomes part of it as it is."""
        response = _Response(answer.status, answer.request_id, msgspec.Raw(_one_line(answer.body)))
        return self._encode(_Record(id=self._id(number), custom_id=custom_id, response=response))

    def error(self, number: int, custom_id: str | None, error: BatchError) -> bytes:
        """The record of a line that has not run."""
        shown = _Error(error.code, error.message, error.param, error.line)
        return self._encode(_Record(id=self._id(number), custom_id=custom_id, error=shown))

    def _id(self, number: int) -> str:
        return f"{self._prefix}{number:0{_LINE_DIGITS}x}"

    def _encode(self, record: _Record) -> bytes:
        return _encode(record) + b"\n"


def read_record(content: bytes) -> ReadRecord | None:
    """Read a record; None if it is not whole."""
    try:
        read = _reader.decode(content)
        number = int(read.id[-_LINE_DIGITS:], 16)
    except (*MALFORMED, ValueError):
        return None
    return ReadRecord(number, TokenUsage() if read.response is None else usage_of(bytes(read.response.body)))


def usage_of(body: bytes) -> TokenUsage:
    """The tokens that an answer reports, in the shape of any endpoint; none if it reports none."""
    usage = _reported(body)
    if usage is None:
        return TokenUsage()
    total = usage.total_tokens or 0
    given = usage.prompt_tokens if usage.prompt_tokens is not None else usage.input_tokens
    inputs, outputs = usage.prompt_tokens_details or usage.input_tokens_details, usage.output_tokens_details
    outputs = usage.completion_tokens_details or outputs
    return TokenUsage(
        input_tokens=total if given is None else given,
        cached_tokens=(inputs.cached_tokens or 0) if inputs is not None else 0,
        output_tokens=usage.completion_tokens or usage.output_tokens or 0,
        reasoning_tokens=(outputs.reasoning_tokens or 0) if outputs is not None else 0,
    )


def _reported(body: bytes) -> "_Usage | None":
    """The usage in an answer."""
    last = body.rfind(b'"usage":') if len(body) > LARGE_BYTES else -1
    # Most answers end with it. Reading megabytes of vectors before it would hold up the event loop. If what
    # follows is no end of an object, it belongs to another one.
    for part in ((b"{" + body[last:],) if last >= 0 else ()) + (body,):
        with contextlib.suppress(*MALFORMED):
            return _bodies.decode(part).usage
    return None


def _one_line(body: bytes) -> bytes:
    """JSON without line ends, which the service's own encoder does not write."""
    return msgspec.json.format(body, indent=-1) if b"\n" in body else body


class _InputDetails(msgspec.Struct):
    cached_tokens: int | None = None


class _OutputDetails(msgspec.Struct):
    reasoning_tokens: int | None = None


class _Usage(msgspec.Struct):
    prompt_tokens: int | None = None
    input_tokens: int | None = None
    completion_tokens: int | None = None
    output_tokens: int | None = None
    total_tokens: int | None = None
    prompt_tokens_details: _InputDetails | None = None
    input_tokens_details: _InputDetails | None = None
    completion_tokens_details: _OutputDetails | None = None
    output_tokens_details: _OutputDetails | None = None


class _Body(msgspec.Struct):
    usage: _Usage | None = None


class _ReadResponse(msgspec.Struct):
    body: msgspec.Raw


class _ReadRecord(msgspec.Struct):
    id: str
    response: _ReadResponse | None = None


_encode = msgspec.json.Encoder().encode
_bodies = msgspec.json.Decoder(_Body)
_reader = msgspec.json.Decoder(_ReadRecord)
