"""Start and end of the service: health is correct in each phase, and no engine process survives."""

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

TIMEOUT_S = 20


@pytest.fixture
def temporary() -> Generator[Path, None, None]:
    """Folder for the service's temporary files; its path is short because socket paths are limited."""
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder)


@pytest.fixture
def service(tiny_models: dict[str, Path], temporary: Path) -> Generator[ServiceProcess, None, None]:
    service = ServiceProcess(tiny_environment(tiny_models) | {"TMPDIR": str(temporary)})
    yield service
    service.end()


def _alive(processes: list[psutil.Process]) -> list[psutil.Process]:
    """The processes that still run; zombies do not count."""
    alive = []
    for process in processes:
        try:
            if process.status() != psutil.STATUS_ZOMBIE:
                alive.append(process)
        except psutil.NoSuchProcess:
            continue
    return alive


def _assert_all_end(processes: list[psutil.Process]) -> None:
    deadline = time.monotonic() + TIMEOUT_S
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
def test_no_process_survives_the_service(
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
def test_no_process_survives_a_service_that_ends_while_starting(
    service: ServiceProcess, number: signal.Signals, moment: str
) -> None:
    processes = _wait_for_engines(service, 1 if moment == "early" else 2)
    if moment == "late":
        service.wait_for_line("loading the model")
    service.signal(number)
    service.wait()
    _assert_all_end(processes)
    # A process that is being spawned during a kill -9 may read incomplete data and print a traceback.
    assert number == signal.SIGKILL or "Traceback" not in service.output


def test_a_failed_engine_reports_the_reason_and_the_other_works(
    tiny_models: dict[str, Path], tmp_path: Path
) -> None:
    broken = shutil.copytree(tiny_models["tiny-gen"], tmp_path / "tiny-gen")
    weights = broken / "model.safetensors"
    os.truncate(weights, weights.stat().st_size - 1000)
    service = ServiceProcess(tiny_environment(tiny_models) | {"MODEL_GEN_NAME": str(broken)})
    try:
        url = service.wait_until_listening()
        reason = service.wait_for_line(r"generate +failed +tiny-gen +(.*)")[1]
        assert "file not fully covered" in reason
        service.wait_for_status(f"{url}/v1/models")
        deadline = time.monotonic() + 60
        ask = {"model": "tiny-embed", "input": "x"}
        while (answer := httpx.post(f"{url}/v1/embeddings", json=ask, trust_env=False)).status_code != 200:
            assert time.monotonic() < deadline, answer.text
            time.sleep(0.1)
        generate = httpx.get(f"{url}/health", trust_env=False).json()["backends"]["generate"]
        assert (generate["state"], generate["reason"]) == ("failed", reason)
        assert "Traceback" not in service.output
    finally:
        service.end()
