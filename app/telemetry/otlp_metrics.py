"""Exports the metrics that `/metrics` shows periodically over OTLP. Imported only if metrics are exported."""

import logging
import threading
import time
from collections.abc import Iterable, Mapping
from importlib import metadata

from filelock import FileLock, Timeout
from opentelemetry.sdk.metrics.export import (
    AggregationTemporality,
    Gauge,
    Histogram,
    HistogramDataPoint,
    MetricExporter,
    MetricExportResult,
    MetricsData,
    NumberDataPoint,
    ResourceMetrics,
    ScopeMetrics,
    Sum,
)
from opentelemetry.sdk.metrics.export import Metric as OtlpMetric
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from prometheus_client.metrics_core import Metric
from prometheus_client.samples import Sample

from app.settings import TelemetrySettings
from app.settings.otlp import GRPC, OtlpSignal
from app.telemetry import conventions as otel
from app.telemetry.instruments import BY_FAMILY, Instrument
from app.telemetry.metrics import Metrics
from app.telemetry.tracing import export_environment

FINAL_EXPORT_TIMEOUT_S, FAILING_EXPORT_TIMEOUT_S = 5.0, 0.5
"""How long the service waits for the final export; the second applies if the previous export failed."""
SCOPE = "memoria"
Points = dict[tuple[tuple[str, str], ...], list[Sample]]
_LOGGERS = [
    logging.getLogger(f"opentelemetry.exporter.otlp.proto.{name}")
    for name in ("http.metric_exporter", "grpc.exporter")
]
log = logging.getLogger("memoria")


class MetricsExporter:
    """Exports all metrics periodically in its own thread, and once more at the end.

    Of several processes that share their metrics, only the one that holds the lock exports them. The kernel
    releases the lock of a process that exits, and the next process to try acquires it.
    """

    def __init__(self, metrics: Metrics, settings: TelemetrySettings, signal: OtlpSignal) -> None:
        """Create the exporter without starting it.

        Args:
            metrics: the metrics to export.
            settings: the interval and the service's name.
            signal: the endpoint and protocol.
        """
        export_environment(settings)
        self._metrics = metrics
        self._endpoint = signal.endpoint
        self._interval_s = settings.metrics_interval_ms / 1000
        self._exporter = _exporter(signal)
        self._resource = _resource(settings.service_name, metrics.instance_id)
        self._lock = FileLock(metrics.folder / "exporter.lock", thread_local=False) if metrics.folder else None
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._run, name="export-metrics", daemon=True)
        self._is_failing = False
        self._messages = _ExporterMessages()

    def start(self) -> None:
        """Start exporting."""
        self._messages.begin()
        self._thread.start()

    def stop(self) -> None:
        """Export once more, and stop. Blocks for some seconds at most."""
        self._ending.set()
        if self._thread.is_alive():
            self._thread.join(FAILING_EXPORT_TIMEOUT_S if self._is_failing else FINAL_EXPORT_TIMEOUT_S)
        # Aborts an export that is still running.
        self._exporter.shutdown()
        self._messages.end()

    def _run(self) -> None:
        is_over = False
        while not is_over:
            is_over = self._ending.wait(self._interval_s)
            if self._acquire_lock():
                self._export()
        if self._lock is not None:
            self._lock.release()

    def _acquire_lock(self) -> bool:
        """Whether this process is the one that exports."""
        if self._lock is None or self._lock.is_locked:
            return True
        try:
            self._lock.acquire(blocking=False)
        except Timeout:
            return False
        return True

    def _export(self) -> None:
        self._messages.last = ""
        try:
            data = metrics_data(
                self._metrics.refreshed(),
                began_ns=self._metrics.began_ns,
                now_ns=time.time_ns(),
                resource=self._resource,
            )
            succeeded = self._exporter.export(data) is MetricExportResult.SUCCESS
            reason = self._messages.last
        except Exception as error:
            succeeded, reason = False, f"{type(error).__name__}: {error}"
        if self._is_failing is not succeeded:
            return
        # Logged when exports begin to fail and when they succeed again, not each time.
        self._is_failing = not succeeded
        if succeeded:
            log.info("metrics are exported to %s again", self._endpoint)
        else:
            log.warning(
                "metrics can't be exported to %s (%s); retrying every %g s",
                self._endpoint,
                reason,
                self._interval_s,
            )


