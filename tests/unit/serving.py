"""The application on fake engines, and its clients."""

import asyncio
import contextlib
import json
from collections.abc import AsyncGenerator
from typing import Any

import httpx
from uvicorn.server import ServerState

from app.bootstrap import build_app
from app.http.connection_limits import ConnectionLimits, LimitedProtocol, ServerConfig
from app.settings import load_settings
from domain.roles import Role
from tests.fakes import FakeBackend
from tests.unit.waiting import until

MAX_BODY_BYTES = 4096
NEVER_S = 10_000.0
OPTION_NAMES = {
    "max_body_bytes": "MAX_BODY_BYTES",
    "allow_unknown_fields": "ALLOW_UNKNOWN_FIELDS",
    "keep_alive_s": "SSE_KEEP_ALIVE_S",
}
DEFAULTS = {
    # Tests of telemetry switch on what they need.
    "METRICS": "false",
    "REQUEST_LOG": "false",
    "HISTORY": "false",
    "STATE": "off",
    "MAX_BODY_BYTES": str(MAX_BODY_BYTES),
    "MODEL_EMBED_ALIASES": "text-embedding-3-small",
    "MODEL_GEN_ALIASES": "gpt-3.5-turbo-instruct, org/name, a%41",
}
EMBED, COMPLETE, CHAT = "/v1/embeddings", "/v1/completions", "/v1/chat/completions"
TOKENIZE, DETOKENIZE = "/tokenize", "/detokenize"
RERANK, SCORE = "/v1/rerank", "/v1/score"
BODIES = {
    EMBED: {"model": "fake-embed", "input": "text"},
    COMPLETE: {"model": "fake-write", "prompt": "text", "max_tokens": 4},
    CHAT: {"model": "fake-write", "messages": [{"role": "user", "content": "text"}], "max_tokens": 4},
    TOKENIZE: {"model": "fake-write", "prompt": "text"},
    DETOKENIZE: {"model": "fake-write", "tokens": [97, 98]},
    **{path: {"query": "text", "documents": ["text", "other"]} for path in (RERANK, "/v2/rerank", "/rerank")},
    **{path: {"text_1": "text", "text_2": ["text", "other"]} for path in (SCORE, "/score")},
}
"""A valid request for each endpoint of OpenAI's API and vLLM's."""
MESSAGES, COUNT_TOKENS = "/v1/messages", "/v1/messages/count_tokens"
MESSAGES_BODIES = {
    MESSAGES: {"model": "fake-write", "messages": [{"role": "user", "content": "text"}], "max_tokens": 4},
    COUNT_TOKENS: {"model": "fake-write", "messages": [{"role": "user", "content": "text"}]},
}
"""A valid request for each endpoint of Anthropic's API, whose errors have another shape."""
CONVERSATION = "/v1/conversations/{conversation_id}"
RESPONSES_BODIES = {
    "/v1/responses": {"model": "fake-write", "input": "text"},
    "/v1/responses/input_tokens": {"model": "fake-write", "input": "text"},
    "/v1/responses/compact": {"model": "fake-write", "input": "text"},
    "/v1/conversations": {},
    CONVERSATION: {"metadata": {}},
    f"{CONVERSATION}/items": {"items": []},
}
"""A valid request for each endpoint of the Responses and Conversations APIs."""
BATCHES_BODIES = {
    "/v1/batches": {"input_file_id": "file-x", "endpoint": EMBED, "completion_window": "24h"},
}
"""A valid request for each endpoint of the Batches API."""
ALL_BODIES = BODIES | MESSAGES_BODIES | RESPONSES_BODIES | BATCHES_BODIES
SILENT = {"chat_template_kwargs": {"enable_thinking": False}}
"""Makes the fake write text; otherwise it writes only reasoning."""


