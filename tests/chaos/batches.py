"""A batch of embeddings, and a check that each of its lines was answered exactly once."""

import asyncio
import json
import time
from collections import Counter

import httpx

from tests.chaos.load import TEXTS, Truth, cosine

LINES = 5_000
POLL_S = 0.02
TIMEOUT_S = 150.0


class BatchUnderWay:
    """One batch; its requests are tried again while the service is not there."""

    def __init__(self, http: httpx.AsyncClient, model: str) -> None:
        self._http = http
        self._model = model
        self._id = ""

    async def create(self) -> None:
        """Upload the lines, and create the batch."""
        form = {"file": ("lines.jsonl", b"".join(self._line(number) for number in range(LINES)))}
        file = (
            (await self._http.post("/v1/files", data={"purpose": "batch"}, files=form)).raise_for_status().json()
        )
        body = {"input_file_id": file["id"], "endpoint": "/v1/embeddings", "completion_window": "24h"}
        self._id = (await self._http.post("/v1/batches", json=body)).raise_for_status().json()["id"]

    async def until(self, completed: int) -> int:
        """Wait until so many lines are answered, or the batch has ended; the number of answered lines."""
        deadline = time.monotonic() + TIMEOUT_S
        while True:
            batch = await self.retrieve()
            counts = batch["request_counts"]
            if counts["completed"] >= completed or batch["status"] not in ("validating", "in_progress"):
                return int(counts["completed"])
            if time.monotonic() > deadline:
                raise TimeoutError(f"a batch stands still: {batch}")
            await asyncio.sleep(POLL_S)

    async def ended(self) -> dict:
        """The batch, once it has ended."""
        deadline = time.monotonic() + TIMEOUT_S
        while True:
            batch = await self.retrieve()
            if batch["status"] not in ("validating", "in_progress", "finalizing"):
                return batch
            if time.monotonic() > deadline:
                raise TimeoutError(f"a batch does not end: {batch}")
            await asyncio.sleep(POLL_S)

    async def retrieve(self) -> dict:
        """The batch now."""
        batch: dict = (await self._http.get(f"/v1/batches/{self._id}")).raise_for_status().json()
        return batch

    async def mistakes(self, truth: Truth) -> list[str]:
        """What is wrong with the batch, which has ended."""
        batch = await self.ended()
        counts = {"total": LINES, "completed": LINES, "failed": 0}
        if batch["status"] != "completed" or batch["request_counts"] != counts or batch["error_file_id"]:
            return [f"a batch ended as {batch}"]
        content = (await self._http.get(f"/v1/files/{batch['output_file_id']}/content")).raise_for_status().text
        answers = [json.loads(line) for line in content.splitlines()]
        seen = Counter(answer["custom_id"] for answer in answers)
        found = [f"line {name} was answered {count} times" for name, count in seen.items() if count != 1]
        if len(seen) != LINES:
            found.append(f"{len(seen)} of {LINES} lines were answered")
        for answer in answers:
            number = int(answer["custom_id"].removeprefix("line-"))
            vector = answer["response"]["body"]["data"][0]["embedding"]
            if cosine(vector, truth.vectors[_text(number)]) < 0.9999:
                found.append(f"line {number} has another vector")
        return found

    def _line(self, number: int) -> bytes:
        body = {"model": self._model, "input": _text(number)}
        line = {"custom_id": f"line-{number}", "method": "POST", "url": "/v1/embeddings", "body": body}
        return json.dumps(line).encode() + b"\n"


def _text(number: int) -> str:
    return TEXTS[number % len(TEXTS)]
