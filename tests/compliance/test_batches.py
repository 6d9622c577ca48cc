"""Files and batches through OpenAI's SDK: every endpoint that a batch may name, and what clients do with both."""

import json
import time
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import httpx
import pytest
from openai import AsyncOpenAI, BadRequestError, NotFoundError, OpenAI
from openai.types import Batch, FileObject

from tests.compliance.conftest import EMBED, GENERATE

pytestmark = pytest.mark.integration

TIMEOUT_S = 60
ENDED = ("completed", "failed", "expired", "cancelled")
GREEDY = {"model": GENERATE, "temperature": 0, "seed": 1}
MESSAGES = [{"role": "user", "content": "Name one color."}]
QUERY, DOCUMENTS = "What is a cat?", ["Cats are small animals.", "Trains run on rails."]
BODIES: dict[str, dict[str, Any]] = {
    "/v1/embeddings": {"model": EMBED, "input": ["one text", "another"]},
    "/v1/chat/completions": GREEDY | {"messages": MESSAGES, "max_tokens": 8},
    "/v1/completions": GREEDY | {"prompt": "One, two, three,", "max_tokens": 8},
    "/v1/responses": {"model": GENERATE, "temperature": 0, "input": "Name one color.", "max_output_tokens": 16},
    # Without a reranking model the embedding model answers.
    "/v1/rerank": {"model": EMBED, "query": QUERY, "documents": DOCUMENTS},
}
ENDLESS = GREEDY | {"messages": MESSAGES, "max_tokens": 2000, "ignore_eos": True}
DIFFERS = {"id", "created", "created_at", "completed_at", "service_tier", "system_fingerprint"}


@pytest.fixture
async def aclient(base_url: str) -> AsyncGenerator[AsyncOpenAI, None]:
    async with AsyncOpenAI(base_url=base_url, api_key="unused", max_retries=0) as client:
        yield client


def jsonl(endpoint: str, *bodies: dict[str, Any]) -> bytes:
    lines = (
        {"custom_id": f"line-{number}", "method": "POST", "url": endpoint, "body": body}
        for number, body in enumerate(bodies)
    )
    return b"".join(json.dumps(line).encode() + b"\n" for line in lines)


def begin(client: OpenAI, endpoint: Any, *bodies: dict[str, Any], **more: Any) -> Batch:
    file = client.files.create(file=("in.jsonl", jsonl(endpoint, *bodies)), purpose="batch")
    return client.batches.create(input_file_id=file.id, endpoint=endpoint, completion_window="24h", **more)


def ended(client: OpenAI, batch: Batch) -> Batch:
    deadline = time.monotonic() + TIMEOUT_S
    while batch.status not in ENDED:
        assert time.monotonic() < deadline, batch
        time.sleep(0.05)
        batch = client.batches.retrieve(batch.id)
    return batch


def records(client: OpenAI, file_id: str | None) -> dict[str, Any]:
    assert file_id is not None
    found = [json.loads(line) for line in client.files.content(file_id).text.splitlines()]
    return {record["custom_id"]: record for record in found}


def comparable(value: Any) -> Any:
    """An answer without ids and times."""
    if isinstance(value, dict):
        return {key: comparable(each) for key, each in value.items() if key not in DIFFERS}
    return [comparable(each) for each in value] if isinstance(value, list) else value


def numbers(value: Any) -> list[float]:
    """All numbers of an answer, in their order."""
    if isinstance(value, (dict, list)):
        members = value.values() if isinstance(value, dict) else value
        return [number for member in members for number in numbers(member)]
    return [float(value)] if isinstance(value, (int, float)) else []


def without_numbers(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: without_numbers(each) for key, each in value.items()}
    if isinstance(value, list):
        return [without_numbers(each) for each in value]
    return None if isinstance(value, float) else value


@pytest.mark.parametrize("endpoint", BODIES)
def test_a_line_is_answered_as_the_same_request(client: OpenAI, http: httpx.Client, endpoint: str) -> None:
    body = BODIES[endpoint]
    done = ended(client, begin(client, endpoint, body, body, metadata={"job": "nightly"}))
    assert (done.status, done.model, done.endpoint, done.metadata) == (
        "completed", body["model"], endpoint, {"job": "nightly"},
    )  # fmt: skip
    assert done.request_counts is not None
    assert (done.request_counts.total, done.request_counts.completed, done.request_counts.failed) == (2, 2, 0)
    assert (done.error_file_id, done.errors) == (None, None)
    found = records(client, done.output_file_id)
    assert set(found) == {"line-0", "line-1"}
    direct = comparable(http.post(endpoint, json=body).raise_for_status().json())
    for record in found.values():
        assert record["error"] is None
        assert record["response"]["status_code"] == 200
        assert record["response"]["request_id"]
        answer = comparable(record["response"]["body"])
        assert without_numbers(answer) == without_numbers(direct)
        assert numbers(answer) == pytest.approx(numbers(direct), abs=1e-3)
    usage = [record["response"]["body"]["usage"] for record in found.values()]
    assert done.usage is not None
    assert done.usage.total_tokens == sum(each["total_tokens"] for each in usage) > 0


