"""A gateway with several processes on one port."""

import contextlib
import re
import signal
import socket
import time
from collections.abc import Callable, Generator
from typing import TypeVar

import psutil
import pytest
from openai import OpenAI

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
