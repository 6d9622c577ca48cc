"""What old and new clients see of an answer, byte for byte."""

import asyncio
from collections.abc import AsyncGenerator

import pytest
from uvicorn.server import ServerState

from app.http.connection_limits import LimitedProtocol, ServerConfig


async def app(scope, receive, send) -> None:
    """A stream of two parts, or under another path an answer whose length is known."""
    headers = [] if scope["path"] == "/stream" else [(b"content-length", b"4")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": b"ab", "more_body": True})
    await send({"type": "http.response.body", "body": b"cd", "more_body": True})
    await send({"type": "http.response.body", "body": b"", "more_body": False})


@pytest.fixture(scope="module")
async def port() -> AsyncGenerator[int, None]:
    config = ServerConfig(app, log_config=None, lifespan="off")
    config.load()
    state = ServerState()
    make = lambda: LimitedProtocol(config=config, server_state=state, app_state={})  # noqa: E731
    async with await asyncio.get_running_loop().create_server(make, "127.0.0.1", 0) as server:
        yield server.sockets[0].getsockname()[1]


async def answer(port: int, path: str, version: str) -> tuple[str, bytes]:
    """Head, in small letters, and body; the connection is the server's to close."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    closing = "" if version == "1.0" else "Connection: close\r\n"
    writer.write(f"GET {path} HTTP/{version}\r\nHost: a\r\n{closing}\r\n".encode())
    head, _, body = (await reader.read()).partition(b"\r\n\r\n")
    writer.close()
    await writer.wait_closed()
    return head.decode().lower(), body


async def test_an_old_client_gets_a_stream_that_ends_with_its_connection(port):
    head, body = await answer(port, "/stream", "1.0")
    assert "transfer-encoding" not in head
    assert "connection: close" in head
    assert body == b"abcd"


async def test_a_new_client_gets_a_stream_in_chunks(port):
    head, body = await answer(port, "/stream", "1.1")
    assert "transfer-encoding: chunked" in head
    assert body == b"2\r\nab\r\n2\r\ncd\r\n0\r\n\r\n"


@pytest.mark.parametrize("version", ["1.0", "1.1"])
async def test_an_answer_of_a_known_length_has_it(port, version):
    head, body = await answer(port, "/whole", version)
    assert "content-length: 4" in head
    assert body == b"abcd"