def metrics_data(families: Iterable[Metric], *, began_ns: int, now_ns: int, resource: Resource) -> MetricsData:
    """Convert Prometheus families to OpenTelemetry metrics, with OpenTelemetry names for those that have one.

    Args:
        families: all families.
        began_ns: when counting began, as Unix time in nanoseconds.
        now_ns: the current Unix time in nanoseconds.
        resource: the service that they describe.
    """
    scope = InstrumentationScope(SCOPE, metadata.version("memoria-vllm"), otel.SCHEMA_URL)
    metrics = [_metric(family, began_ns, now_ns) for family in families if family.samples]
    scopes = [ScopeMetrics(scope=scope, metrics=metrics, schema_url=otel.SCHEMA_URL)]
    return MetricsData([ResourceMetrics(resource=resource, scope_metrics=scopes, schema_url=otel.SCHEMA_URL)])


def _metric(family: Metric, began_ns: int, now_ns: int) -> OtlpMetric:
    instrument = BY_FAMILY.get(family.name)
    data: Sum | Gauge | Histogram
    if family.type == "histogram":
        points = [
            _histogram_point(samples, _attributes(dict(labels), instrument), began_ns, now_ns)
            for labels, samples in _by_series(family.samples).items()
        ]
        data = Histogram(points, AggregationTemporality.CUMULATIVE)
    else:
        numbers = [
            NumberDataPoint(_attributes(sample.labels, instrument), began_ns, now_ns, float(sample.value))
            for sample in family.samples
        ]
        is_counter = family.type == "counter"
        data = Sum(numbers, AggregationTemporality.CUMULATIVE, True) if is_counter else Gauge(numbers)
    return OtlpMetric(
        name=instrument.name if instrument else family.name,
        description=family.documentation,
        unit=instrument.unit if instrument else "",
        data=data,
    )


def _histogram_point(
    samples: list[Sample], attributes: Mapping[str, str | int], began_ns: int, now_ns: int
) -> HistogramDataPoint:
    """Convert buckets: Prometheus's are cumulative, OpenTelemetry's are not."""
    bounds: list[float] = []
    counts: list[int] = []
    total, before = 0.0, 0
    for sample in samples:
        if "le" in sample.labels:
            bounds.append(float(sample.labels["le"]))
            counts.append(int(sample.value) - before)
            before = int(sample.value)
        elif sample.name.endswith("_sum"):
            total = sample.value
    return HistogramDataPoint(
        attributes=attributes,
        start_time_unix_nano=began_ns,
        time_unix_nano=now_ns,
        count=before,
        sum=total,
        bucket_counts=counts,
        # The last bucket is unbounded.
        explicit_bounds=bounds[:-1],
        # Unknown, and therefore omitted.
        min=None,  # type: ignore[arg-type]
        max=None,  # type: ignore[arg-type]
    )


def _by_series(samples: Iterable[Sample]) -> Points:
    series: Points = {}
    for sample in samples:
        labels = tuple((name, value) for name, value in sample.labels.items() if name != "le")
        series.setdefault(labels, []).append(sample)
    return series


def _attributes(labels: Mapping[str, str], instrument: Instrument | None) -> dict[str, str | int]:
    """Labels under their OpenTelemetry names, without empty ones, which mean absent in Prometheus."""
    names = dict(zip(instrument.labels, instrument.attributes, strict=True)) if instrument else {}
    found = {names.get(label, label): value for label, value in labels.items() if value}
    return {name: int(value) if name == otel.HTTP_RESPONSE_STATUS_CODE else value for name, value in found.items()}


def _resource(service_name: str, instance_id: str) -> Resource:
    return Resource.create(
        {
            otel.SERVICE_NAME: service_name,
            otel.SERVICE_VERSION: metadata.version("memoria-vllm"),
            otel.SERVICE_INSTANCE_ID: instance_id,
        },
        schema_url=otel.SCHEMA_URL,
    )


def _exporter(signal: OtlpSignal) -> MetricExporter:
    if signal.protocol == GRPC:
        from opentelemetry.exporter.otlp.proto.grpc.metric_exporter import OTLPMetricExporter as GrpcExporter

        return GrpcExporter(endpoint=signal.endpoint, insecure=not signal.endpoint.lower().startswith("https:"))
    from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter as HttpExporter

    return HttpExporter(endpoint=signal.endpoint)


class _ExporterMessages(logging.Filter):
    """Suppresses the library's messages about metrics exports, and keeps the last one for the service's own.

    Over gRPC the exporters of metrics and traces share a logger; messages about traces pass.
    """

    last = ""

    def begin(self) -> None:
        """Install the filter, which stays until it is removed."""
        for logger in _LOGGERS:
            logger.addFilter(self)

    def filter(self, record: logging.LogRecord) -> bool:
        if "traces" in record.getMessage():
            return True
        self.last = record.getMessage()
        return False

    def end(self) -> None:
        for logger in _LOGGERS:
            logger.removeFilter(self)
