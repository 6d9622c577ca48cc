"""The standard variables of OpenTelemetry that decide whether and where something is exported.

Source: OpenTelemetry's specification, "Environment variable specification" and "OTLP exporter configuration".
Those that are not looked at here (certificates, compression, timeouts, batch sizes) reach the SDK all the same.
"""

import re
from collections.abc import Callable, Mapping
from urllib.parse import urlsplit

import msgspec

HTTP_PROTOBUF, GRPC = "http/protobuf", "grpc"
PROTOCOLS = (HTTP_PROTOBUF, GRPC)
SAMPLERS = (
    "always_on",
    "always_off",
    "traceidratio",
    "parentbased_always_on",
    "parentbased_always_off",
    "parentbased_traceidratio",
)
DEFAULT_SERVICE_NAME = "memoria-vllm"
TRACES, METRICS = "traces", "metrics"


class OtlpSignal(msgspec.Struct, frozen=True, kw_only=True):
    """Where traces, or metrics, are sent."""

    endpoint: str
    """As the exporter takes it: over HTTP with the signal's own path, over gRPC without one."""
    protocol: str
    """HTTP_PROTOBUF or GRPC."""


def signal(values: Mapping[str, str], name: str) -> OtlpSignal | None:
    """Where a signal is sent; None if nobody asked for it.

    Args:
        values: the variables, checked.
        name: TRACES or METRICS.
    """
    own = name.upper()
    if values["OTEL_SDK_DISABLED"].lower() == "true" or values[f"OTEL_{own}_EXPORTER"] == "none":
        return None
    endpoint, base = values[f"OTEL_EXPORTER_OTLP_{own}_ENDPOINT"], values["OTEL_EXPORTER_OTLP_ENDPOINT"]
    if not endpoint and not base:
        return None
    protocol = values[f"OTEL_EXPORTER_OTLP_{own}_PROTOCOL"] or values["OTEL_EXPORTER_OTLP_PROTOCOL"]
    if not endpoint:
        # Only the common address is a folder to which a signal adds its path.
        endpoint = f"{base.rstrip('/')}/v1/{name}" if protocol == HTTP_PROTOBUF else base
    return OtlpSignal(endpoint=endpoint, protocol=protocol)


def parse_endpoint(value: str) -> str:
    """An address, or nothing. Raises ValueError."""
    try:
        parts = urlsplit(value)
        is_usable = not value or (parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0)
    except ValueError:
        is_usable = False
    if not is_usable or re.search(r"\s", value):
        raise ValueError("must be an address such as http://127.0.0.1:4318")
    return value


def one_of(allowed: tuple[str, ...]) -> Callable[[str], str]:
    """A parser of one word out of several, or nothing."""

    def parse(value: str) -> str:
        if value and value.lower() not in allowed:
            raise ValueError(f"must be {', '.join(allowed[:-1])} or {allowed[-1]}")
        return value.lower()

    return parse


def parse_sampler_argument(value: str) -> str:
    """The share of traces to keep, or nothing. Raises ValueError."""
    if value and not (re.fullmatch(r"\d+(\.\d+)?", value, re.ASCII) and float(value) <= 1):
        raise ValueError("must be a share from 0 to 1, such as 0.1")
    return value


def parse_pairs(value: str) -> str:
    """A list of name=value, separated by commas, or nothing. Raises ValueError."""
    if any("=" not in pair for pair in value.split(",") if pair.strip()):
        raise ValueError("must be name=value, or several with commas")
    return value


def parse_interval(value: str) -> int:
    """Milliseconds. Raises ValueError."""
    if not re.fullmatch(r"[1-9]\d{0,8}", value, re.ASCII):
        raise ValueError("must be a whole number of milliseconds, at least 1")
    return int(value)
