"""Metrics over OTLP with a real receiver: names, values and times, and an unreachable receiver."""

import logging
import os
import time
from collections.abc import Generator

import pytest
from opentelemetry.proto.metrics.v1.metrics_pb2 import AGGREGATION_TEMPORALITY_CUMULATIVE

from app.settings import Settings, load_settings
from app.telemetry import conventions, instruments
from app.telemetry.history import History
from app.telemetry.metrics import Metrics
from app.telemetry.otlp_metrics import MetricsExporter
from app.telemetry.setup import build_metrics, build_telemetry
from domain.statistics import Family, Sample
from tests.otlp_receiver import OtlpReceiver, attributes, otlp_receiver
from tests.unit.serving import Api
from tests.unit.test_metrics import MODEL, fresh, operation, request

SOON_MS, NEVER_MS = "20", "1000000"


@pytest.fixture
def receiver() -> Generator[OtlpReceiver, None, None]:
    with otlp_receiver() as receiver:
        yield receiver


@pytest.fixture(autouse=True)
def _environment() -> Generator[None, None, None]:
    """Restore the environment variables that are set for the SDK."""
    before = dict(os.environ)
    yield
    os.environ.clear()
    os.environ.update(before)


def settings_for(receiver: OtlpReceiver, protocol: str = "http/protobuf", **more: str) -> Settings:
    endpoint = receiver.http_url if protocol == "http/protobuf" else receiver.grpc_url
    return load_settings(
        {
            "OTEL_EXPORTER_OTLP_ENDPOINT": endpoint,
            "OTEL_EXPORTER_OTLP_PROTOCOL": protocol,
            "OTEL_METRIC_EXPORT_INTERVAL": NEVER_MS,
            "OTEL_TRACES_EXPORTER": "none",
            **more,
        }
    )


def exporter_for(metrics: Metrics, settings: Settings) -> MetricsExporter:
    assert settings.telemetry.metrics_export is not None
    return MetricsExporter(metrics, settings.telemetry, settings.telemetry.metrics_export)


def sent_once(metrics: Metrics, settings: Settings) -> None:
    exporter = exporter_for(metrics, settings)
    exporter.start()
    exporter.stop()


@pytest.mark.parametrize("protocol", ["http/protobuf", "grpc"])
def test_metrics_are_exported_under_opentelemetrys_names(receiver: OtlpReceiver, protocol: str):
    metrics = fresh()
    began = time.time_ns()
    for duration_s in (0.015, 0.5, 100.0):
        metrics.operation_ended(operation(duration_s=duration_s, is_stream=False))
    metrics.request_ended(request(status=404, error_type="model_not_found"))
    sent_once(metrics, settings_for(receiver, protocol))
    arrived = receiver.latest_metrics()
    metric = arrived["gen_ai.server.request.duration"]
    assert metric.unit == "s"
    assert metric.histogram.aggregation_temporality == AGGREGATION_TEMPORALITY_CUMULATIVE
    (point,) = metric.histogram.data_points
    assert attributes(point.attributes) == {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "vllm",
        "gen_ai.request.model": MODEL,
    }
    assert list(point.explicit_bounds) == list(conventions.GEN_AI_DURATION_BUCKETS)
    assert point.count == 3
    assert point.sum == pytest.approx(100.515)
    counted = dict(zip([*point.explicit_bounds, "more"], point.bucket_counts, strict=True))
    assert {bound: count for bound, count in counted.items() if count} == {0.02: 1, 0.64: 1, "more": 1}
    assert metrics.began_ns == point.start_time_unix_nano <= began
    assert began < point.time_unix_nano <= time.time_ns()
    assert not point.HasField("min")
    (http,) = arrived["http.server.request.duration"].histogram.data_points
    assert attributes(http.attributes) == {
        "http.request.method": "POST",
        "http.route": "/v1/embeddings",
        "http.response.status_code": 404,
        "url.scheme": "http",
        "error.type": "model_not_found",
    }


