"""`memoria batch` against a service, as a user runs it."""

import json
import os
import re
import subprocess
from pathlib import Path

import pytest

from tests.integration.batches.services import Services
from tests.processes import MEMORIA, ServiceProcess

LINES = [
    {
        "custom_id": f"line-{number}",
        "method": "POST",
        "url": "/v1/embeddings",
        "body": {"model": "fake-embed", "input": f"text {number}"},
    }
    for number in range(20)
]


@pytest.fixture
def service(services: Services) -> ServiceProcess:
    return services.start()


def run(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {"PATH": os.environ["PATH"], "HOME": str(folder), "COLUMNS": "100"}
    return subprocess.run(
        [str(MEMORIA), "batch", *arguments],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )


def write(folder: Path, lines: list[dict[str, object]]) -> Path:
    path = folder / "in.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def ids_in(path: Path) -> set[str]:
    return {json.loads(line)["custom_id"] for line in path.read_text().splitlines()}


def test_a_file_is_run_and_its_answers_are_downloaded(service: ServiceProcess, tmp_path: Path):
    write(tmp_path, LINES)
    done = run(tmp_path, "run", "in.jsonl", "--url", service.url)
    assert done.returncode == 0, done.stderr
    assert ids_in(tmp_path / "in.output.jsonl") == {line["custom_id"] for line in LINES}
    assert not (tmp_path / "in.errors.jsonl").exists()
    assert "20 of 20 lines answered" in done.stderr
    batch_id = re.search(r"batch_\w+", done.stderr)
    assert batch_id is not None
    again = run(tmp_path, "wait", batch_id[0], "--url", f"{service.url}/v1", "--output", "again.jsonl")
    assert again.returncode == 0, again.stderr
    assert (tmp_path / "again.jsonl").read_bytes() == (tmp_path / "in.output.jsonl").read_bytes()
    ended = run(tmp_path, "cancel", batch_id[0], "--url", service.url)
    assert (ended.returncode, "status 'completed'" in ended.stderr) == (2, True)


def test_failed_lines_make_the_exit_status_1(service: ServiceProcess, tmp_path: Path):
    long = {**LINES[0], "custom_id": "long", "body": {"model": "fake-embed", "input": "x" * 300}}
    write(tmp_path, [*LINES, long])
    done = run(tmp_path, "run", "in.jsonl", "--url", service.url, "--output", "out.jsonl")
    assert done.returncode == 1, done.stderr
    assert "20 of 21 lines answered, 1 failed" in done.stderr
    assert ids_in(tmp_path / "out.errors.jsonl") == {"long"}


def test_invalid_lines_are_shown(service: ServiceProcess, tmp_path: Path):
    write(tmp_path, [LINES[0], LINES[0]])
    done = run(tmp_path, "run", "in.jsonl", "--url", service.url)
    assert done.returncode == 1
    assert "line 2: The 'custom_id' 'line-0' occurs in an earlier line." in done.stderr
    assert "(duplicate_custom_id)" in done.stderr


def test_mistakes_are_named(service: ServiceProcess, tmp_path: Path):
    path = write(tmp_path, [{"custom_id": "a"}])
    assert "--endpoint" in run(tmp_path, "run", path.name, "--url", service.url).stderr
    write(tmp_path, LINES)
    for arguments, expected in (
        (("run", path.name, "--url", "nowhere"), "--url must be"),
        (("run", path.name, "--url", "http://127.0.0.1:1"), "does not answer"),
        (("run", path.name, "--url", service.url, "--window", "5"), "completion_window"),
        (("run", path.name, "--url", service.url, "--endpoint", "/v1/messages"), "Invalid 'endpoint'"),
        (("wait", "batch_none", "--url", service.url), "not found"),
        (("run", "missing.jsonl"), "does not exist"),
    ):
        done = run(tmp_path, *arguments)
        assert (done.returncode, expected in done.stderr) == (2, True), (arguments, done.stderr)
        assert "Traceback" not in done.stderr
