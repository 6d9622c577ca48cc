"""Responses to HTTP/1.0 and HTTP/1.1 clients, byte by byte."""

import asyncio
from collections.abc import AsyncGenerator

import pytest
from uvicorn.server import ServerState

from app.http.connection_limits import LimitedProtocol, ServerConfig


async def app(scope, receive, send) -> None:
    """Respond with a stream of two chunks, or on another path with a known length."""
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
    create_protocol = lambda: LimitedProtocol(config=config, server_state=state, app_state={})  # noqa: E731
    async with await asyncio.get_running_loop().create_server(create_protocol, "127.0.0.1", 0) as server:
        yield server.sockets[0].getsockname()[1]


async def get(port: int, path: str, version: str) -> tuple[str, bytes]:
    """Lower-case head and body of a response; the server closes the connection."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    closing = "" if version == "1.0" else "Connection: close\r\n"
    writer.write(f"GET {path} HTTP/{version}\r\nHost: a\r\n{closing}\r\n".encode())
    head, _, body = (await reader.read()).partition(b"\r\n\r\n")
    writer.close()
    await writer.wait_closed()
    return head.decode().lower(), body


async def test_http_1_0_streams_end_with_the_connection(port):
    head, body = await get(port, "/stream", "1.0")
    assert "transfer-encoding" not in head
    assert "connection: close" in head
    assert body == b"abcd"


async def test_http_1_1_streams_are_chunked(port):
    head, body = await get(port, "/stream", "1.1")
    assert "transfer-encoding: chunked" in head
    assert body == b"2\r\nab\r\n2\r\ncd\r\n0\r\n\r\n"


@pytest.mark.parametrize("version", ["1.0", "1.1"])
async def test_known_content_length_is_kept(port, version):
    head, body = await get(port, "/whole", version)
    assert "content-length: 4" in head
    assert body == b"abcd"
