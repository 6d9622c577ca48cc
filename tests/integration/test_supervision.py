"""Engines that die or hang under load are detected, reported and replaced; the other model is not affected."""

import os
import signal
import threading
import time
from collections.abc import Generator
from pathlib import Path

import httpx
import psutil
import pytest
from openai import APIError, APIStatusError, OpenAI

from tests.processes import ServiceProcess, tiny_environment

pytestmark = pytest.mark.integration

ENDLESS = {"ignore_eos": True}
DETECTION_TIMEOUT_S = 15
RESTART_TIMEOUT_S = 120


@pytest.fixture(scope="module")
def service(tiny_models: dict[str, Path]) -> Generator[ServiceProcess, None, None]:
    service = ServiceProcess(tiny_environment(tiny_models) | {"HANG_TIMEOUT_S": "5"})
    service.wait_until_ready()
    yield service
    service.end()


def _client(service: ServiceProcess) -> OpenAI:
    return OpenAI(base_url=f"{service.url}/v1", api_key="unused", max_retries=0, timeout=60)


def _generating_engine(service: ServiceProcess) -> psutil.Process:
    """The process of the generation engine: the one that uses CPU time while text is generated."""
    processes = service.engine_processes()
    assert len(processes) == 2
    before = [sum(process.cpu_times()[:2]) for process in processes]
    _client(service).completions.create(model="tiny-gen", prompt="x", max_tokens=400, extra_body=ENDLESS)
    worked = [sum(process.cpu_times()[:2]) - cpu for process, cpu in zip(processes, before, strict=True)]
    return processes[worked.index(max(worked))]


def _health(service: ServiceProcess, name: str) -> dict:
    found: dict = httpx.get(f"{service.url}/health", trust_env=False).json()["backends"][name]
    return found


def _wait_for(service: ServiceProcess, name: str, state: str, timeout_s: float) -> dict:
    deadline = time.monotonic() + timeout_s
    while (health := _health(service, name))["state"] != state:
        assert time.monotonic() < deadline, f"{name} is {health} and not {state}:\n{service.output[-2000:]}"
        time.sleep(0.05)
    return health


class EmbeddingClient:
    """A client that sends embedding requests continuously."""

    def __init__(self, service: ServiceProcess) -> None:
        self.vectors: list[list[float]] = []
        self.failures: list[Exception] = []
        self._client = _client(service)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> "EmbeddingClient":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stop.is_set():
            try:
                answer = self._client.embeddings.create(model="tiny-embed", input="the same")
                self.vectors.append(answer.data[0].embedding)
            except APIError as error:
                self.failures.append(error)


def test_engines_have_a_lower_priority_than_the_service(service: ServiceProcess) -> None:
    own = psutil.Process(service.pid).nice()
    assert [process.nice() for process in service.engine_processes()] == [min(own + 5, 19)] * 2


@pytest.mark.parametrize(
    ("number", "state"), [(signal.SIGKILL, "dead"), (signal.SIGSTOP, "hung")], ids=["kill-9", "stopped"]
)
def test_a_lost_engine_is_replaced_and_the_other_keeps_working(
    service: ServiceProcess, number: signal.Signals, state: str
) -> None:
    client = _client(service)
    lost = _generating_engine(service)
    before = client.completions.create(model="tiny-gen", prompt="The quick", max_tokens=20, temperature=0)
    restarts = _health(service, "generate")["restarts"]
    with EmbeddingClient(service) as embedding:
        stream = client.completions.create(
            model="tiny-gen", prompt="x", max_tokens=480, n=8, stream=True, extra_body=ENDLESS
        )
        next(stream)
        os.kill(lost.pid, number)
        with pytest.raises(APIError) as broken:
            list(stream)
        _wait_for(service, "generate", state, DETECTION_TIMEOUT_S) if number is signal.SIGSTOP else None
        with pytest.raises(APIStatusError) as refused:
            client.completions.create(model="tiny-gen", prompt="x", max_tokens=2)
        health = _wait_for(service, "generate", "ready", RESTART_TIMEOUT_S)
    assert broken.value.code in ("engine_died", "engine_hung")
    assert refused.value.status_code == 503
    assert int(refused.value.response.headers["retry-after"]) >= 1
    assert health["restarts"] == restarts + 1
    assert health["last_error"]["message"]
    assert embedding.failures == []
    assert len(embedding.vectors) > 10
    assert all(vector == embedding.vectors[0] for vector in embedding.vectors)
    assert not psutil.pid_exists(lost.pid), "the old process has ended"
    after = client.completions.create(model="tiny-gen", prompt="The quick", max_tokens=20, temperature=0)
    assert after.choices[0].text == before.choices[0].text
    assert len(service.engine_processes()) == 2
