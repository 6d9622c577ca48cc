"""The application with an engine whose generations are written down, and Anthropic's SDK as its client."""

import contextlib
import functools
import json
from collections.abc import AsyncGenerator, Sequence
from typing import Any

import httpx
import httpx2
from pydantic import TypeAdapter

from domain.requests import GenerationRequest
from domain.results import FinishReason, GenerationDelta, GenerationEvent, GenerationUsage
from tests.unit.sdks import anthropic
from tests.unit.serving import MESSAGES, Api, serving
from tests.unit.waiting import until

USAGE = GenerationUsage(prompt_tokens=10, completion_tokens=5, reasoning_tokens=2, cached_tokens=4)
HELLO = [{"role": "user", "content": "Hello"}]
TOOL = {
    "name": "look",
    "description": "Looks.",
    "input_schema": {"type": "object", "properties": {"at": {"type": "string"}}, "required": ["at"]},
}


def delta(text: str = "", **more: Any) -> GenerationDelta:
    return GenerationDelta(index=0, text=text, **more)


def end(text: str = "", reason: FinishReason = FinishReason.STOP, **more: Any) -> GenerationDelta:
    return delta(text, finish_reason=reason, **more)


class MessagesApi(Api):
    """The application; with `script` set, the engine generates that instead of letters."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.script: Sequence[GenerationEvent | Exception] = ()
        self._generate_letters = self.writer._generate
        self.writer._generate = self._generate
        self.writer.max_model_len = 4096

    async def _generate(
        self, request: GenerationRequest, *, streams: bool
    ) -> AsyncGenerator[GenerationEvent, None]:
        if not self.script:
            async for event in self._generate_letters(request, streams=streams):
                yield event
            return
        self.writer.seen.append(request)
        for event in self.script:
            if isinstance(event, Exception):
                raise event
            yield event

    async def message(self, headers: dict[str, str] | None = None, **more: Any) -> httpx.Response:
        body = {"model": "fake-write", "max_tokens": 8, "messages": HELLO, **more}
        return await self.http.post(MESSAGES, json=body, headers=headers)

    @property
    def seen(self) -> GenerationRequest:
        """The last request to the engine."""
        request = self.writer.seen[-1]
        assert isinstance(request, GenerationRequest)
        return request

    def sdk(self, key: str = "any") -> Any:
        """Anthropic's `AsyncAnthropic`."""
        http = httpx2.AsyncClient(transport=httpx2.ASGITransport(self.app), base_url="http://api")
        return anthropic.AsyncAnthropic(api_key=key, base_url="http://api", http_client=http, max_retries=0)


@contextlib.asynccontextmanager
async def messages_serving(**options: Any) -> AsyncGenerator[MessagesApi, None]:
    api = MessagesApi(**options)
    async with serving(api):
        await until(lambda: api.is_ready)
        yield api


def message_of(response: httpx.Response) -> dict[str, Any]:
    """A complete answer, as Anthropic's SDK accepts it."""
    assert response.status_code == 200, response.text
    anthropic.types.Message.model_validate(response.json())
    return response.json()


def error_of(response: httpx.Response, status: int) -> dict[str, Any]:
    """The error in Anthropic's shape."""
    assert response.status_code == status, response.text
    body = response.json()
    if body["error"]["type"] != "request_too_large":
        # Anthropic's documents have it, its SDK does not.
        anthropic.types.ErrorResponse.model_validate(body)
    assert set(body) == {"type", "error", "request_id"}
    assert set(body["error"]) - {"details"} == {"type", "message"}
    assert body["type"] == "error"
    assert body["request_id"] == response.headers["request-id"] == response.headers["x-request-id"]
    return body["error"]


@functools.cache
def _sdk_event() -> TypeAdapter[Any]:
    return TypeAdapter(anthropic.types.RawMessageStreamEvent)


def events_of(text: str) -> list[dict[str, Any]]:
    """The events of a stream that is complete, each as Anthropic's SDK accepts it; pings are left out."""
    events = []
    for block in text.removesuffix("\n\n").split("\n\n"):
        name, data = block.split("\n")
        event = json.loads(data.removeprefix("data: "))
        assert name == f"event: {event['type']}"
        if event["type"] != "ping":
            _sdk_event().validate_python(event)
            events.append(event)
    assert [event["type"] for event in (events[0], *events[-2:])] == [
        "message_start",
        "message_delta",
        "message_stop",
    ]
    return events


def joined(events: list[dict[str, Any]]) -> dict[str, Any]:
    """The message that a client makes of a stream's events, which must be in order."""
    message: dict[str, Any] = {}
    blocks: list[dict[str, Any]] = []
    is_open = False
    for event in events:
        match event["type"]:
            case "message_start":
                message = dict(event["message"])
            case "content_block_start":
                assert (is_open, event["index"]) == (False, len(blocks))
                is_open = True
                blocks.append({**event["content_block"], "json": ""})
            case "content_block_delta":
                assert (is_open, event["index"]) == (True, len(blocks) - 1)
                _extend(blocks[-1], event["delta"])
            case "content_block_stop":
                assert (is_open, event["index"]) == (True, len(blocks) - 1)
                is_open = False
            case "message_delta":
                assert not is_open
                message |= {**event["delta"], "usage": event["usage"]}
    for block in blocks:
        text = block.pop("json")
        if block["type"] == "tool_use":
            block["input"] = json.loads(text or "{}")
    return message | {"content": blocks}


def _extend(block: dict[str, Any], change: dict[str, Any]) -> None:
    if change["type"] == "input_json_delta":
        block["json"] += change["partial_json"]
        return
    kind = change["type"].removesuffix("_delta")
    block[kind] += change[kind]
