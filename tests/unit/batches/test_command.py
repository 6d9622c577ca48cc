"""`memoria batch` while it waits: progress, outages and Ctrl-C."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import httpx
import pytest

from app.commands.batch import command
from app.commands.batch.client import BatchClient, first_endpoint
from app.commands.batch.command import BatchPlan, run_batch, wait_for
from app.commands.console import Console
from domain.errors import ConfigurationError

ID = "batch_1"


def shown(status: str, *, total: int = 4, completed: int = 0, failed: int = 0, **more: Any) -> dict[str, Any]:
    counts = {"total": total, "completed": completed, "failed": failed}
    return {"id": ID, "object": "batch", "status": status, "request_counts": counts} | more


class Service:
    """A service that answers in turn what tests wrote down."""

    def __init__(self, *states: Any) -> None:
        self.states = list(states)
        self.requests: list[tuple[str, str]] = []

    def __call__(self, request: httpx.Request) -> httpx.Response:
        path = request.url.path.removeprefix("/v1")
        self.requests.append((request.method, path))
        if path.endswith("/content"):
            return httpx.Response(200, content=b"{}\n" * 3)
        if path == "/files":
            assert b'name="purpose"' in request.read()
            return httpx.Response(200, json={"id": "file-1"})
        if request.method == "POST":
            return httpx.Response(200, json=shown("validating"))
        state = self.states.pop(0)
        if isinstance(state, Exception):
            raise state
        if isinstance(state, int):
            return httpx.Response(state, json={"error": {"message": f"Status {state}."}})
        return httpx.Response(200, json=state)


def client_of(service: Service) -> BatchClient:
    return BatchClient("http://service", "key", transport=httpx.MockTransport(service))


def waited(service: Service, output: Path, *, sleep: Callable[[float], None] = lambda _: None) -> int:
    with client_of(service) as client:
        return wait_for(client, ID, output, Console(), sleep=sleep)


DONE = shown("completed", completed=4, output_file_id="file-out")


def test_a_batch_is_waited_for_and_downloaded(tmp_path, capsys):
    service = Service(shown("validating", total=0), shown("in_progress", completed=2), DONE)
    assert waited(service, tmp_path / "out.jsonl") == 0
    assert (tmp_path / "out.jsonl").read_bytes() == b"{}\n" * 3
    assert [path.name for path in tmp_path.iterdir()] == ["out.jsonl"]
    assert "4 of 4 lines answered" in capsys.readouterr().err


def test_an_outage_is_waited_for(tmp_path, capsys):
    gone = httpx.ConnectError("refused")
    assert waited(Service(gone, gone, 503, 429, DONE), tmp_path / "out.jsonl") == 0
    assert capsys.readouterr().err.count("Waiting until it does.") == 1


@pytest.mark.parametrize(
    "last",
    [
        shown("completed", completed=3, failed=1),
        shown("cancelled"),
        shown("expired", completed=1, failed=3),
        shown("failed", errors={"data": [{"code": "empty_file", "message": "The file has no lines."}]}),
    ],
)
def test_anything_but_all_answers_is_a_failure(tmp_path, capsys, last):
    assert waited(Service(last), tmp_path / "out.jsonl") == 1
    err = capsys.readouterr().err
    assert f"is {last['status']}" in err
    assert ("The file has no lines. (empty_file)" in err) == (last["status"] == "failed")


def test_a_batch_that_is_unknown_is_a_mistake(tmp_path):
    with pytest.raises(ConfigurationError, match=r"Status 404\."):
        waited(Service(404), tmp_path / "out.jsonl")
    with pytest.raises(ConfigurationError, match="MEMORIA_API_KEY"):
        waited(Service(401), tmp_path / "out.jsonl")


def test_a_file_that_cannot_be_written_is_a_mistake(tmp_path):
    with pytest.raises(ConfigurationError, match="can't be written"):
        waited(Service(DONE), tmp_path / "missing" / "out.jsonl")


def interrupted(_: float) -> None:
    raise KeyboardInterrupt


@pytest.mark.parametrize("answer", [True, False, None])
def test_ctrl_c_leaves_the_batch_or_cancels_it(tmp_path, capsys, monkeypatch, answer):
    monkeypatch.setattr(command.sys.stdin, "isatty", lambda: answer is not None, raising=False)
    monkeypatch.setattr(click, "confirm", lambda *_, **__: answer)
    service = Service(shown("in_progress"))
    assert waited(service, tmp_path / "out.jsonl", sleep=interrupted) == 130
    assert (("POST", f"/batches/{ID}/cancel") in service.requests) == bool(answer)
    assert f"memoria batch wait {ID}" in capsys.readouterr().err


def test_the_endpoint_is_that_of_the_first_line(tmp_path):
    file = tmp_path / "in.jsonl"
    for content, expected in (
        (json.dumps({"url": "/v1/embeddings"}), "/v1/embeddings"),
        ("nonsense", None),
        ("[]", None),
        ('{"url": 5}', None),
        ("", None),
    ):
        file.write_text(content)
        assert first_endpoint(file) == expected
    plan = BatchPlan(file=file, endpoint=None, window="24h", output=None)
    with client_of(Service()) as client, pytest.raises(ConfigurationError, match="--endpoint"):
        run_batch(client, plan, Console())


def test_a_run_uploads_creates_waits_and_downloads(tmp_path):
    file = tmp_path / "in.jsonl"
    file.write_text('{"url": "/v1/embeddings"}\n')
    service = Service(DONE)
    plan = BatchPlan(file=file, endpoint=None, window="24h", output=None)
    with client_of(service) as client:
        assert run_batch(client, plan, Console()) == 0
    assert [path for _, path in service.requests] == [
        "/files",
        "/batches",
        f"/batches/{ID}",
        "/files/file-out/content",
    ]
    assert (tmp_path / "in.output.jsonl").exists()