def test_times_of_a_batch_are_in_order(client: OpenAI) -> None:
    done = ended(client, begin(client, "/v1/embeddings", BODIES["/v1/embeddings"]))
    times = [done.created_at, done.in_progress_at, done.finalizing_at, done.completed_at]
    assert None not in times
    assert times == sorted(times)  # type: ignore[type-var]
    assert done.expires_at == done.created_at + 86_400
    assert (done.failed_at, done.expired_at, done.cancelling_at, done.cancelled_at) == (None,) * 4


def test_lines_that_fail_are_in_the_error_file(client: OpenAI) -> None:
    body = BODIES["/v1/embeddings"]
    done = ended(client, begin(client, "/v1/embeddings", body, body | {"input": "word " * 3000}))
    assert done.request_counts is not None
    assert (done.status, done.request_counts.completed, done.request_counts.failed) == ("completed", 1, 1)
    assert set(records(client, done.output_file_id)) == {"line-0"}
    (record,) = records(client, done.error_file_id).values()
    assert record["custom_id"] == "line-1"
    assert record["response"]["status_code"] == 400
    assert record["response"]["body"]["error"]["code"] == "context_length_exceeded"


def test_a_file_with_invalid_lines_fails_before_anything_runs(client: OpenAI) -> None:
    done = ended(client, begin(client, "/v1/embeddings", {"model": "unknown", "input": "x"}, {"model": EMBED}))
    assert (done.status, done.output_file_id, done.error_file_id) == ("failed", None, None)
    assert done.errors is not None
    assert [(error.line, error.param) for error in done.errors.data or []] == [
        (1, "body.model"), (2, "body.input"),
    ]  # fmt: skip


def test_a_batch_is_cancelled(client: OpenAI) -> None:
    begun = begin(client, "/v1/chat/completions", *[ENDLESS] * 4)
    asked = client.batches.cancel(begun.id)
    assert asked.status in ("cancelling", "cancelled")
    done = ended(client, begun)
    assert done.status == "cancelled"
    assert done.cancelling_at is not None
    assert done.cancelled_at is not None
    with pytest.raises(BadRequestError):
        client.batches.cancel(ended(client, begin(client, "/v1/embeddings", BODIES["/v1/embeddings"])).id)


def test_pages_of_batches_and_files_are_followed(client: OpenAI) -> None:
    begun = [begin(client, "/v1/embeddings", BODIES["/v1/embeddings"]) for _ in range(3)]
    found = [batch.id for batch in client.batches.list(limit=2)]
    assert [each for each in found if each in {batch.id for batch in begun}] == [each.id for each in begun[::-1]]
    inputs = [batch.input_file_id for batch in begun]
    for order, expected in (("asc", inputs), ("desc", inputs[::-1])):
        listed = [file.id for file in client.files.list(limit=2, order=order, purpose="batch")]  # type: ignore[arg-type]
        assert len(listed) == len(set(listed))
        assert [each for each in listed if each in inputs] == expected
    for batch in begun:
        ended(client, batch)


def test_what_clients_do_with_a_file(client: OpenAI, tmp_path: Path) -> None:
    content = jsonl("/v1/embeddings", BODIES["/v1/embeddings"])
    source = tmp_path / "größe 1.jsonl"
    source.write_bytes(content)
    with source.open("rb") as opened:
        file = client.files.create(
            file=opened, purpose="batch", expires_after={"anchor": "created_at", "seconds": 3600}
        )
    assert isinstance(file, FileObject)
    assert (file.filename, file.bytes, file.purpose, file.object) == (source.name, len(content), "batch", "file")
    assert file.expires_at == file.created_at + 3600
    assert client.files.wait_for_processing(file.id, poll_interval=0.01) == client.files.retrieve(file.id) == file
    assert client.files.content(file.id).content == content
    with client.files.with_streaming_response.content(file.id) as answer:
        answer.stream_to_file(tmp_path / "copy")
    assert (tmp_path / "copy").read_bytes() == content
    deleted = client.files.delete(file.id)
    assert (deleted.id, deleted.deleted, deleted.object) == (file.id, True, "file")
    for call in (client.files.retrieve, client.files.content, client.files.delete):
        with pytest.raises(NotFoundError):
            call(file.id)


async def test_the_asynchronous_client(aclient: AsyncOpenAI, client: OpenAI, tmp_path: Path) -> None:
    content = jsonl("/v1/embeddings", BODIES["/v1/embeddings"])
    file = await aclient.files.create(file=("in.jsonl", content), purpose="batch")
    assert (await aclient.files.wait_for_processing(file.id)).status == "processed"
    begun = await aclient.batches.create(
        input_file_id=file.id, endpoint="/v1/embeddings", completion_window="24h",
        output_expires_after={"anchor": "created_at", "seconds": 7200},
    )  # fmt: skip
    assert begun.id in [batch.id async for batch in aclient.batches.list(limit=1)]
    done = ended(client, begun)
    assert done.output_file_id is not None
    output = await aclient.files.retrieve(done.output_file_id)
    assert (output.purpose, output.expires_at) == ("batch_output", output.created_at + 7200)
    async with aclient.files.with_streaming_response.content(output.id) as answer:
        await answer.stream_to_file(tmp_path / "output")
    assert len((tmp_path / "output").read_bytes()) == output.bytes
    assert (await aclient.files.delete(output.id)).deleted
