"""A gateway with several processes on one port."""

import contextlib
import json
import re
import signal
import socket
import time
from collections.abc import Callable, Generator, Sequence
from typing import Any, TypeVar

import psutil
import pytest
from openai import OpenAI
from openai.types import Batch

from domain.roles import Role
from tests.processes import ProcessFailedError, ServiceProcess

pytestmark = pytest.mark.integration

T = TypeVar("T")

PROCESSES = 3
# Long, because other engines of the same test run use the CPU too.
TIMEOUT_S = 120
# So many that each process gets some: the kernel distributes them by a hash.
CONNECTIONS = 90


@pytest.fixture
def service(vllm_servers: dict[Role, str]) -> Generator[ServiceProcess, None, None]:
    started = ServiceProcess(
        {
            "API_PROCESSES": str(PROCESSES),
            "EMBED_BACKEND": "vllm-http",
            "GEN_BACKEND": "vllm-http",
            "VLLM_EMBED_URL": vllm_servers[Role.EMBED],
            "VLLM_GEN_URL": vllm_servers[Role.GENERATE],
            # Puts the name of Python's resource tracker into the command line of every process.
            "PYTHONWARNINGS": "ignore::UserWarning:multiprocessing.resource_tracker",
        }
    )
    try:
        started.wait_until_listening()
        _wait(lambda: _serving(started) == PROCESSES)
        started.wait_for_line("generate +ready")
        started.wait_until_ready_at(started.url)
        yield started
    finally:
        started.end()


