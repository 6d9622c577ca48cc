"""Two embedding servers for one role, one of which is stopped, killed and restarted under load."""

import array
import asyncio
import base64
import contextlib
import re
import signal
import time
from collections.abc import AsyncGenerator, Callable, Generator
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from domain.roles import Role
from tests.conftest import free_port
from tests.processes import ServiceProcess, VLLMServerProcess

pytestmark = pytest.mark.integration

READ_TIMEOUT_S = 5
CLIENTS = 8
TEXTS = [f"text number {number}" for number in range(50)]
TIMEOUT_S = 120


class Pair:
    """A service with two servers: a stable one, and one that the tests stop and kill."""

    def __init__(self, service: ServiceProcess, stable: str, start: Callable[[], VLLMServerProcess]) -> None:
        self.service = service
        self.stable = stable
        self._start = start
        self.server = start()

    def kill(self) -> None:
        """Kill the server and its engine, as the kernel does when memory runs out."""
        processes = [*psutil.Process(self.server.pid).children(recursive=True), psutil.Process(self.server.pid)]
        for process in processes:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        self.server.wait()

    def restart(self) -> None:
        self.server = self._start()


@pytest.fixture(scope="module")
def pair(tiny_models: dict[str, Path], vllm_servers: dict[Role, str]) -> Generator[Pair, None, None]:
    port = free_port()
    service = ServiceProcess(
        {
            "EMBED_BACKEND": "vllm-http",
            "GEN_BACKEND": "vllm-http",
            "VLLM_EMBED_URL": f"{vllm_servers[Role.EMBED]},http://127.0.0.1:{port}/v1",
            "VLLM_GEN_URL": vllm_servers[Role.GENERATE],
            "HTTP_READ_TIMEOUT_S": str(READ_TIMEOUT_S),
        }
    )
    pair = None
    try:
        # One server is enough to be ready.
        service.wait_until_ready()
        pair = Pair(
            service,
            vllm_servers[Role.EMBED],
            lambda: VLLMServerProcess(tiny_models["tiny-embed"], port=port, runner="pooling"),
        )
        yield pair
    finally:
        service.end()
        if pair is not None:
            pair.server.signal(signal.SIGCONT)
            pair.server.end()


@pytest.fixture
async def client(pair: Pair) -> AsyncGenerator[httpx.AsyncClient, None]:
    async with httpx.AsyncClient(base_url=pair.service.url, trust_env=False, timeout=60) as client:
        yield client


class Load:
    """Clients that send requests continuously and check each response."""

    def __init__(self, client: httpx.AsyncClient) -> None:
        self._client = client
        self._expected: dict[str, list[float]] = {}
        self._is_running = True
        self.answered = self.wrong = 0
        self.refused: list[int] = []
        self.longest_s = 0.0

    async def __aenter__(self) -> "Load":
        for text in TEXTS:
            self._expected[text] = _vector(await self._ask(text))
        self._tasks = [asyncio.create_task(self._client_at(number)) for number in range(CLIENTS)]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._is_running = False
        await asyncio.gather(*self._tasks)

    async def wait_for_responses(self, count: int) -> None:
        """Wait until this many further requests have been answered."""
        wanted = self.answered + count
        await _until(lambda: self.answered >= wanted)

    async def _client_at(self, start: int) -> None:
        number = start
        while self._is_running:
            text = TEXTS[number % len(TEXTS)]
            number += CLIENTS + 1
            began = time.monotonic()
            response = await self._ask(text)
            self.longest_s = max(self.longest_s, time.monotonic() - began)
            if response.status_code != 200:
                self.refused.append(response.status_code)
                continue
            nearness = sum(a * b for a, b in zip(_vector(response), self._expected[text], strict=True))
            self.wrong += abs(nearness - 1) > 1e-3
            self.answered += 1

    async def _ask(self, text: str) -> httpx.Response:
        body = {"model": "tiny-embed", "input": text, "encoding_format": "base64"}
        return await self._client.post("/v1/embeddings", json=body)


def _vector(response: httpx.Response) -> list[float]:
    return list(array.array("f", base64.b64decode(response.json()["data"][0]["embedding"])))


async def _until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + TIMEOUT_S
    while not condition():
        assert time.monotonic() < deadline, "the condition was not met in time"
        await asyncio.sleep(0.02)


async def _members(client: httpx.AsyncClient) -> list[dict[str, Any]]:
    return (await client.get("/health")).json()["backends"]["embed"]["members"]


async def _until_second_is(client: httpx.AsyncClient, state: str) -> dict[str, Any]:
    deadline = time.monotonic() + TIMEOUT_S
    while True:
        first, second = await _members(client)
        assert first["state"] == "ready"
        if second["state"] == state:
            return second
        assert time.monotonic() < deadline, second
        await asyncio.sleep(0.1)


async def _completed_requests(url: str) -> int:
    """Number of requests that a server reports as completed."""
    async with httpx.AsyncClient(trust_env=False, timeout=30) as client:
        metrics = (await client.get(f"{url}/metrics")).text
    return int(sum(map(float, re.findall(r"^vllm:request_success_total\{[^}]*\} ([\d.e+]+)$", metrics, re.M))))


async def test_a_server_that_starts_later_shares_the_load(pair: Pair, client: httpx.AsyncClient) -> None:
    await _until_second_is(client, "ready")
    async with Load(client) as load:
        before = [await _completed_requests(pair.stable), await _completed_requests(pair.server.url)]
        await load.wait_for_responses(200)
        after = [await _completed_requests(pair.stable), await _completed_requests(pair.server.url)]
    assert load.refused == []
    assert load.wrong == 0
    # Waiting requests are batched, so that servers get fewer of them.
    assert all(now - then >= 20 for then, now in zip(before, after, strict=True))


async def test_a_stopped_server_costs_a_read_timeout_and_is_ejected(pair: Pair, client: httpx.AsyncClient) -> None:
    await _until_second_is(client, "ready")
    async with Load(client) as load:
        await load.wait_for_responses(50)
        pair.server.signal(signal.SIGSTOP)
        try:
            second = await _until_second_is(client, "unavailable")
            refused = list(load.refused)
            await load.wait_for_responses(100)
        finally:
            pair.server.signal(signal.SIGCONT)
        await _until_second_is(client, "ready")
        await load.wait_for_responses(50)
    assert "did not answer in time" in second["last_error"]
    assert set(refused) <= {504}
    assert refused, "its running requests fail with an error"
    assert load.refused == refused, "no further failures after it was ejected"
    assert load.wrong == 0
    assert load.longest_s < 2 * READ_TIMEOUT_S


async def test_a_killed_server_is_invisible_to_clients_and_used_again_after_its_restart(
    pair: Pair, client: httpx.AsyncClient
) -> None:
    await _until_second_is(client, "ready")
    async with Load(client) as load:
        await load.wait_for_responses(50)
        pair.kill()
        second = await _until_second_is(client, "unavailable")
        assert second["address"] == pair.server.url.removeprefix("http://")
        assert second["ejections"] >= 1
        await load.wait_for_responses(200)
        assert (await client.get("/health/ready")).status_code == 200

        pair.restart()
        await _until_second_is(client, "ready")
        before = await _completed_requests(pair.server.url)
        await load.wait_for_responses(200)
        assert await _completed_requests(pair.server.url) - before >= 20
    assert load.refused == []
    assert load.wrong == 0
