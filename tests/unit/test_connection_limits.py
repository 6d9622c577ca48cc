"""What one client may take of the server, over real sockets."""

import asyncio
import contextlib
import json
import socket
from collections.abc import AsyncGenerator, Callable

import pytest
from uvicorn.server import ServerState

from app.http import connection_limits
from app.http.connection_limits import MAX_HEAD_BYTES, MAX_HEADERS, ConnectionLimits, LimitedProtocol, ServerConfig
from app.http.errors import REFUSAL, refuse

SOON_S = 0.1
LARGE = b"x" * 2**20


class App:
    """Reads the body and answers with its length; `/stream` answers without end, `/slow` when told."""

    def __init__(self) -> None:
        self.running = 0
        self.go_on = asyncio.Event()

    async def __call__(self, scope, receive, send) -> None:
        self.running += 1
        try:
            if refusal := scope["state"].get(REFUSAL):
                await refuse(refusal, scope, send, connection="close")
                return
            await self._answer(scope, receive, send)
        finally:
            self.running -= 1

    async def _answer(self, scope, receive, send) -> None:
        length, more = 0, True
        while more and scope["path"] != "/early":
            message = await receive()
            if message["type"] == "http.disconnect":
                return
            length, more = length + len(message["body"]), message["more_body"]
        if scope["path"] == "/slow":
            await self.go_on.wait()
        if scope["path"] == "/stream":
            await send({"type": "http.response.start", "status": 200, "headers": []})
            gone = asyncio.create_task(self._until_gone(receive))
            while not gone.done():
                await send({"type": "http.response.body", "body": LARGE, "more_body": True})
                await asyncio.sleep(0)
            return
        body = str(length).encode()
        head = [(b"content-length", str(len(body)).encode())]
        await send({"type": "http.response.start", "status": 200, "headers": head})
        await send({"type": "http.response.body", "body": body})

    async def _until_gone(self, receive) -> None:
        while (await receive())["type"] != "http.disconnect":
            pass


class Server:
    def __init__(self, app: App, state: ServerState, port: int) -> None:
        self.app, self.state, self.port = app, state, port

    async def connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        return await asyncio.open_connection("127.0.0.1", self.port)


@contextlib.asynccontextmanager
async def running(**limits) -> AsyncGenerator[Server, None]:
    app = App()
    config = ServerConfig(app, log_config=None, lifespan="off", ws="none")
    config.limits = ConnectionLimits(**limits)
    config.load()
    state = ServerState()
    make = lambda: LimitedProtocol(config=config, server_state=state, app_state={})  # noqa: E731
    server = await asyncio.get_running_loop().create_server(make, "127.0.0.1", 0, backlog=2048)
    try:
        yield Server(app, state, server.sockets[0].getsockname()[1])
    finally:
        server.close()
        for connection in list(state.connections):
            connection.transport.abort()
        await in_time(lambda: not state.connections and not app.running)


@pytest.fixture
async def hurried() -> AsyncGenerator[Server, None]:
    async with running(timeout_s=SOON_S) as server:
        yield server


@pytest.fixture
async def patient() -> AsyncGenerator[Server, None]:
    async with running(timeout_s=0) as server:
        yield server


def head(path: str = "/", method: str = "POST", **headers: str) -> bytes:
    lines = [f"{name.replace('_', '-')}: {value}\r\n" for name, value in {"host": "a", **headers}.items()]
    return f"{method} {path} HTTP/1.1\r\n{''.join(lines)}\r\n".encode()


async def rest(reader: asyncio.StreamReader) -> bytes:
    """All that comes until the server closes, or breaks the connection off."""
    got = b""
    with contextlib.suppress(ConnectionError):
        async with asyncio.timeout(20):
            while piece := await reader.read(2**16):
                got += piece
    return got


async def told(server: Server, *parts: bytes) -> bytes:
    reader, writer = await server.connect()
    answer = asyncio.create_task(rest(reader))
    for part in parts:
        if answer.done():
            break
        with contextlib.suppress(ConnectionError):
            writer.write(part)
            await writer.drain()
        await asyncio.sleep(0.01)
    await answer
    writer.close()
    return answer.result()