def test_counters_gauges_and_engine_metrics_keep_their_type(receiver: OtlpReceiver):
    metrics = fresh()
    metrics.count_to(instruments.ENGINE_RESTARTS, 3, "embed")
    metrics.set(instruments.GPU_USED, 2.5)
    sample = Sample("_total", {"model_name": "m"}, 7.0)
    family = Family(name="vllm:prompt_tokens", kind="counter", about="Tokens.", samples=[sample])
    metrics.engines.append(lambda: [family])
    sent_once(metrics, settings_for(receiver))
    arrived = receiver.latest_metrics()
    for name, label, total in (
        ("memoria.engine.restarts", {"role": "embed"}, 3),
        ("vllm:prompt_tokens", {"model_name": "m"}, 7),
    ):
        counter = arrived[name].sum
        assert counter.is_monotonic
        assert counter.aggregation_temporality == AGGREGATION_TEMPORALITY_CUMULATIVE
        assert attributes(counter.data_points[0].attributes) == label
        assert counter.data_points[0].as_double == total
        assert counter.data_points[0].start_time_unix_nano == metrics.began_ns
    assert arrived["memoria.gpu.memory.used"].unit == "By"
    assert arrived["memoria.gpu.memory.used"].gauge.data_points[0].as_double == 2.5


def test_the_resource_identifies_the_service(receiver: OtlpReceiver):
    metrics = fresh()
    metrics.operation_ended(operation())
    sent_once(metrics, settings_for(receiver, OTEL_SERVICE_NAME="mine"))
    (resource,) = receiver.metrics[0].resource_metrics
    message = attributes(resource.resource.attributes)
    assert message["service.name"] == "mine"
    assert message["service.instance.id"] == metrics.instance_id
    assert resource.scope_metrics[0].schema_url == conventions.SCHEMA_URL


def test_headers_are_sent_along(receiver: OtlpReceiver):
    sent_once(fresh(), settings_for(receiver, OTEL_EXPORTER_OTLP_HEADERS="authorization=Bearer%20secret"))
    assert receiver.headers[0]["authorization"] == "Bearer secret"


def test_values_are_cumulative_across_exports(receiver: OtlpReceiver):
    metrics = fresh()
    exporter = exporter_for(metrics, settings_for(receiver, OTEL_METRIC_EXPORT_INTERVAL=SOON_MS))
    metrics.operation_ended(operation())
    exporter.start()
    receiver.wait_for(lambda: len(receiver.metrics) >= 3)
    metrics.operation_ended(operation())
    exporter.stop()
    (point,) = receiver.latest_metrics()["gen_ai.server.request.duration"].histogram.data_points
    assert point.count == 2
    arrived = len(receiver.metrics)
    time.sleep(0.1)
    assert len(receiver.metrics) == arrived


def test_an_unreachable_receiver_is_logged_once(
    receiver: OtlpReceiver, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(logging.getLogger("memoria"), "propagate", True)
    caplog.set_level(logging.INFO, "memoria")
    receiver.status = 400
    exporter = exporter_for(fresh(), settings_for(receiver, OTEL_METRIC_EXPORT_INTERVAL=SOON_MS))
    exporter.start()
    deadline = time.monotonic() + 20
    while not caplog.records and time.monotonic() < deadline:
        time.sleep(0.01)
    time.sleep(0.2)
    receiver.status = 200
    receiver.wait_for(lambda: len(receiver.metrics) >= 2)
    exporter.stop()
    failed, again = [record.getMessage() for record in caplog.records]
    assert failed.startswith(f"metrics can't be exported to {receiver.http_url}/v1/metrics (Failed to export")
    assert again == f"metrics are exported to {receiver.http_url}/v1/metrics again"


async def test_the_state_is_refreshed_on_the_event_loop_before_an_export(receiver: OtlpReceiver):
    settings = settings_for(receiver, METRICS="false")
    api = Api()
    metrics = build_metrics(settings, api.service)
    assert metrics is not None
    assert not metrics.is_shown
    telemetry = build_telemetry(settings, None, metrics, History())
    telemetry.start()
    await telemetry.stop()
    states = receiver.latest_metrics()["memoria.engine.state"].gauge.data_points
    on = [attributes(point.attributes) for point in states if point.as_double == 1]
    assert {"role": "embed", "state": "starting"} in on
    await api.http.aclose()


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1", "OTEL_METRICS_EXPORTER": "none"},
        {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1", "OTEL_SDK_DISABLED": "true"},
        {"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://127.0.0.1:1"},
    ],
    ids=["nothing set", "no metrics", "disabled", "traces alone"],
)
def test_without_consumers_nothing_is_counted(settings: dict[str, str]):
    assert build_metrics(load_settings(settings | {"METRICS": "false"}), Api().service) is None
