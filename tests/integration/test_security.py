"""The service with API keys and real engines: open ports and access."""

import ipaddress
from collections.abc import Generator
from pathlib import Path

import httpx
import psutil
import pytest
from openai import AuthenticationError, OpenAI

from tests.processes import ServiceProcess, tiny_environment

pytestmark = pytest.mark.integration

KEY = "sk-integration-0123456789"


@pytest.fixture(scope="module")
def service(tiny_models: dict[str, Path]) -> Generator[ServiceProcess, None, None]:
    protected = {"API_KEYS": KEY, "KEY_TOKENS_PER_MINUTE": "100000"}
    service = ServiceProcess(tiny_environment(tiny_models) | protected)
    yield service
    service.end()


@pytest.fixture(scope="module")
def url(service: ServiceProcess) -> str:
    return service.wait_until_ready()


def test_no_process_listens_beyond_loopback(service: ServiceProcess, url: str) -> None:
    processes = [psutil.Process(service.pid), *service.engine_processes()]
    assert len(processes) >= 3
    listening = [
        connection.laddr.ip
        for process in processes
        for connection in process.net_connections("inet")
        if connection.status == psutil.CONN_LISTEN
    ]
    assert listening
    assert all(ipaddress.ip_address(ip).is_loopback for ip in listening), listening


def test_a_key_gives_access_and_reports_its_quota(url: str) -> None:
    client = OpenAI(base_url=f"{url}/v1", api_key=KEY, max_retries=0)
    model = next(model.id for model in client.models.list() if "gen" in model.id)
    raw = client.completions.with_raw_response.create(model=model, prompt="hello", max_tokens=8)
    usage = raw.parse().usage
    assert usage is not None
    assert usage.total_tokens > 0
    assert raw.headers["x-ratelimit-limit-tokens"] == "100000"
    with pytest.raises(AuthenticationError):
        OpenAI(base_url=f"{url}/v1", api_key="sk-wrong-0123456789", max_retries=0).models.list()


def test_the_key_is_in_no_response_and_no_log_line(service: ServiceProcess, url: str) -> None:
    for headers in ({}, {"authorization": f"Bearer {KEY}x"}, {"authorization": KEY}):
        assert KEY not in httpx.get(f"{url}/v1/models", headers=headers, trust_env=False).text
    assert KEY not in service.output