async def in_time(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not condition():
            await asyncio.sleep(0.01)


def refusal(answer: bytes) -> tuple[int, dict]:
    first, _, body = answer.partition(b"\r\n\r\n")
    assert b"connection: close" in first.lower()
    assert b"content-type: application/json" in first.lower()
    assert b"content-length: %d\r\n" % len(body) in first.lower() + b"\r\n"
    (error,) = json.loads(body).values()
    assert set(error) == {"message", "type", "param", "code"}
    return int(first.split()[1]), error


# Heads


async def test_a_large_head_is_read(patient):
    answer = await told(patient, head(x="y" * (MAX_HEAD_BYTES - 100), content_length="0", connection="close"))
    assert answer.startswith(b"HTTP/1.1 200")


@pytest.mark.parametrize(
    "more",
    [{"x": "y" * MAX_HEAD_BYTES}, {f"x{number}": "y" for number in range(MAX_HEADERS)}],
    ids=["too large", "too many"],
)
async def test_a_head_that_is_too_large_is_refused(patient, more):
    status, error = refusal(await told(patient, head(**more)))
    assert (status, error["code"]) == (431, "headers_too_large")


async def test_a_path_that_is_too_long_is_refused(patient):
    status, _ = refusal(await told(patient, head("/" + "x" * (MAX_HEAD_BYTES - 100), x="y" * 100)))
    assert status == 431
    # No URL that long can be read at all.
    status, _ = refusal(await told(patient, head("/" + "x" * MAX_HEAD_BYTES)))
    assert status == 400


@pytest.mark.parametrize("begin", [b"GET / HTTP/1.1\r\nx: ", b"GET /", b"\r\n"])
async def test_a_head_without_end_is_refused_before_its_end(patient, begin):
    piece = b"\r\n" * 2**13 if begin == b"\r\n" else b"y" * 2**14
    status, _ = refusal(await told(patient, begin, *[piece] * 8))
    assert status == 431


async def test_marks_around_a_body_without_end_are_refused(patient):
    chunked = head(transfer_encoding="chunked")
    endless = [b"1;" + b"x" * 2**14, *[b"x" * 2**14] * 8]
    status, _ = refusal(await told(patient, chunked, *endless))
    assert status == 431
    trailers = [b"1\r\nx\r\n0\r\nx: ", *[b"y" * 2**14] * 8]
    status, _ = refusal(await told(patient, chunked, *trailers))
    assert status == 431


async def test_a_body_in_chunks_of_one_byte_is_read(patient):
    count = 3 * MAX_HEAD_BYTES // 8
    pieces = [b"1\r\nx\r\n" * (count // 8)] * 8
    answer = await told(patient, head(transfer_encoding="chunked", connection="close"), *pieces, b"0\r\n\r\n")
    assert answer.endswith(b"\r\n\r\n%d" % count)


async def test_requests_that_come_together_are_not_one_large_head(patient):
    body = b"x" * (2 * MAX_HEAD_BYTES)
    one = head(content_length=str(len(body))) + body
    reader, writer = await patient.connect()
    writer.write(one + one[:-1])
    assert b"200 OK" in await reader.readuntil(b"\r\n\r\n")
    writer.write(one[-1:])
    await reader.readuntil(b"200 OK")
    writer.close()


async def test_what_is_no_http_is_refused_in_the_shape_of_all_errors(patient):
    status, error = refusal(await told(patient, b"\x16\x03\x01 hello\r\n\r\n"))
    assert (status, error["type"]) == (400, "invalid_request_error")


# Slow clients


@pytest.mark.parametrize(
    "sent", [b"", b"POST /", head()[:-2], head(content_length="9"), head(content_length="9") + b"x"]
)
async def test_a_client_that_stops_sending_is_told_and_closed(hurried, sent):
    status, error = refusal(await told(hurried, sent))
    assert (status, error["code"]) == (408, "request_timeout")
    await in_time(lambda: not hurried.state.connections and not hurried.app.running)


async def test_a_client_that_sends_byte_by_byte_gains_no_time(hurried):
    reader, writer = await hurried.connect()

    async def drip() -> None:
        with contextlib.suppress(ConnectionError):
            for byte in head(x="y" * 10_000):
                writer.write(bytes([byte]))
                await writer.drain()
                await asyncio.sleep(SOON_S / 8)

    dripping = asyncio.create_task(drip())
    assert refusal(await rest(reader))[0] == 408
    dripping.cancel()
    await asyncio.gather(dripping, return_exceptions=True)
    writer.close()


async def test_empty_lines_between_requests_hold_no_connection(hurried):
    reader, writer = await hurried.connect()
    writer.write(head(content_length="0"))
    await reader.readuntil(b"\r\n\r\n0")
    writer.write(b"\r\n")
    assert refusal(await rest(reader))[0] == 408
    writer.close()


async def test_a_body_that_comes_steadily_may_take_longer(hurried, monkeypatch):
    monkeypatch.setattr(connection_limits, "MIN_BODY_RATE", 1)
    reader, writer = await hurried.connect()
    writer.write(head(content_length="11", connection="close") + b"x" * 10)
    await asyncio.sleep(3 * SOON_S)
    writer.write(b"x")
    assert (await rest(reader)).endswith(b"\r\n\r\n11")
    writer.close()


async def test_a_client_that_waits_for_its_answer_is_not_late(hurried):
    reader, writer = await hurried.connect()
    writer.write(head("/slow", content_length="0", connection="close"))
    await asyncio.sleep(3 * SOON_S)
    hurried.app.go_on.set()
    assert (await rest(reader)).endswith(b"\r\n\r\n0")
    writer.close()


async def test_the_next_request_may_be_begun_while_one_is_answered(hurried):
    reader, writer = await hurried.connect()
    writer.write(head("/slow", content_length="0") + head(content_length="0", connection="close")[:-2])
    await asyncio.sleep(3 * SOON_S)
    hurried.app.go_on.set()
    assert b"200 OK" in await reader.readuntil(b"\r\n\r\n0")
    writer.write(b"\r\n")
    await rest(reader)
    writer.close()


async def test_a_body_that_nobody_waits_for_buys_no_time(hurried):
    reader, writer = await hurried.connect()
    writer.write(head("/early", content_length=str(2**40)))
    assert b"200 OK" in await reader.readuntil(b"\r\n\r\n0")

    async def pour() -> None:
        with contextlib.suppress(ConnectionError):
            while True:
                writer.write(b"x" * 2**14)
                await writer.drain()
                await asyncio.sleep(0.01)

    pouring = asyncio.create_task(pour())
    assert await rest(reader) == b""
    pouring.cancel()
    await asyncio.gather(pouring, return_exceptions=True)
    writer.close()


async def test_a_client_that_does_not_read_its_stream_is_dropped_and_its_work_ends(hurried):
    with socket.socket() as client:
        client.setblocking(False)
        await asyncio.get_running_loop().sock_connect(client, ("127.0.0.1", hurried.port))
        await asyncio.get_running_loop().sock_sendall(client, head("/stream", content_length="0"))
        await in_time(lambda: hurried.app.running == 1)
        await in_time(lambda: hurried.app.running == 0 and not hurried.state.connections)


async def test_a_client_that_reads_its_stream_keeps_it():
    # On a busy machine a client that reads all the time may still pause for some tenths of a second.
    async with running(timeout_s=5 * SOON_S) as server:
        reader, writer = await server.connect()
        writer.write(head("/stream", content_length="0"))
        end = asyncio.get_running_loop().time() + 7 * SOON_S
        while asyncio.get_running_loop().time() < end:
            assert await reader.read(2**20)
        assert server.app.running == 1
        writer.close()


# Many clients


async def test_clients_beyond_the_most_are_told_and_a_place_that_is_left_is_given_again():
    async with running(max_connections=2) as server:
        first, second = await server.connect(), await server.connect()
        await in_time(lambda: len(server.state.connections) == 2)
        status, error = refusal(await told(server, head(content_length="0")))
        assert (status, error["type"], error["code"]) == (503, "service_unavailable_error", "too_many_connections")
        probe = await told(server, head("/health/live", "GET", connection="close"))
        assert probe.startswith(b"HTTP/1.1 200")
        second[1].close()
        await in_time(lambda: len(server.state.connections) == 1)
        answer = await told(server, head(content_length="0", connection="close"))
        assert answer.startswith(b"HTTP/1.1 200")
        first[1].close()


async def test_a_refusal_says_when_to_come_again():
    async with running(max_connections=1) as server:
        _, writer = await server.connect()
        await in_time(lambda: len(server.state.connections) == 1)
        assert b"retry-after: 1\r\n" in (await told(server, head(content_length="0"))).lower()
        writer.close()


async def test_a_crowd_beyond_those_is_closed_unheard(monkeypatch):
    monkeypatch.setattr(connection_limits, "RESERVE", 1)
    async with running(max_connections=1) as server:
        writers = []
        for count in (1, 2):
            writers.append((await server.connect())[1])
            await in_time(lambda count=count: len(server.state.connections) == count)
        assert await told(server) == b""
        for writer in writers:
            writer.close()


async def test_500_clients_at_once_are_answered():
    async with running() as server:
        answers = await asyncio.gather(
            *(told(server, head(content_length="0", connection="close")) for _ in range(500))
        )
    assert {answer.partition(b"\r\n")[0] for answer in answers} == {b"HTTP/1.1 200 OK"}
