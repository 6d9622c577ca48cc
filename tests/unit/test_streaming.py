import asyncio
import contextlib
import gc
import json
from collections.abc import AsyncGenerator
from types import SimpleNamespace

import msgspec
import pytest

import app.http.streaming
from app.http.rate_limits import Reservation
from app.http.stream_formats import DONE, KEEP_ALIVE
from app.http.streaming import StreamedAnswer
from domain.errors import BackendFailedError, ContextLengthError
from domain.openai.common import UsageCounter
from domain.streams import open_stream
from tests.unit.waiting import now, run_instantly, until

KEEP_ALIVE_S = 15.0


@pytest.fixture(autouse=True)
def _one_clock(monkeypatch):
    """Use the loop's clock as the time, which some tests simulate."""
    monkeypatch.setattr(app.http.streaming, "time", SimpleNamespace(monotonic=now), raising=False)


class Chunk(msgspec.Struct):
    text: str


class Source:
    """Yields chunks, then fails, waits or ends."""

    def __init__(self, *texts: str, failure: Exception | None = None, silent: bool = False) -> None:
        self._texts = texts
        self._failure = failure
        self._silent = silent
        self.is_open = True

    async def chunks(self) -> AsyncGenerator[list[Chunk], None]:
        try:
            for text in self._texts:
                yield [Chunk(text)]
            if self._silent:
                await asyncio.Event().wait()
            if self._failure is not None:
                raise self._failure
        finally:
            self.is_open = False


class Connection:
    """The ASGI server's side of one request."""

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


class Presenter:
    """A presenter for items that are lists of chunks."""

    def __init__(self) -> None:
        self.usage = UsageCounter()

    def last_chunks(self) -> list[Chunk]:
        return []


def response_of(source, keep_alive_s: float = KEEP_ALIVE_S) -> StreamedAnswer:
    return StreamedAnswer(
        open_stream(source.chunks()),
        lambda chunks: chunks,
        Presenter(),
        reservation=Reservation(None, 0),
        keep_alive_s=keep_alive_s,
    )


async def answer(source: Source, keep_alive_s: float = KEEP_ALIVE_S) -> Connection:
    connection = Connection()
    await response_of(source, keep_alive_s)({}, connection.receive, connection.send)
    return connection


def event(data: bytes) -> bytes:
    """An event: a data line and an empty line."""
    return b"data: %b\n\n" % data


@pytest.mark.parametrize("texts", [["a"], ["a", "b", "c"]])
async def test_every_chunk_is_an_event_and_the_end_is_marked(texts):
    expected = b"".join(event(json.dumps({"text": text}, separators=(",", ":")).encode()) for text in texts)
    assert (await answer(Source(*texts))).body == expected + DONE


async def test_each_chunk_is_sent_by_itself_and_the_answer_is_finished():
    sent = (await answer(Source("a", "b"))).sent
    assert [message["type"] for message in sent] == ["http.response.start"] + ["http.response.body"] * 3
    assert [message["more_body"] for message in sent[1:]] == [True, True, False]


async def test_a_stream_has_headers_against_buffering():
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


async def test_an_unexpected_failure_is_hidden_from_the_client():
    body = (await answer(Source("a", failure=KeyError("secret")))).body
    assert b'"error"' in body
    assert b"secret" not in body
    assert DONE not in body


async def test_a_disconnect_before_the_first_chunk_ends_the_stream():
    connection, source = Connection(), Source(silent=True)
    connection.left.set()
    await response_of(source)({}, connection.receive, connection.send)
    assert connection.sent == []
    assert not source.is_open


async def test_a_disconnect_during_the_stream_ends_it():
    connection, source = Connection(), Source("a", "b", silent=True)
    response = response_of(source)
    running = asyncio.create_task(response({}, connection.receive, connection.send))
    await until(lambda: b'"b"' in connection.body)
    assert source.is_open
    connection.left.set()
    await running
    assert not source.is_open
    assert DONE not in connection.body


async def test_a_connection_that_breaks_while_sending_ends_the_stream():
    connection, source = Connection(), Source("a", "b", silent=True)
    response = response_of(source)

    async def broken_send(_message: dict) -> None:
        raise OSError("broken pipe")

    with pytest.raises(OSError, match="broken pipe"):
        await response({}, connection.receive, broken_send)
    assert not source.is_open


# Comments while the stream is idle, with a simulated clock.


class Slow:
    """Yields chunks, each after a wait."""

    def __init__(self, *waits_s: float, failure: Exception | None = None) -> None:
        self._waits_s = waits_s
        self._failure = failure
        self.is_open = True

    async def chunks(self) -> AsyncGenerator[Chunk, None]:
        try:
            for position, wait_s in enumerate(self._waits_s):
                await asyncio.sleep(wait_s)
                if self._failure is not None and position == len(self._waits_s) - 1:
                    raise self._failure
                yield [Chunk(str(position))]
        finally:
            self.is_open = False


class Clock(Connection):
    """Records when each part was sent."""

    def __init__(self) -> None:
        super().__init__()
        self.times: list[float] = []

    async def send(self, message: dict) -> None:
        self.times.append(now())
        await super().send(message)

    @property
    def comments_at(self) -> list[float]:
        parts = zip(self.sent, self.times, strict=True)
        return [time for message, time in parts if message.get("body") == KEEP_ALIVE]

    def without_comments(self) -> bytes:
        return b"".join(message["body"] for message in self.sent[1:] if message["body"] != KEEP_ALIVE)


def slowly(source, keep_alive_s: float, *, leave_at: float | None = None) -> Clock:
    async def run() -> Clock:
        connection = Clock()
        if leave_at is not None:
            asyncio.get_running_loop().call_later(leave_at, connection.left.set)
        await response_of(source, keep_alive_s)({}, connection.receive, connection.send)
        # Cancelled tasks end in the next iteration of the loop.
        await asyncio.sleep(0)
        assert asyncio.all_tasks() == {asyncio.current_task()}, "no task is left behind"
        return connection

    return run_instantly(run())


