"""Metrics over OTLP: the families that `/metrics` shows, sent every while. Imported only where they are sent."""

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

LAST_PATIENCE_S, NO_HOPE_S = 5.0, 0.5
"""How long the last export may take while the service waits for it; less where those before have failed."""
SCOPE = "memoria"
Points = dict[tuple[tuple[str, str], ...], list[Sample]]
_LOGGERS = [
    logging.getLogger(f"opentelemetry.exporter.otlp.proto.{name}")
    for name in ("http.metric_exporter", "grpc.exporter")
]
log = logging.getLogger("memoria")


class MetricsExporter:
    """Sends all metrics every while, in a thread of its own, and once more at the end.

    Of several processes with one set of metrics one sends them: whoever has the lock. The kernel takes it from a
    process that ends, and the next one to look has it.
    """

    def __init__(self, metrics: Metrics, settings: TelemetrySettings, signal: OtlpSignal) -> None:
        """Make it; nothing is sent yet.

        Args:
            metrics: what is sent.
            settings: how often, and under which name.
            signal: where to.
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
        self._fails = False
        self._heard = _Heard()

    def start(self) -> None:
        """Begin."""
        self._heard.begin()
        self._thread.start()

    def stop(self) -> None:
        """Send what has happened since, and end. Blocks for some seconds at most."""
        self._ending.set()
        if self._thread.is_alive():
            self._thread.join(NO_HOPE_S if self._fails else LAST_PATIENCE_S)
        # Whoever is still trying gives up now.
        self._exporter.shutdown()
        self._heard.end()

    def _run(self) -> None:
        is_over = False
        while not is_over:
            is_over = self._ending.wait(self._interval_s)
            if self._is_mine():
                self._send()
        if self._lock is not None:
            self._lock.release()

    def _is_mine(self) -> bool:
        if self._lock is None or self._lock.is_locked:
            return True
        try:
            self._lock.acquire(blocking=False)
        except Timeout:
            return False
        return True

    def _send(self) -> None:
        self._heard.last = ""
        try:
            data = metrics_data(
                self._metrics.refreshed(),
                began_ns=self._metrics.began_ns,
                now_ns=time.time_ns(),
                resource=self._resource,
            )
            went_well = self._exporter.export(data) is MetricExportResult.SUCCESS
            reason = self._heard.last
        except Exception as error:
            went_well, reason = False, f"{type(error).__name__}: {error}"
        if self._fails is not went_well:
            return
        # Once when it begins, once when it is over; not each time.
        self._fails = not went_well
        if went_well:
            log.info("metrics reach %s again", self._endpoint)
        else:
            log.warning(
                "metrics can't be sent to %s (%s); this is tried again all the time", self._endpoint, reason
            )


def metrics_data(families: Iterable[Metric], *, began_ns: int, now_ns: int, resource: Resource) -> MetricsData:
    """Prometheus's families as OpenTelemetry's metrics, under OpenTelemetry's names where there are such.

    Args:
        families: all of them.
        began_ns: since when they have been counted: Unix time in nanoseconds.
        now_ns: until when.
        resource: whose they are.
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
    """Prometheus counts all up to a bound, OpenTelemetry those between two."""
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
        # The last one has no end.
        explicit_bounds=bounds[:-1],
        # Not known, and left out.
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
    """Labels under OpenTelemetry's names; Prometheus writes what is not there as empty."""
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


class _Heard(logging.Filter):
    """Keeps the last thing that the library said of an export, which is told once, in a sentence of ours.

    Over gRPC the exporters of metrics and of traces have one logger, and what is said of traces passes.
    """

    last = ""

    def begin(self) -> None:
        """Listen. Not before there is something to hear: filters stay until they are removed."""
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
