"""Draining: a service that shuts down completes running requests, unless it gets a second signal."""

import signal
import socket
import time
from collections.abc import Generator
from pathlib import Path

import httpx
import psutil
import pytest
from openai import APIError, OpenAI, Stream
from openai.types import Completion

from tests.processes import ServiceProcess, tiny_environment

pytestmark = pytest.mark.integration

# Long enough that the signal arrives in the middle: some seconds for the tiny model.
LONG = {"model": "tiny-gen", "prompt": "x", "max_tokens": 490, "n": 16}
ENDLESS = {"ignore_eos": True}
TIMEOUT_S = 20


@pytest.fixture
def service(tiny_models: dict[str, Path]) -> Generator[ServiceProcess, None, None]:
    service = ServiceProcess(tiny_environment(tiny_models))
    service.wait_until_ready()
    yield service
    service.end()


def _start_stream(service: ServiceProcess) -> Stream[Completion]:
    client = OpenAI(base_url=f"{service.url}/v1", api_key="unused", max_retries=0, timeout=60)
    stream = client.completions.create(**LONG, stream=True, extra_body=ENDLESS)
    next(stream)
    return stream


def _wait_until_port_is_closed(service: ServiceProcess) -> None:
    address = ("127.0.0.1", int(service.url.rpartition(":")[2]))
    deadline = time.monotonic() + TIMEOUT_S
    while time.monotonic() < deadline:
        try:
            socket.create_connection(address).close()
        except ConnectionRefusedError:
            return
        time.sleep(0.02)
    raise AssertionError("the port is still open")


def test_running_requests_are_completed(service: ServiceProcess) -> None:
    engines = service.engine_processes()
    stream = _start_stream(service)
    service.signal(signal.SIGTERM)
    _wait_until_port_is_closed(service)
    reasons = [choice.finish_reason for chunk in stream for choice in chunk.choices if choice.finish_reason]
    assert reasons == ["length"] * LONG["n"]
    assert service.wait() == 0
    assert psutil.wait_procs(engines, timeout=TIMEOUT_S)[1] == []
    assert "draining" in service.output


def test_a_second_signal_does_not_wait_for_requests(service: ServiceProcess) -> None:
    engines = service.engine_processes()
    stream = _start_stream(service)
    service.signal(signal.SIGTERM)
    _wait_until_port_is_closed(service)
    service.signal(signal.SIGTERM)
    with pytest.raises((APIError, httpx.HTTPError)):
        list(stream)
    assert service.wait() == 0
    assert psutil.wait_procs(engines, timeout=TIMEOUT_S)[1] == []
    assert "Traceback" not in service.output
