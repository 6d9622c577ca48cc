"""Metrics of a running gateway: its memory, and several processes with one set of metrics.

No engine is needed: the metrics are those of a gateway without reachable servers.
"""

import tempfile
import time
from collections.abc import Generator
from pathlib import Path

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.otlp_receiver import OtlpReceiver, otlp_receiver
from tests.processes import ServiceProcess

pytestmark = pytest.mark.integration

GATEWAY = {
    "EMBED_BACKEND": "vllm-http",
    "GEN_BACKEND": "vllm-http",
    "VLLM_EMBED_URL": "http://127.0.0.1:1",
    "VLLM_GEN_URL": "http://127.0.0.1:2",
    "EMBED_MAX_RUNNING": "10",
}
PROCESSES = 3
TIMEOUT_S = 60


@pytest.fixture
def temporary() -> Generator[Path, None, None]:
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder)


@pytest.fixture
def receiver() -> Generator[OtlpReceiver, None, None]:
    with otlp_receiver() as receiver:
        yield receiver


def values(url: str, sample: str, **labels: str) -> list[float]:
    # A new connection each time, so that any of the processes may respond.
    text = httpx.get(f"{url}/metrics", trust_env=False).text
    return [
        each.value
        for family in text_string_to_metric_families(text)
        for each in family.samples
        if each.name == sample and labels.items() <= each.labels.items()
    ]


def test_a_gateway_with_metrics_is_small(tmp_path):
    settings = GATEWAY | {"MEMORIA_DATA_DIR": str(tmp_path)}
    # The first start creates the database's tables, for which it loads 8 MiB of code.
    first = ServiceProcess(settings)
    try:
        first.wait_until_listening()
    finally:
        first.end()
    service = ServiceProcess(settings)
    try:
        url = service.wait_until_listening()
        service.wait_for_status(f"{url}/health/live")
        (memory,) = values(url, "memoria_process_memory_bytes", process="service")
        assert memory < 90 * 2**20
        assert values(url, "memoria_service_ready") == [0]
    finally:
        service.end()


def test_several_processes_have_one_set_of_metrics(receiver: OtlpReceiver, temporary: Path):
    service = ServiceProcess(
        GATEWAY
        | {
            "API_PROCESSES": str(PROCESSES),
            "OTEL_EXPORTER_OTLP_ENDPOINT": receiver.http_url,
            "OTEL_METRIC_EXPORT_INTERVAL": "200",
            "TMPDIR": str(temporary),
        }
    )
    try:
        url = service.wait_until_listening()
        service.wait_for_status(f"{url}/health/live")
        deadline = time.monotonic() + TIMEOUT_S
        while values(url, "memoria_requests_running_limit", role="embed") != [10 * PROCESSES]:
            assert time.monotonic() < deadline, service.output[-2000:]
            time.sleep(0.1)
        for _ in range(12):
            assert httpx.get(f"{url}/v1/models", trust_env=False).status_code == 200
        counted = {"http_route": "/v1/models", "http_response_status_code": "200"}
        for _ in range(6):
            assert values(url, "http_server_request_duration_seconds_count", **counted) == [12]

        def sent() -> int:
            metric = receiver.latest_metrics().get("http.server.request.duration")
            points = metric.histogram.data_points if metric is not None else []
            routes = [
                point.count
                for point in points
                for pair in point.attributes
                if pair.value.string_value == "/v1/models"
            ]
            return sum(routes)

        receiver.wait_for(lambda: sent() == 12)
        senders = {request.resource_metrics[0].resource.SerializeToString() for request in receiver.metrics}
        assert len(senders) == 1
    finally:
        service.end()
    assert not list(temporary.glob("memoria-metrics-*"))
