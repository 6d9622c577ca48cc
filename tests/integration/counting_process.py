"""A process that shares its metrics with others, controlled by commands on standard input.

A test starts it with the process's name, the shared folder and the OTLP endpoint, which may be empty.
"""

import asyncio
import sys
from pathlib import Path

from app.settings import load_settings
from app.telemetry import instruments
from app.telemetry.metrics import Metrics
from app.telemetry.telemetry import Telemetry
from tests.unit.test_metrics import MODEL, operation


async def main(name: str, folder: Path, endpoint: str) -> None:
    metrics = Metrics(models=lambda: {MODEL}, folder=folder)
    metrics.sources.append(lambda: metrics.set(instruments.RUNNING, 1, "embed"))
    exporters = [metrics]
    if endpoint:
        from app.telemetry.otlp_metrics import MetricsExporter

        settings = load_settings(
            {
                "OTEL_EXPORTER_OTLP_ENDPOINT": endpoint,
                "OTEL_METRIC_EXPORT_INTERVAL": "50",
                "OTEL_EXPORTER_OTLP_HEADERS": f"x-process={name}",
            }
        ).telemetry
        assert settings.metrics_export is not None
        exporters.append(MetricsExporter(metrics, settings, settings.metrics_export))
    telemetry = Telemetry([metrics], exporters=exporters)
    telemetry.start()
    print("started", flush=True)
    while line := (await asyncio.to_thread(sys.stdin.readline)).strip():
        if line == "count":
            metrics.operation_ended(operation())
        text, _ = await metrics.text("")
        wanted = ("memoria_requests_running{", "gen_ai_server_request_duration_seconds_count{")
        print([row for row in text.decode().splitlines() if row.startswith(wanted)], flush=True)
    await telemetry.stop()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], Path(sys.argv[2]), sys.argv[3]))