def _wait(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + TIMEOUT_S
    while time.monotonic() < deadline:
        if condition():
            return
        time.sleep(0.1)
    raise ProcessFailedError("the condition was not met in time")


def _port(service: ServiceProcess) -> int:
    return int(service.url.rpartition(":")[2])


def _connections(process: psutil.Process, service: ServiceProcess, status: str) -> int:
    with contextlib.suppress(psutil.Error):
        connections = process.net_connections("tcp")
        return sum(each.laddr.port == _port(service) and each.status == status for each in connections)
    return 0


def _serving(service: ServiceProcess) -> int:
    return sum(_connections(process, service, psutil.CONN_LISTEN) for process in service.engine_processes())


def _client(service: ServiceProcess) -> OpenAI:
    return OpenAI(base_url=f"{service.url}/v1", api_key="unused", max_retries=0)


def _works(service: ServiceProcess) -> bool:
    with _client(service) as client:
        return len(client.embeddings.create(model="tiny-embed", input="x").data) == 1


def test_connections_are_distributed_and_all_are_served(service: ServiceProcess) -> None:
    with contextlib.ExitStack() as opened:
        for _ in range(CONNECTIONS):
            opened.enter_context(socket.create_connection(("127.0.0.1", _port(service))))
        processes = service.engine_processes()
        counts = [_connections(process, service, psutil.CONN_ESTABLISHED) for process in processes]
        assert len(counts) == PROCESSES
        assert min(counts) > 0
    assert all(_works(service) for _ in range(20))
    assert len(re.findall("embed +ready", service.output)) == 1, "one process logs it for all"


def _begin(service: ServiceProcess, url: Any, bodies: Sequence[dict[str, Any]]) -> str:
    """Create a batch; each request may reach another process."""
    lines = (
        {"custom_id": f"line-{number}", "method": "POST", "url": url, "body": body}
        for number, body in enumerate(bodies)
    )
    content = b"".join(json.dumps(line).encode() + b"\n" for line in lines)
    with _client(service) as client:
        file_id = client.files.create(file=("in.jsonl", content), purpose="batch").id
    with _client(service) as client:
        assert client.files.content(file_id).content == content
    with _client(service) as client:
        return client.batches.create(input_file_id=file_id, endpoint=url, completion_window="24h").id


def _batch(service: ServiceProcess, batch_id: str) -> Batch:
    with _client(service) as client:
        return client.batches.retrieve(batch_id)


def _ended(service: ServiceProcess, batch_id: str, count: int) -> Batch:
    """The batch at its end, where each line has one record."""
    _wait(lambda: _batch(service, batch_id).status in ("completed", "cancelled"))
    done = _batch(service, batch_id)
    found = []
    for file_id in filter(None, (done.output_file_id, done.error_file_id)):
        with _client(service) as client:
            found += [json.loads(line)["custom_id"] for line in client.files.content(file_id).text.splitlines()]
    assert sorted(found) == sorted(f"line-{number}" for number in range(count))
    return done


def test_batches_are_those_of_all_processes(service: ServiceProcess) -> None:
    embeddings: dict[str, Any] = {"model": "tiny-embed", "input": "x"}
    batches = [_begin(service, "/v1/embeddings", [embeddings] * 300) for _ in range(3)]
    for batch_id in batches:
        done = _ended(service, batch_id, 300)
        assert done.request_counts is not None
        assert (done.status, done.request_counts.completed) == ("completed", 300)
    endless = {"model": "tiny-gen", "prompt": "x", "max_tokens": 300, "ignore_eos": True}
    begun = _begin(service, "/v1/completions", [endless] * 2000)
    _wait(lambda: (_batch(service, begun).request_counts or done.request_counts).completed > 0)
    with _client(service) as client:
        client.batches.cancel(begun)
    assert _ended(service, begun, 2000).status == "cancelled"


def test_a_killed_process_is_replaced(service: ServiceProcess) -> None:
    before = {process.pid for process in service.engine_processes()}
    lost = min(before)
    psutil.Process(lost).kill()
    _wait(lambda: _serving(service) == PROCESSES and lost not in {each.pid for each in service.engine_processes()})
    service.wait_until_ready_at(service.url)
    after = {process.pid for process in service.engine_processes()}
    assert len(after & before) == PROCESSES - 1
    assert all(_works(service) for _ in range(20))


def test_a_drain_ends_all_processes(service: ServiceProcess) -> None:
    processes = service.engine_processes()
    with _client(service) as client:
        stream = client.completions.create(
            model="tiny-gen", prompt="x", max_tokens=300, stream=True, extra_body={"ignore_eos": True}
        )
        first = next(stream)
        service.signal(signal.SIGTERM)
        rest = list(stream)
    assert first.choices[0].finish_reason is None
    assert rest[-1].choices[0].finish_reason == "length", "running requests are completed"
    assert service.wait() == 0
    assert psutil.wait_procs(processes, timeout=TIMEOUT_S)[1] == []


def test_no_process_survives_a_killed_service(service: ServiceProcess) -> None:
    processes = service.engine_processes()
    service.signal(signal.SIGKILL)
    assert psutil.wait_procs(processes, timeout=TIMEOUT_S)[1] == []


def _asked_of_all(service: ServiceProcess, ask: Callable[[OpenAI], T]) -> list[T]:
    """What many clients got, each over a connection of its own, which any of the processes serves."""
    answers = []
    for _ in range(4 * PROCESSES):
        with _client(service) as client:
            answers.append(ask(client))
    return answers


def test_every_process_knows_the_responses_of_the_others(service: ServiceProcess) -> None:
    more = {"model": "tiny-gen", "extra_body": {"ignore_eos": True}}
    with _client(service) as client:
        first = client.responses.create(input="One", max_output_tokens=4, **more)
        running = client.responses.create(input="Two", background=True, max_output_tokens=400, **more)
    assert {answer.id for answer in _asked_of_all(service, lambda c: c.responses.retrieve(first.id))} == {first.id}
    continued = _asked_of_all(
        service,
        lambda c: c.responses.create(input="x", previous_response_id=first.id, max_output_tokens=1, **more),
    )
    assert len({answer.usage.input_tokens for answer in continued if answer.usage is not None}) == 1
    streams = _asked_of_all(
        service, lambda c: [event.to_json() for event in c.responses.retrieve(running.id, stream=True)]
    )
    assert all(stream == streams[0] for stream in streams)
    assert '"response.incomplete"' in streams[0][-1]


def test_any_process_cancels_the_responses_of_the_others(service: ServiceProcess) -> None:
    def cancel_one(client: OpenAI) -> str | None:
        running = client.responses.create(
            model="tiny-gen",
            input="x",
            background=True,
            max_output_tokens=400,
            extra_body={"ignore_eos": True},
        )
        with _client(service) as other:
            return other.responses.cancel(running.id).status

    statuses = _asked_of_all(service, cancel_one)
    # One that was quicker than its cancellation has ended whole.
    assert set(statuses) <= {"cancelled", "incomplete"}
    assert "cancelled" in statuses
