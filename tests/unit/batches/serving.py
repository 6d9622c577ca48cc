"""The Batches API on fake engines, with a store in a folder."""

import asyncio
import contextlib
import json
from collections.abc import AsyncGenerator, Sequence
from pathlib import Path
from typing import Any

from openai import AsyncOpenAI
from openai.types import Batch

from tests.unit.files_serving import FilesApi
from tests.unit.serving import EMBED
from tests.unit.waiting import eventually

BATCHES = "/v1/batches"
ENDED = ("completed", "failed", "expired", "cancelled")
EMBED_BODY = {"model": "fake-embed", "input": "text"}


def line(custom_id: str, body: dict[str, Any] | None = None, *, url: str = EMBED, **more: Any) -> dict[str, Any]:
    """A line of an input file."""
    return {"custom_id": custom_id, "method": "POST", "url": url, "body": body or EMBED_BODY} | more


def lines(count: int, **body: Any) -> list[dict[str, Any]]:
    """Valid lines."""
    return [line(f"line-{number}", EMBED_BODY | body) for number in range(count)]


def jsonl(values: Sequence[Any]) -> bytes:
    return b"".join(json.dumps(value).encode() + b"\n" for value in values)


class BatchesApi(FilesApi):
    """The application, and what tests do with batches."""

    client: AsyncOpenAI

    async def upload_lines(self, content: bytes | Sequence[Any], client: AsyncOpenAI | None = None) -> str:
        """Upload an input file; returns its id."""
        data = content if isinstance(content, bytes) else jsonl(content)
        file = await (client or self.client).files.create(file=("in.jsonl", data), purpose="batch")
        return file.id

    async def begin(self, content: bytes | Sequence[Any], *, endpoint: Any = EMBED, **more: Any) -> Batch:
        """Create a batch."""
        file_id = await self.upload_lines(content)
        options = {"completion_window": "24h"} | more
        return await self.client.batches.create(input_file_id=file_id, endpoint=endpoint, **options)

    async def ended(self, batch: Batch) -> Batch:
        """The batch, once it has ended."""
        return await self.reached(batch, *ENDED)

    async def reached(self, batch: Batch, *statuses: str) -> Batch:
        """The batch, once it has one of these statuses."""
        now = batch

        async def is_reached() -> bool:
            nonlocal now
            now = await self.client.batches.retrieve(batch.id)
            return now.status in statuses

        await eventually_true(is_reached)
        return now

    async def run(self, content: bytes | Sequence[Any], **more: Any) -> Batch:
        """Create a batch, and wait for its end."""
        return await self.ended(await self.begin(content, **more))

    async def records(self, file_id: str | None) -> dict[str, Any]:
        """The records of an output or error file by their `custom_id`, each of which occurs once."""
        if file_id is None:
            return {}
        content = (await self.client.files.content(file_id)).content
        found = [json.loads(each) for each in content.splitlines()]
        by_id = {record["custom_id"]: record for record in found}
        assert len(by_id) == len(found)
        assert len({record["id"] for record in found}) == len(found)
        return by_id

    async def results(self, batch: Batch) -> tuple[dict[str, Any], dict[str, Any]]:
        """The answers and the errors, which have no line in common."""
        output, errors = await self.records(batch.output_file_id), await self.records(batch.error_file_id)
        assert not output.keys() & errors.keys()
        return output, errors


async def eventually_true(condition: Any) -> None:
    """Wait for a condition that is looked up with a request."""
    for _ in range(1000):
        if await condition():
            return
        await asyncio.sleep(0.01)
    raise AssertionError("it never came true")


@contextlib.asynccontextmanager
async def batches_serving(
    folder: Path, settings: dict[str, str] | None = None, *, key: str = "any", is_ready: bool = True
) -> AsyncGenerator[BatchesApi, None]:
    """The application with its whole life cycle, and OpenAI's SDK in front."""
    api = BatchesApi(folder, {"FILES_MAX_SIZE": "100MiB"} | (settings or {}), max_body_bytes=20_000)
    async with living(api), api.openai(key) as client:
        api.client = client
        if is_ready:
            await eventually(lambda: api.is_ready)
        yield api
    await api.http.aclose()


@contextlib.asynccontextmanager
async def living(api: FilesApi) -> AsyncGenerator[None, None]:
    """The life cycle of the application, in one task from its begin to its end."""
    is_alive, may_end = asyncio.Event(), asyncio.Event()

    async def live() -> None:
        async with api.app.lifespan():
            is_alive.set()
            await may_end.wait()

    life = asyncio.create_task(live())
    await asyncio.wait({life, begun := asyncio.create_task(is_alive.wait())}, return_when=asyncio.FIRST_COMPLETED)
    begun.cancel()
    try:
        if is_alive.is_set():
            yield
    finally:
        may_end.set()
        await life
