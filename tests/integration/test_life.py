"""From start to end: health tells the truth on the way, and no engine process is left at the end of any."""

import os
import shutil
import signal
import tempfile
import time
from collections.abc import Generator
from pathlib import Path

import httpx
import psutil
import pytest

from tests.processes import ServiceProcess, tiny_environment

pytestmark = pytest.mark.integration

PATIENCE_S = 20


@pytest.fixture
def temporary() -> Generator[Path, None, None]:
    """Where the service has its temporary files; short, because names of sockets are."""
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder)


@pytest.fixture
def service(tiny_models: dict[str, Path], temporary: Path) -> Generator[ServiceProcess, None, None]:
    service = ServiceProcess(tiny_environment(tiny_models) | {"TMPDIR": str(temporary)})
    yield service
    service.end()


def _alive(processes: list[psutil.Process]) -> list[psutil.Process]:
    """Those that still run; one that only waits for its parent to notice its end does not."""
    alive = []
    for process in processes:
        try:
            if process.status() != psutil.STATUS_ZOMBIE:
                alive.append(process)
        except psutil.NoSuchProcess:
            continue
    return alive


def _assert_all_end(processes: list[psutil.Process]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while (left := _alive(processes)) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not left, f"engine processes outlive the service: {left}"


def _wait_for_engines(service: ServiceProcess, count: int) -> list[psutil.Process]:
    deadline = time.monotonic() + 60
    while len(processes := service.engine_processes()) < count:
        assert time.monotonic() < deadline, f"no {count} engine processes: {service.output[-2000:]}"
        time.sleep(0.05)
    return processes


@pytest.mark.parametrize(
    ("number", "code"),
    [(signal.SIGINT, 0), (signal.SIGTERM, 0), (signal.SIGKILL, -signal.SIGKILL)],
    ids=["ctrl-c", "sigterm", "kill-9"],
)
def test_nothing_is_left_of_a_service_that_ends(
    service: ServiceProcess, temporary: Path, number: signal.Signals, code: int
) -> None:
    url = service.wait_until_listening()
    first = httpx.get(f"{url}/health", trust_env=False)
    assert first.status_code == 503
    assert {role["state"] for role in first.json()["backends"].values()} == {"starting"}
    assert httpx.get(f"{url}/health/live", trust_env=False).status_code == 200
    early = httpx.post(f"{url}/v1/embeddings", json={"model": "tiny-embed", "input": "x"}, trust_env=False)
    assert early.status_code == 503
    assert int(early.headers["retry-after"]) >= 1
    assert early.json()["error"]["code"] == "model_not_ready"

    service.wait_until_ready_at(url)
    health = httpx.get(f"{url}/health", trust_env=False)
    assert health.status_code == 200
    assert {role["state"] for role in health.json()["backends"].values()} == {"ready"}
    processes = service.engine_processes()
    assert len(processes) >= 2, "an engine for each model"
    service.signal(number)
    assert service.wait() == code
    _assert_all_end(processes)
    assert "Traceback" not in service.output
    if number is not signal.SIGKILL:
        assert list(temporary.iterdir()) == [], "no sockets, no files"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL], ids=["sigterm", "kill-9"])
@pytest.mark.parametrize("moment", ["early", "late"])
def test_nothing_is_left_of_a_service_that_ends_while_it_starts(
    service: ServiceProcess, number: signal.Signals, moment: str
) -> None:
    processes = _wait_for_engines(service, 1 if moment == "early" else 2)
    if moment == "late":
        service.wait_for_line("loading the model")
    service.signal(number)
    service.wait()
    _assert_all_end(processes)
    # A process that is being spawned in the moment of a kill -9 finds half of what it was to be told, and says so.
    assert number == signal.SIGKILL or "Traceback" not in service.output


def test_an_engine_that_can_not_start_says_why_and_leaves_the_other_at_work(
    tiny_models: dict[str, Path], tmp_path: Path
) -> None:
    broken = shutil.copytree(tiny_models["tiny-gen"], tmp_path / "tiny-gen")
    weights = broken / "model.safetensors"
    os.truncate(weights, weights.stat().st_size - 1000)
    service = ServiceProcess(tiny_environment(tiny_models) | {"MODEL_GEN_NAME": str(broken)})
    try:
        url = service.wait_until_listening()
        told = service.wait_for_line(r"generate +failed +tiny-gen +(.*)")[1]
        assert "file not fully covered" in told
        service.wait_for_status(f"{url}/v1/models")
        deadline = time.monotonic() + 60
        ask = {"model": "tiny-embed", "input": "x"}
        while (answer := httpx.post(f"{url}/v1/embeddings", json=ask, trust_env=False)).status_code != 200:
            assert time.monotonic() < deadline, answer.text
            time.sleep(0.1)
        generate = httpx.get(f"{url}/health", trust_env=False).json()["backends"]["generate"]
        assert (generate["state"], generate["reason"]) == ("failed", told)
        assert "Traceback" not in service.output
    finally:
        service.end()
