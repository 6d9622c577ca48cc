"""The transport with servers on loopback whose responses are scripted byte by byte."""

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Awaitable, Callable

import httpx
import pytest

from adapters.vllm.http.transport import MAX_BUFFERED_BYTES, NoResponseError, PooledTransport

Script = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
OK = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"


class Server:
    """Runs a script for each connection."""

    def __init__(self, script: Script) -> None:
        self._script = script
        self.connections = 0
        self.closed = 0
        """Connections that the client has closed."""

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            await self._script(reader, writer)
            if await reader.read() == b"":
                self.closed += 1
        except (ConnectionError, asyncio.IncompleteReadError):
            self.closed += 1
        finally:
            writer.close()


@contextlib.asynccontextmanager
async def serving(script: Script) -> AsyncGenerator[tuple[Server, str], None]:
    handler = Server(script)
    server = await asyncio.start_server(handler, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    try:
        yield handler, f"http://127.0.0.1:{port}"
    finally:
        server.close()


async def head_of(reader: asyncio.StreamReader) -> bytes:
    return await reader.readuntil(b"\r\n\r\n")


def always(answer: bytes, *, requests: int = 100) -> Script:
    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for _ in range(requests):
            await head_of(reader)
            writer.write(answer)
        writer.close()

    return script


@pytest.fixture
async def client() -> AsyncGenerator[httpx.AsyncClient, None]:
    async with httpx.AsyncClient(transport=PooledTransport(), timeout=2.0) as client:
        yield client


async def test_a_request_is_sent_completely(client):
    seen = b""

    async def script(reader, writer):
        nonlocal seen
        seen = await head_of(reader)
        seen += await reader.readexactly(4)
        writer.write(OK)

    async with serving(script) as (_, url):
        response = await client.post(f"{url}/a/b?c=d", content=b"body", headers={"x-own": "1"})
    assert (response.status_code, response.text) == (200, "ok")
    head, _, body = seen.partition(b"\r\n\r\n")
    lines = head.lower().split(b"\r\n")
    assert lines[0] == b"post /a/b?c=d http/1.1"
    assert {b"x-own: 1", b"content-length: 4"} <= set(lines)
    assert body == b"body"


async def test_connections_are_reused(client):
    async with serving(always(OK)) as (server, url):
        for _ in range(5):
            assert (await client.get(url)).text == "ok"
        assert server.connections == 1
        await asyncio.gather(*(client.get(url) for _ in range(3)))
        assert server.connections == 3


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 2\r\n\r\nok",
        b"HTTP/1.0 200 OK\r\ncontent-length: 2\r\n\r\nok",
    ],
)
@pytest.mark.parametrize("requests", [1, 100], ids=["closed", "not closed yet"])
async def test_a_connection_that_the_server_closes_is_not_reused(client, answer, requests):
    async with serving(always(answer, requests=requests)) as (server, url):
        for _ in range(2):
            assert (await client.get(url)).text == "ok"
        assert server.connections == 2


async def test_a_request_on_a_closed_idle_connection_is_repeated(client):
    async with serving(always(OK, requests=1)) as (server, url):
        for _ in range(3):
            assert (await client.get(url)).text == "ok"
        assert server.connections == 3


@pytest.mark.parametrize(
    "body",
    [
        b"transfer-encoding: chunked\r\n\r\n3\r\nabc\r\n5\r\ndefgh\r\n0\r\n\r\n",
        b"content-length: 8\r\n\r\nabcdefgh",
        b"\r\nabcdefgh",
    ],
)
@pytest.mark.parametrize("step", [1, 7, 1000])
async def test_a_body_is_complete_however_it_is_split(client, body, step):
    answer = b"HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\n" + body

    async def script(reader, writer):
        await head_of(reader)
        for start in range(0, len(answer), step):
            writer.write(answer[start : start + step])
            await writer.drain()
            await asyncio.sleep(0)
        writer.close()

    async with serving(script) as (_, url):
        response = await client.get(url)
    assert response.headers["content-type"] == "text/plain"
    assert response.content == b"abcdefgh"


async def test_chunks_arrive_as_soon_as_they_are_sent(client):
    go_on = asyncio.Event()

    async def script(reader, writer):
        await head_of(reader)
        writer.write(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\none\r\n")
        await go_on.wait()
        writer.write(b"3\r\ntwo\r\n0\r\n\r\n")

    async with serving(script) as (_, url), client.stream("GET", url) as response:
        parts = response.aiter_raw()
        assert await anext(parts) == b"one"
        go_on.set()
        assert [part async for part in parts] == [b"two"]


async def test_an_abandoned_stream_closes_its_connection(client):
    async def script(reader, writer):
        await head_of(reader)
        writer.write(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\none\r\n")

    async with serving(script) as (server, url):
        async with client.stream("GET", url) as response:
            async for _ in response.aiter_raw():
                break
        await _until(lambda: server.closed == 1)


async def test_a_cancelled_request_closes_its_connection(client):
    async def script(reader, writer):
        await head_of(reader)

    async with serving(script) as (server, url):
        task = asyncio.create_task(client.get(url))
        await _until(lambda: server.connections == 1)
        await asyncio.sleep(0.01)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await _until(lambda: server.closed == 1)


async def test_a_slow_reader_slows_the_server_down(client):
    part = b"x" * 65536
    sent = 0

    async def script(reader, writer):
        nonlocal sent
        await head_of(reader)
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % (len(part) * 400))
        for _ in range(400):
            writer.write(part)
            await writer.drain()
            sent += len(part)

    async with serving(script) as (_, url), client.stream("GET", url) as response:
        before = -1
        while before < sent:
            before = sent
            await asyncio.sleep(0.1)
        # The rest is in the kernel's buffers.
        assert MAX_BUFFERED_BYTES <= sent < len(part) * 400
        total = sum([len(part) async for part in response.aiter_raw()])
    assert total == len(part) * 400


async def test_interim_responses_are_ignored(client):
    answer = b"HTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\n" + OK
    async with serving(always(answer)) as (_, url):
        response = await client.get(url)
    assert (response.status_code, response.text) == (200, "ok")
    assert "link" not in response.headers


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (b"", NoResponseError),
        (b"HTTP/1.1 200 OK\r\ncontent-le", NoResponseError),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\n", NoResponseError),
        (b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\n", NoResponseError),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nab", httpx.RemoteProtocolError),
        (b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nab", httpx.RemoteProtocolError),
        (b"hello\r\n\r\n", httpx.RemoteProtocolError),
    ],
)
async def test_an_invalid_response_is_an_error(client, answer, error):
    async with serving(always(answer, requests=1)) as (_, url):
        with pytest.raises(error) as caught:
            await client.get(url)
    assert type(caught.value) is error


async def test_silence_is_a_timeout():
    async def script(reader, writer):
        await head_of(reader)

    impatient = httpx.AsyncClient(transport=PooledTransport(), timeout=httpx.Timeout(2.0, read=0.05))
    async with impatient as client, serving(script) as (server, url):
        with pytest.raises(httpx.ReadTimeout):
            await client.get(url)
        await _until(lambda: server.closed == 1)


async def test_connection_refused_is_an_error(client):
    with pytest.raises(httpx.ConnectError):
        await client.get("http://127.0.0.1:9/")


async def test_closing_the_transport_closes_all_connections():
    transport = PooledTransport()
    async with serving(always(OK)) as (server, url):
        async with httpx.AsyncClient(transport=transport) as client:
            await client.get(url)
            assert server.closed == 0
        await _until(lambda: server.closed == 1)


async def _until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(5):
        while not condition():
            await asyncio.sleep(0.005)
