"""Exports OpenTelemetry's settings to the environment, from which its libraries read, some on import."""

import os
from collections.abc import Generator
from contextlib import contextmanager

from app.settings import TelemetrySettings
from domain.errors import ConfigurationError


@contextmanager
def opentelemetry(settings: TelemetrySettings) -> Generator[None, None, None]:
    """Export the environment, and convert errors from loading and building OpenTelemetry's objects.

    Raises:
        ConfigurationError: one of its variables can't be used. Variables that the service does not check are read
            only by OpenTelemetry's libraries, which may raise anything.
    """
    export_environment(settings)
    try:
        yield
    except Exception as error:
        raise ConfigurationError(_sentence(settings, str(error))) from error


def export_environment(settings: TelemetrySettings) -> None:
    """Make what was set in .env, and what follows from it, visible to the SDK and to later engine processes."""
    os.environ.update(settings.environment)
    if settings.traces is not None:
        # vLLM defaults to gRPC, and reads only the variables for traces.
        os.environ["OTEL_EXPORTER_OTLP_TRACES_PROTOCOL"] = settings.traces.protocol
        os.environ["OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"] = settings.traces.endpoint
        os.environ.setdefault("OTEL_SERVICE_NAME", settings.service_name)
    # Otherwise the HTTP client's instrumentation uses the attribute names of 2022.
    os.environ.setdefault("OTEL_SEMCONV_STABILITY_OPT_IN", "http")


def _sentence(settings: TelemetrySettings, message: str) -> str:
    # The library's message usually contains the value, but not the variable's name.
    causes = []
    for name, value in settings.environment.items():
        if "HEADERS" in name:
            # Headers usually contain keys.
            message = message.replace(value, "…")
        elif value in message:
            causes.append(f"{name} is '{value}'")
    subject = ", ".join(causes) or "One of the variables OTEL_… can't be used"
    return f"{subject}: OpenTelemetry reports: {message.rstrip('.')}. Correct or remove it."
