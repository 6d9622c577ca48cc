"""Builds telemetry from the settings: traces, metrics, the request log and the history."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from app.batches.service import BatchesService
from app.service import Service
from app.settings import HTTP, Settings
from app.telemetry.environment import opentelemetry
from app.telemetry.history import History
from app.telemetry.record import Listener
from app.telemetry.request_log import RequestLog
from app.telemetry.telemetry import Exporter, Telemetry
from domain.statistics import LocalEngine, RetryCounter

if TYPE_CHECKING:
    from app.telemetry.metrics import Metrics
    from app.telemetry.state import Retries
    from app.telemetry.tracing import Tracing


def build_tracing(settings: Settings) -> "Tracing | None":
    """Build tracing; None if traces are not exported, and then OpenTelemetry is not loaded.

    Raises:
        ConfigurationError: OpenTelemetry can't use one of its variables.
    """
    if settings.telemetry.traces is None:
        return None
    are_remote = all(own.backend == HTTP for own in settings.roles.values())
    with opentelemetry(settings.telemetry):
        from app.telemetry.tracing import build_tracing

        return build_tracing(settings.telemetry, settings.telemetry.traces, has_remote_engines=are_remote)


def has_metrics(settings: Settings) -> bool:
    """Whether metrics are collected, to be served or exported."""
    return settings.telemetry.metrics or settings.telemetry.metrics_export is not None


def build_metrics(
    settings: Settings,
    service: Service,
    *,
    batches: BatchesService | None = None,
    folder: Path | None = None,
) -> "Metrics | None":
    """Build the metrics; None if they are neither served nor exported.

    Args:
        settings: the configuration.
        service: the service whose state the metrics show.
        batches: the same of batches; None for none.
        folder: where several processes of this service share their values; None for one process.
    """
    if not has_metrics(settings):
        return None
    # Imported here, so that a service without metrics does not load the library.
    from app.telemetry.metrics import Metrics
    from app.telemetry.state import AnsweredLines, BatchesState, ProcessMemory, Retries, ServiceState

    metrics = Metrics(
        models=service.catalog.own_names,
        scheme="https" if settings.security.tls_cert_file is not None else "http",
        folder=folder,
        is_shown=settings.telemetry.metrics,
    )

    def count(retrying: RetryCounter) -> "Callable[[], Retries]":
        return lambda: Retries(retrying.retries, retrying.given_up)

    retrying = service.layers(RetryCounter)
    ServiceState(metrics, service.health, retries={role: count(backend) for role, backend in retrying.items()})
    if batches is not None and batches.watch is not None:
        lines = batches.counts
        BatchesState(metrics, batches.watch.counts, lambda: AnsweredLines(lines.completed, lines.failed))
    engines = service.layers(LocalEngine)
    ProcessMemory(metrics, {role: engine.process_ids for role, engine in engines.items()})
    metrics.engines += [engine.families for engine in engines.values()]
    return metrics


def build_telemetry(
    settings: Settings, tracing: "Tracing | None", metrics: "Metrics | None", history: History
) -> Telemetry:
    """Build the telemetry, without the parts that are None or switched off."""
    listeners: list[Listener] = [history] if settings.telemetry.history else []
    if settings.telemetry.request_log:
        listeners.append(RequestLog())
    if metrics is None:
        return Telemetry(listeners, tracing=tracing)
    exporters: list[Exporter] = [metrics]
    if settings.telemetry.metrics_export is not None:
        # OpenTelemetry is loaded only if something is exported.
        from app.telemetry.otlp_metrics import MetricsExporter

        exporters.append(MetricsExporter(metrics, settings.telemetry, settings.telemetry.metrics_export))
    return Telemetry([*listeners, metrics], tracing=tracing, exporters=exporters)
