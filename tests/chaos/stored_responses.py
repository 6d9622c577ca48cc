"""Clients that store responses, and what must be true of each after the service was killed."""

import asyncio
import contextlib
import json
from typing import Any

import httpx
import msgspec

from tests.chaos.load import PROMPTS

CLIENTS = 8
"""Clients with short responses, of which some end all the time."""
SHORT = 4
"""Tokens of a short response."""
LONG_ONES = 32
"""Long responses that begin just before the service is killed."""
LONG = 400
"""Tokens of a long one. All together take the engine more than a second."""
UNDER_WAY_S = 2.0
"""How long the short ones run before the service is killed."""


class Seen(msgspec.Struct):
    """What a client has seen of one response."""

    id: str
    tokens: int
    """The length of the response."""
    completed: dict[str, Any] | None = None
    """The response of the event that ended it."""


class StoringClients:
    """Clients that stream responses until they lose their connection."""

    def __init__(self, http: httpx.AsyncClient, model: str) -> None:
        self._http = http
        self._body = {
            "model": model,
            "temperature": 0,
            "ignore_eos": True,
            "stream": True,
        }
        self.seen: list[Seen] = []
        self._tasks: list[asyncio.Task[None]] = []

    async def run(self) -> None:
        """Stream short responses for a while, one after another, then begin long ones as well."""
        self._tasks = [asyncio.create_task(self._stream_on(number)) for number in range(CLIENTS)]
        await asyncio.sleep(UNDER_WAY_S)
        self._tasks += [asyncio.create_task(self._stream_once(number)) for number in range(LONG_ONES)]
        while sum(seen.tokens == LONG for seen in self.seen) < LONG_ONES:
            await asyncio.sleep(0.01)

    async def join(self) -> None:
        """Wait until all have lost their connection."""
        await asyncio.gather(*self._tasks)

    async def mistakes(self) -> list[str]:
        """What is lost or incomplete of what they have seen, once a service is there again."""
        found = []
        for seen in self.seen:
            stored = await self._http.get(f"/v1/responses/{seen.id}")
            response = stored.json()
            if stored.status_code != 200:
                found.append(f"a response that a client has seen is lost: {stored.status_code}")
            elif seen.completed is not None and response != seen.completed:
                found.append(f"a response that was {seen.completed['status']} is now {response['status']}")
            elif seen.completed is None and not _has_ended_whole(response, seen.tokens):
                found.append(f"a response that was under way is {response['status']}")
        return found

    async def _stream_on(self, number: int) -> None:
        with contextlib.suppress(httpx.HTTPError):
            while True:
                await self._stream(PROMPTS[number % len(PROMPTS)], SHORT)

    async def _stream_once(self, number: int) -> None:
        with contextlib.suppress(httpx.HTTPError):
            await self._stream(PROMPTS[number % len(PROMPTS)], LONG)

    async def _stream(self, prompt: str, tokens: int) -> None:
        seen: Seen | None = None
        body = self._body | {"input": prompt, "max_output_tokens": tokens}
        async with self._http.stream("POST", "/v1/responses", json=body) as response:
            async for line in response.aiter_lines():
                if not line.startswith("data: "):
                    continue
                event = json.loads(line.removeprefix("data: "))
                if event["type"] == "response.created":
                    seen = Seen(event["response"]["id"], tokens)
                    self.seen.append(seen)
                elif seen is not None and event["type"] in ("response.completed", "response.incomplete"):
                    seen.completed = event["response"]


def _has_ended_whole(response: dict[str, Any], tokens: int) -> bool:
    """Whether a response whose end no client has seen failed, or was stored whole just before its end was sent."""
    if response["status"] == "failed":
        return response["output"] == []
    return response["status"] in ("completed", "incomplete") and response["usage"]["output_tokens"] == tokens