class Api:
    """The application on fake engines, and a client of it."""

    def __init__(self, *, settings: dict[str, str] | None = None, **options) -> None:
        self.embedder = FakeBackend(Role.EMBED, name="fake-embed")
        self.writer = FakeBackend(Role.GENERATE, name="fake-write")
        # Served only if a setting names its model.
        self.reranker = FakeBackend(Role.RERANK, name="fake-rerank")
        engines = (self.embedder, self.writer, self.reranker)
        backends = {engine.role: (engine.name, engine) for engine in engines}
        chosen = {OPTION_NAMES[name]: str(value) for name, value in options.items()}
        loaded = load_settings(DEFAULTS | chosen | (settings or {}))
        # With a constant time, remaining rate limits are exact.
        self.app = build_app(loaded, backends, clock=lambda: 0.0)
        self.service, self.history = self.app.service, self.app.history
        self.http = httpx.AsyncClient(transport=httpx.ASGITransport(self.app), base_url="http://api")

    @property
    def is_ready(self) -> bool:
        return self.service.health().status == "ok"

    async def embed(self, value="text", **more) -> httpx.Response:
        return await self.http.post(EMBED, json={"model": "fake-embed", "input": value, **more})

    async def post(self, path: str, **more) -> httpx.Response:
        return await self.http.post(path, json=ALL_BODIES[path] | more)

    async def chat(self, content="hi", **more) -> httpx.Response:
        body = {
            "model": "fake-write",
            "messages": [{"role": "user", "content": content}],
            "temperature": 0,
            "max_tokens": 4,
            **SILENT,
            **more,
        }
        return await self.http.post(CHAT, json=body)

    async def complete(self, prompt="text", **more) -> httpx.Response:
        body = {"model": "fake-write", "prompt": prompt, "temperature": 0, "max_tokens": 4, **more}
        return await self.http.post(COMPLETE, json=body)


@contextlib.asynccontextmanager
async def serving(api: Api) -> AsyncGenerator[Api, None]:
    # httpx's transport does not run the lifespan, so the service is started here.
    api.service.start()
    try:
        yield api
    finally:
        await api.http.aclose()
        await api.service.stop()


@contextlib.asynccontextmanager
async def listening(api: Api, **limits: Any) -> AsyncGenerator[int, None]:
    """The port of the application behind the server's own protocol."""
    config = ServerConfig(api.app, log_config=None, lifespan="off", ws="none")
    config.limits = ConnectionLimits(**limits)
    config.load()
    state = ServerState()
    make = lambda: LimitedProtocol(config=config, server_state=state, app_state={})  # noqa: E731
    server = await asyncio.get_running_loop().create_server(make, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        for connection in list(state.connections):
            connection.transport.abort()


def error_of(response: httpx.Response) -> dict:
    assert response.headers["content-type"].startswith("application/json")
    (error,) = response.json().values()
    assert set(error) == {"message", "type", "param", "code"}
    return error


def chunks_of(response: httpx.Response) -> list[dict]:
    """The chunks of a stream that ended with its end mark."""
    *events, end, rest = response.text.split("\n\n")
    assert (end, rest) == ("data: [DONE]", "")
    return [json.loads(event.removeprefix("data: ")) for event in events]


class Leaving:
    """A client that sends a complete or incomplete request, and disconnects when `leave` is set."""

    def __init__(self, body: dict, *, is_whole: bool = True) -> None:
        content = json.dumps(body).encode()
        content = content if is_whole else content[:-1]
        self._parts = [{"type": "http.request", "body": content, "more_body": not is_whole}]
        self.leave = asyncio.Event()
        self.sent: list[dict] = []
        self.headers = [(b"content-type", b"application/json")]

    async def receive(self) -> dict:
        if self._parts:
            return self._parts.pop()
        await self.leave.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: dict) -> None:
        self.sent.append(message)

    async def call(self, app, path: str, **state) -> None:
        scope = {
            "type": "http",
            "asgi": {"version": "3.0"},
            "http_version": "1.1",
            "method": "POST",
            "scheme": "http",
            "path": path,
            "raw_path": path.encode(),
            "query_string": b"",
            "root_path": "",
            "headers": self.headers,
            "client": ("client", 1),
            "server": ("api", 80),
            "state": state,
        }
        await app(scope, self.receive, self.send)


async def left(api: Api, engine: FakeBackend, path: str, body: dict) -> Leaving:
    """A client that has disconnected while its request was running."""
    engine.delay_s = NEVER_S
    client = Leaving(body)
    call = asyncio.create_task(client.call(api.app, path))
    await until(lambda: engine.running > 0)
    client.leave.set()
    await call
    return client
