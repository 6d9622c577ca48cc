"""OpenTelemetry's variables, handed on: its libraries read the environment, some already when they are loaded."""

import os
from collections.abc import Generator
from contextlib import contextmanager

from app.settings import TelemetrySettings
from domain.errors import ConfigurationError


@contextmanager
def opentelemetry(settings: TelemetrySettings) -> Generator[None, None, None]:
    """Load and build what belongs to OpenTelemetry inside of this.

    Raises:
        ConfigurationError: one of its variables can't be used. Those that the service does not know itself are
            read by its libraries alone, which raise what they like.
    """
    export_environment(settings)
    try:
        yield
    except Exception as error:
        raise ConfigurationError(_sentence(settings, str(error))) from error


def export_environment(settings: TelemetrySettings) -> None:
    """Let the SDK, and the engine processes to come, read what was set in .env, and what follows from it."""
    os.environ.update(settings.environment)
    if settings.traces is not None:
        # vLLM takes gRPC for the default, and knows only the variables of traces.
        os.environ["OTEL_EXPORTER_OTLP_TRACES_PROTOCOL"] = settings.traces.protocol
        os.environ["OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"] = settings.traces.endpoint
        os.environ.setdefault("OTEL_SERVICE_NAME", settings.service_name)
    # The HTTP client's instrumentation keeps to names of 2022 otherwise.
    os.environ.setdefault("OTEL_SEMCONV_STABILITY_OPT_IN", "http")


def _sentence(settings: TelemetrySettings, said: str) -> str:
    # As a rule what it says holds the value, and not the name.
    meant = []
    for name, value in settings.environment.items():
        if "HEADERS" in name:
            # Keys, as a rule.
            said = said.replace(value, "…")
        elif value in said:
            meant.append(f"{name} is '{value}'")
    subject = ", ".join(meant) or "One of the variables OTEL_… can't be used"
    return f"{subject}: OpenTelemetry says: {said.rstrip('.')}. Correct it, or leave it out."
