"""Parses OpenTelemetry's standard variables that decide whether and where telemetry is exported.

Source: OpenTelemetry's specification, "Environment variable specification" and "OTLP exporter configuration".
The SDK reads the others (certificates, compression, timeouts, batch sizes) by itself.
"""

import re
from collections.abc import Callable, Mapping
from urllib.parse import unquote, urlsplit

import msgspec

from app.settings.parsers import SecretValueError

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
EXPORTERS = ("otlp", "none")
# Headers that the SDK's exporters accept; they ignore others, and log a warning with the value.
_HEADER = re.compile(r"[!#-'*+.0-9A-Z^-z|~\-]+\s*=[ !#-+\--:<-\[\]-~]*")


class OtlpSignal(msgspec.Struct, frozen=True, kw_only=True):
    """Where traces or metrics are exported."""

    endpoint: str
    """The URL: over HTTP with the signal's path, over gRPC without a path."""
    protocol: str
    """HTTP_PROTOBUF or GRPC."""


def parse_endpoint(value: str) -> str:
    """A URL without secrets, because it is logged, or an empty string. Raises ValueError."""
    if "@" in value or "?" in value:
        raise SecretValueError(
            "must be an address without user, password or query; put keys into OTEL_EXPORTER_OTLP_HEADERS"
        )
    try:
        parts = urlsplit(value)
        is_usable = not value or (parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0)
    except ValueError:
        is_usable = False
    if not is_usable or re.search(r"\s", value):
        raise ValueError("must be an address such as http://127.0.0.1:4318")
    return value


def one_of(allowed: tuple[str, ...]) -> Callable[[str], str]:
    """A parser that accepts one of several words, or an empty string."""

    def parse(value: str) -> str:
        if value and value.lower() not in allowed:
            raise ValueError(f"must be {', '.join(allowed[:-1])} or {allowed[-1]}")
        return value.lower()

    return parse


def parse_sampler_argument(value: str) -> str:
    """The share of traces to keep, or an empty string. Raises ValueError."""
    if value and not (re.fullmatch(r"\d+(\.\d+)?", value, re.ASCII) and float(value) <= 1):
        raise ValueError("must be a share from 0 to 1, such as 0.1")
    return value


def parse_headers(value: str) -> str:
    """Comma-separated header=value pairs, or an empty string. Raises ValueError."""
    if not all(_HEADER.fullmatch(pair) for pair in _pairs(value)):
        raise ValueError(
            "must be header=value, or several separated by commas; percent-encode special characters, such as %20"
        )
    return value


def parse_attributes(value: str) -> str:
    """Comma-separated name=value pairs, or an empty string. Raises ValueError."""
    if not all(pair.partition("=")[0].strip() and "=" in pair for pair in _pairs(value)):
        raise ValueError("must be name=value, or several separated by commas")
    return value


def name_in_attributes(given: Mapping[str, str]) -> str:
    """The service's name in OTEL_RESOURCE_ATTRIBUTES, used if OTEL_SERVICE_NAME is unset, or an empty string."""
    for pair in _pairs(given.get("OTEL_RESOURCE_ATTRIBUTES", "")):
        name, _, value = pair.partition("=")
        if name.strip() == "service.name" and value.strip():
            return unquote(value.strip())
    return ""


def _pairs(value: str) -> list[str]:
    return [pair.strip() for pair in value.split(",") if pair.strip()]


def parse_interval(value: str) -> int:
    """A number of milliseconds. Raises ValueError."""
    if not re.fullmatch(r"[1-9]\d{0,8}", value, re.ASCII):
        raise ValueError("must be a whole number of milliseconds, at least 1")
    return int(value)
