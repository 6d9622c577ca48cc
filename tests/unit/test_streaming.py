import asyncio
import json
from collections.abc import AsyncGenerator

import msgspec
import pytest

from app.errors import ClientDisconnectedError
from app.streaming import DONE, event, stream_response
from domain.errors import BackendFailedError, ContextLengthError
from tests.unit.waiting import until


class Chunk(msgspec.Struct):
    text: str


class Source:
    """Chunks, then perhaps a failure, or silence."""

    def __init__(self, *texts: str, failure: Exception | None = None, silent: bool = False) -> None:
        self._texts = texts
        self._failure = failure
        self._silent = silent
        self.is_open = True

    async def chunks(self) -> AsyncGenerator[Chunk, None]:
        try:
            for text in self._texts:
                yield Chunk(text)
            if self._silent:
                await asyncio.Event().wait()
            if self._failure is not None:
                raise self._failure
        finally:
            self.is_open = False


class Connection:
    """An ASGI server's side of one request."""

    def __init__(self) -> None:
        self.sent: list[dict] = []
        self.left = asyncio.Event()

    async def receive(self) -> dict:
        await self.left.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: dict) -> None:
        self.sent.append(message)

    @property
    def body(self) -> bytes:
        return b"".join(message["body"] for message in self.sent[1:])


async def answer(source: Source) -> Connection:
    connection = Connection()
    response = await stream_response(source.chunks(), connection.receive)
    await response({}, connection.receive, connection.send)
    return connection


def test_an_event_is_one_data_line_and_an_empty_one():
    assert event(b"{}") == b"data: {}\n\n"


@pytest.mark.parametrize("texts", [["a"], ["a", "b", "c"]])
async def test_every_chunk_is_an_event_and_the_end_is_marked(texts):
    expected = b"".join(event(json.dumps({"text": text}, separators=(",", ":")).encode()) for text in texts)
    assert (await answer(Source(*texts))).body == expected + DONE


async def test_each_chunk_is_sent_by_itself_and_the_answer_is_finished():
    sent = (await answer(Source("a", "b"))).sent
    assert [message["type"] for message in sent] == ["http.response.start"] + ["http.response.body"] * 4
    assert [message["more_body"] for message in sent[1:]] == [True, True, True, False]


async def test_a_stream_declares_itself_and_is_not_to_be_held_back():
    start = (await answer(Source("a"))).sent[0]
    headers = dict(start["headers"])
    assert start["status"] == 200
    assert headers[b"content-type"].startswith(b"text/event-stream")
    assert headers[b"cache-control"] == b"no-cache"
    assert headers[b"x-accel-buffering"] == b"no"


async def test_an_empty_stream_has_its_end_mark():
    assert (await answer(Source())).body == DONE


async def test_line_ends_inside_a_text_do_not_break_an_event():
    body = (await answer(Source("a\n\nb\r"))).body
    assert body.startswith(b'data: {"text":"a\\n\\nb\\r"}\n\n')


async def test_a_failure_before_the_first_chunk_keeps_its_status():
    source = Source(failure=ContextLengthError(256, param="prompt"))
    with pytest.raises(ContextLengthError):
        await answer(source)
    assert not source.is_open


async def test_a_failure_after_the_first_chunk_is_an_event_and_no_end_mark_follows():
    connection = await answer(Source("a", failure=BackendFailedError("Broken.")))
    last = connection.body.split(b"\n\n")[-2]
    assert json.loads(last.removeprefix(b"data: "))["error"] == {
        "message": "Broken.",
        "type": "server_error",
        "param": None,
        "code": None,
    }
    assert DONE not in connection.body
    assert connection.sent[-1]["more_body"] is False


async def test_an_unforeseen_failure_is_hidden_from_the_client():
    body = (await answer(Source("a", failure=KeyError("secret")))).body
    assert b'"error"' in body
    assert b"secret" not in body
    assert DONE not in body


async def test_a_client_that_leaves_before_the_first_chunk_ends_the_stream():
    connection, source = Connection(), Source(silent=True)
    connection.left.set()
    with pytest.raises(ClientDisconnectedError):
        await stream_response(source.chunks(), connection.receive)
    assert connection.sent == []


async def test_a_client_that_leaves_in_the_middle_ends_the_stream():
    connection, source = Connection(), Source("a", "b", silent=True)
    response = await stream_response(source.chunks(), connection.receive)
    running = asyncio.create_task(response({}, connection.receive, connection.send))
    await until(lambda: b'"b"' in connection.body)
    assert source.is_open
    connection.left.set()
    await running
    assert not source.is_open
    assert DONE not in connection.body


async def test_a_connection_that_breaks_while_sending_ends_the_stream():
    connection, source = Connection(), Source("a", "b", silent=True)
    response = await stream_response(source.chunks(), connection.receive)

    async def broken_send(_message: dict) -> None:
        raise OSError("broken pipe")

    with pytest.raises(OSError, match="broken pipe"):
        await response({}, connection.receive, broken_send)
    assert not source.is_open
