"""A server that answers at once with what it was given: an engine that costs nothing, behind gateways.

Run as `python -m app.commands.bench.canned PORT MODEL`. It knows as much of vLLM's API as the gateways ask for,
and takes whatever telemetry it is sent.
"""

import asyncio
import base64
import struct
import sys
from typing import cast

import httptools
import msgspec
import uvloop

DIMENSIONS = 64
_encode = msgspec.json.encode


def answers(model: str) -> dict[bytes, bytes]:
    """A whole HTTP answer for each path."""
    usage = {"prompt_tokens": 12, "total_tokens": 13, "completion_tokens": 1}
    choice = {"index": 0, "text": " Paris", "logprobs": None, "finish_reason": "length"}
    completion = {
        "id": "cmpl-0123456789abcdef", "object": "text_completion", "created": 1700000000, "model": model,
        "choices": [choice], "usage": usage,
    }  # fmt: skip
    chat_choice = {"index": 0, "message": {"role": "assistant", "content": "Paris"}, "finish_reason": "stop"}
    chat = completion | {"object": "chat.completion", "choices": [chat_choice]}
    vector = base64.b64encode(struct.pack(f"<{DIMENSIONS}f", 1.0, *[0.0] * (DIMENSIONS - 1))).decode()
    item = {"object": "embedding", "index": 0, "embedding": vector}
    embeddings = {"object": "list", "data": [item], "model": model, "usage": usage}
    models = {
        "object": "list",
        "data": [
            {"id": model, "object": "model", "created": 1700000000, "owned_by": "vllm", "max_model_len": 4096}
        ],
    }
    bodies = {
        b"/v1/completions": _encode(completion),
        b"/v1/chat/completions": _encode(chat),
        b"/v1/embeddings": _encode(embeddings),
        b"/v1/models": _encode(models),
        b"/health": b"",
        b"/v1/traces": b"",
        b"/v1/metrics": b"",
    }
    return {path: _whole(b"200 OK", body) for path, body in bodies.items()}


def _whole(status: bytes, body: bytes) -> bytes:
    return (
        b"HTTP/1.1 %b\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n" % (status, len(body)) + body
    )


class CannedServer(asyncio.Protocol):
    """One connection."""

    def __init__(self, answers: dict[bytes, bytes]) -> None:
        self._answers = answers
        self._parser = httptools.HttpRequestParser(self)
        self._path = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """asyncio's callback."""
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        """asyncio's callback."""
        self._parser.feed_data(data)

    def on_message_begin(self) -> None:
        """The parser's callback."""
        self._path = b""

    def on_url(self, url: bytes) -> None:
        """The parser's callback."""
        self._path += url

    def on_message_complete(self) -> None:
        """The parser's callback."""
        path = self._path.partition(b"?")[0]
        self._transport.write(self._answers.get(path) or _whole(b"404 Not Found", b"{}"))


async def serve(port: int, model: str) -> None:
    """Serve on the loopback address until the process ends."""
    known = answers(model)
    server = await asyncio.get_running_loop().create_server(lambda: CannedServer(known), "127.0.0.1", port)
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(serve(int(sys.argv[1]), sys.argv[2]))
