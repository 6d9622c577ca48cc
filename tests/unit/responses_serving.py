"""The Responses API on an engine whose generations are written down."""

import contextlib
import json
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import httpx
import httpx2
from openai import AsyncOpenAI
from openai.types.responses import Response, ResponseStreamEvent
from pydantic import TypeAdapter

from tests.unit.messages_serving import USAGE, MessagesApi, delta, end
from tests.unit.serving import serving
from tests.unit.waiting import until

RESPONSES, CONVERSATIONS = "/v1/responses", "/v1/conversations"
EVENT: TypeAdapter[Any] = TypeAdapter(ResponseStreamEvent)
SAYS_HELLO = [delta("Hel"), end("lo."), USAGE]


class ResponsesApi(MessagesApi):
    """The application; with `script` set, the engine generates that instead of letters."""

    async def respond(
        self, value: Any = "Hi", headers: dict[str, str] | None = None, **more: Any
    ) -> httpx.Response:
        return await self.http.post(
            RESPONSES, json={"model": "fake-write", "input": value, **more}, headers=headers
        )

    def openai(self, key: str = "any") -> AsyncOpenAI:
        http = httpx2.AsyncClient(transport=httpx2.ASGITransport(self.app), base_url="http://api")
        return AsyncOpenAI(api_key=key, base_url="http://api/v1", http_client=http, max_retries=0)


@contextlib.asynccontextmanager
async def stored_serving(folder: Path, **options: Any) -> AsyncGenerator[ResponsesApi, None]:
    """The application with a store in this folder."""
    settings = {"STATE": "on", "MEMORIA_DATA_DIR": str(folder), **options.pop("settings", {})}
    async with responses_serving(settings=settings, **options) as running:
        yield running


@contextlib.asynccontextmanager
async def responses_serving(api: ResponsesApi | None = None, **options: Any) -> AsyncGenerator[ResponsesApi, None]:
    api = api or ResponsesApi(**options)
    await api.app.responses.start()
    try:
        async with serving(api):
            await until(lambda: api.is_ready)
            yield api
    finally:
        await api.app.responses.stop()


def response_of(answer: httpx.Response) -> dict[str, Any]:
    """A complete response, as OpenAI's SDK accepts it."""
    assert answer.status_code == 200, answer.text
    Response.model_validate(answer.json())
    return answer.json()


def text_of(response: dict[str, Any]) -> str:
    return "".join(
        part["text"] for item in response["output"] if item["type"] == "message" for part in item["content"]
    )


def events_of(answer: httpx.Response) -> list[dict[str, Any]]:
    """The events of a stream, each as OpenAI's SDK accepts it."""
    assert answer.status_code == 200, answer.text
    events = []
    for block in answer.text.removesuffix("\n\n").split("\n\n"):
        name, data = block.split("\n")
        event = json.loads(data.removeprefix("data: "))
        assert name == f"event: {event['type']}"
        EVENT.validate_python(event)
        events.append(event)
    return events