def texts(count: int) -> bytes:
    return b"".join(event(b'{"text":"%d"}' % number) for number in range(count))


def test_comments_are_ignored_by_event_stream_clients():
    assert KEEP_ALIVE.startswith(b":")
    assert KEEP_ALIVE.endswith(b"\n\n")
    assert b"data" not in KEEP_ALIVE


@pytest.mark.parametrize(
    ("waits_s", "comments_at"),
    [
        ((0, 0), []),
        ((9, 9, 9), []),
        ((25,), [10, 20]),
        ((0, 35), [10, 20, 30]),
        ((5, 12, 9, 21), [15, 36, 46]),
    ],
    ids=str,
)
def test_comments_are_sent_only_while_the_stream_is_idle(waits_s, comments_at):
    connection = slowly(Slow(*waits_s), 10)
    assert connection.comments_at == pytest.approx(comments_at)
    assert connection.without_comments() == texts(len(waits_s)) + DONE


def test_without_keep_alive_there_are_no_comments():
    connection = slowly(Slow(1000, 1000), 0)
    assert connection.comments_at == []
    assert connection.body == texts(2) + DONE


def test_an_answer_begins_after_the_idle_time():
    connection = slowly(Slow(25), 10)
    assert connection.sent[0]["status"] == 200
    assert connection.times[:2] == pytest.approx([10, 10])


def test_an_answer_whose_first_chunk_comes_in_time_begins_with_it():
    connection = slowly(Slow(9), 10)
    assert connection.times[:2] == pytest.approx([9, 9])
    assert connection.sent[1]["body"] == texts(1)


def test_without_keep_alive_the_first_chunk_is_awaited():
    source = Slow(1000, failure=ContextLengthError(256, param="prompt"))
    with pytest.raises(ContextLengthError):
        slowly(source, 0)
    assert not source.is_open


def test_a_failure_before_the_first_chunk_but_after_a_comment_is_an_event():
    source = Slow(25, failure=BackendFailedError("Broken."))
    connection = slowly(source, 10)
    assert json.loads(connection.without_comments().removeprefix(b"data: "))["error"]["message"] == "Broken."
    assert DONE not in connection.body
    assert not source.is_open


def test_a_failure_after_comments_is_the_last_event():
    connection = slowly(Slow(0, 25, failure=BackendFailedError("Broken.")), 10)
    assert connection.comments_at == pytest.approx([10, 20])
    assert b"Broken." in connection.body.split(b"\n\n")[-2]


def test_an_empty_stream_that_takes_long_has_its_end_mark():
    class Empty(Slow):
        async def chunks(self) -> AsyncGenerator[Chunk, None]:
            await asyncio.sleep(25)
            return
            yield

    assert slowly(Empty(), 10).without_comments() == DONE


@pytest.mark.parametrize("keep_alive_s", [0, 10])
@pytest.mark.parametrize("leave_at", [5, 12])
def test_a_disconnect_while_idle_ends_the_stream(keep_alive_s, leave_at):
    source = Slow(100)
    connection = slowly(source, keep_alive_s, leave_at=leave_at)
    assert connection.without_comments() == b""
    assert bool(connection.sent) == (0 < keep_alive_s < leave_at)
    assert not source.is_open


def test_nothing_is_sent_after_the_end():
    connection = slowly(Slow(0, 25), 10)
    assert connection.sent[-1] == {"type": "http.response.body", "body": DONE, "more_body": False}
    assert sum(not message.get("more_body", True) for message in connection.sent) == 1


def test_a_failed_comment_does_not_end_the_answer():
    class Broken(Clock):
        async def send(self, message: dict) -> None:
            if message.get("body") == KEEP_ALIVE:
                raise OSError("broken pipe")
            await super().send(message)

    lost: list[dict] = []
    connections: list[Clock] = []

    async def run() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _loop, context: lost.append(context))
        connection = Broken()
        connections.append(connection)
        await response_of(Slow(0, 25), 10)({}, connection.receive, connection.send)

    run_instantly(run())
    gc.collect()
    assert lost == []
    assert connections[0].body == texts(2) + DONE


def test_a_head_that_was_interrupted_is_sent_before_the_end():
    class Stuck(Clock):
        async def send(self, message: dict) -> None:
            if not self.sent and message["type"] == "http.response.start" and now() < 30:
                await asyncio.sleep(1000)
            await super().send(message)

    async def run() -> Stuck:
        connection, source = Stuck(), Slow(0, 0)

        @contextlib.asynccontextmanager
        async def limited():
            async with open_stream(source.chunks()) as chunks:
                try:
                    async with asyncio.timeout(30):
                        yield chunks
                except TimeoutError:
                    raise BackendFailedError("Too late.") from None

        response = StreamedAnswer(
            limited(), lambda chunks: chunks, Presenter(), reservation=Reservation(None, 0), keep_alive_s=0
        )
        await response({}, connection.receive, connection.send)
        return connection

    sent = run_instantly(run()).sent
    assert [message["type"] for message in sent] == ["http.response.start", "http.response.body"]
    assert b"Too late." in sent[1]["body"]


def test_a_blocked_connection_has_one_comment_waiting_and_no_more():
    class Blocked(Clock):
        async def send(self, message: dict) -> None:
            if now() < 100:
                await asyncio.sleep(100 - now())
            await super().send(message)

    async def run() -> Blocked:
        connection = Blocked()
        await response_of(Slow(105), 10)({}, connection.receive, connection.send)
        return connection

    assert run_instantly(run()).comments_at == [100.0]
