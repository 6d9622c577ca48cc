"""Clients that store responses, and what must be true of each after the service was killed."""

import asyncio
import json
from typing import Any

import httpx
import msgspec

from tests.chaos.load import PROMPTS, TOKENS

CLIENTS = 16
"""Streams at a time."""
UNDER_WAY_S = 2.0
"""How long they run before the service is killed."""


class Seen(msgspec.Struct):
    """What a client has seen of one response."""

    id: str = ""
    completed: dict[str, Any] | None = None
    """The response of the event that ended it."""


class StoringClients:
    """Clients that stream responses, one after another, until they lose their connection."""

    def __init__(self, http: httpx.AsyncClient, model: str) -> None:
        self._http = http
        self._body = {
            "model": model,
            "max_output_tokens": TOKENS,
            "temperature": 0,
            "ignore_eos": True,
            "stream": True,
        }
        self.seen: list[Seen] = []
        self._tasks: list[asyncio.Task[None]] = []

    def start(self) -> None:
        """Start all clients."""
        self._tasks = [asyncio.create_task(self._stream_on(number)) for number in range(CLIENTS)]

    async def join(self) -> None:
        """Wait until all have lost their connection."""
        await asyncio.gather(*self._tasks)

    async def mistakes(self) -> list[str]:
        """What is lost or half of what they have seen, once a service is there again."""
        found = []
        for seen in self.seen:
            stored = await self._http.get(f"/v1/responses/{seen.id}")
            response = stored.json()
            if stored.status_code != 200:
                found.append(f"a response that a client has seen is lost: {stored.status_code}")
            elif seen.completed is not None and response != seen.completed:
                found.append(f"a response that was {seen.completed['status']} is now {response['status']}")
            elif seen.completed is None and not _has_ended_whole(response):
                found.append(f"a response that was under way is {response['status']}")
        return found

    async def _stream_on(self, number: int) -> None:
        while True:
            try:
                await self._stream(PROMPTS[number % len(PROMPTS)])
            except httpx.HTTPError:
                return

    async def _stream(self, prompt: str) -> None:
        seen: Seen | None = None
        async with self._http.stream("POST", "/v1/responses", json=self._body | {"input": prompt}) as response:
            async for line in response.aiter_lines():
                if not line.startswith("data: "):
                    continue
                event = json.loads(line.removeprefix("data: "))
                if event["type"] == "response.created":
                    seen = Seen(event["response"]["id"])
                    self.seen.append(seen)
                elif seen is not None and event["type"] in ("response.completed", "response.incomplete"):
                    seen.completed = event["response"]


def _has_ended_whole(response: dict[str, Any]) -> bool:
    """Whether a response whose end no client has seen failed, or was stored whole just before its end was sent."""
    if response["status"] == "failed":
        return response["output"] == []
    return response["status"] in ("completed", "incomplete") and response["usage"]["output_tokens"] == TOKENS
