"""Services that are killed while a batch runs, and several on one database: each line is answered exactly once."""

import json
import random
import signal
import time
from collections.abc import Callable
from typing import Any

import httpx

from tests.integration.batches.services import Services

LINES = 5000
KILLS = 5
TIMEOUT_S = 120
ENDED = ("completed", "failed", "expired", "cancelled")


def content(count: int, word: str) -> bytes:
    lines = (
        {
            "custom_id": f"{word}-{number}",
            "method": "POST",
            "url": "/v1/embeddings",
            "body": {"model": "fake-embed", "input": f"{word} {number}"},
        }
        for number in range(count)
    )
    return b"".join(json.dumps(line).encode() + b"\n" for line in lines)


def create(url: str, count: int, word: str) -> str:
    with httpx.Client(base_url=f"{url}/v1", trust_env=False, timeout=60) as http:
        form = {"file": ("in.jsonl", content(count, word))}
        file = http.post("/files", data={"purpose": "batch"}, files=form).raise_for_status().json()
        request = {"input_file_id": file["id"], "endpoint": "/v1/embeddings", "completion_window": "24h"}
        return str(http.post("/batches", json=request).raise_for_status().json()["id"])


def reached(url: str, batch_id: str, condition: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
    """The batch, once a condition holds."""
    deadline = time.monotonic() + TIMEOUT_S
    while time.monotonic() < deadline:
        batch: dict[str, Any] = httpx.get(f"{url}/v1/batches/{batch_id}", trust_env=False).json()
        if condition(batch):
            return batch
        time.sleep(0.02)
    raise AssertionError(f"the batch is still {batch['status']}: {batch['request_counts']}")


def has_ended(batch: dict[str, Any]) -> bool:
    return batch["status"] in ENDED


def has_answered(count: int) -> Callable[[dict[str, Any]], bool]:
    return lambda batch: batch["request_counts"]["completed"] >= count or has_ended(batch)


def check_results(url: str, batch: dict[str, Any], count: int, word: str) -> None:
    """Each line has one answer, its own."""
    assert batch["status"] == "completed", batch
    assert batch["request_counts"] == {"total": count, "completed": count, "failed": 0}
    assert batch["error_file_id"] is None
    text = httpx.get(f"{url}/v1/files/{batch['output_file_id']}/content", trust_env=False).text
    records = [json.loads(line) for line in text.splitlines()]
    assert len(records) == count
    assert {record["custom_id"] for record in records} == {f"{word}-{number}" for number in range(count)}
    assert len({record["id"] for record in records}) == count
    for record in records:
        number = record["custom_id"].partition("-")[2]
        assert record["response"]["body"]["usage"]["prompt_tokens"] == len(f"{word} {number}")


def test_a_batch_survives_kills_at_random_moments(services: Services):
    service = services.start()
    batch_id = create(service.url, LINES, "kill")
    chance = random.Random()
    moments = sorted(chance.randrange(LINES) for _ in range(KILLS - 1))
    for moment in (0, *moments):
        reached(service.url, batch_id, has_answered(moment))
        service.signal(signal.SIGKILL)
        service.wait()
        service = services.start()
    done = reached(service.url, batch_id, has_ended)
    check_results(service.url, done, LINES, "kill")
    computed = services.computed("kill")
    assert len(set(computed)) == LINES
    # Only what ran or was not written yet when a process was killed runs again.
    assert len(computed) < 2 * LINES, moments


def test_another_service_goes_on_when_one_is_killed(services: Services):
    first, second = services.start(), services.start()
    batch_ids = [create(first.url, 1000, f"over{number}") for number in range(2)]
    reached(second.url, batch_ids[0], has_answered(100))
    first.signal(signal.SIGKILL)
    first.wait()
    for number, batch_id in enumerate(batch_ids):
        check_results(second.url, reached(second.url, batch_id, has_ended), 1000, f"over{number}")


def test_two_services_run_no_line_twice(services: Services):
    first, second = services.start(), services.start()
    urls = [first.url, second.url] * 3
    batch_ids = [create(url, 500, f"twice{number}") for number, url in enumerate(urls)]
    for number, batch_id in enumerate(batch_ids):
        check_results(first.url, reached(second.url, batch_id, has_ended), 500, f"twice{number}")
    computed = services.computed("twice")
    assert len(computed) == len(set(computed)) == 3000


def test_a_stop_interrupts_a_batch_and_the_next_start_goes_on(services: Services):
    service = services.start()
    batch_id = create(service.url, 2000, "stop")
    reached(service.url, batch_id, has_answered(200))
    service.signal(signal.SIGTERM)
    assert service.wait(20) == 0
    assert "Traceback" not in service.output
    service = services.start()
    stored = reached(service.url, batch_id, has_answered(200))
    assert stored["status"] == "in_progress"
    check_results(service.url, reached(service.url, batch_id, has_ended), 2000, "stop")
