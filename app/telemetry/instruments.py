"""Every metric of this service, once: its name for OpenTelemetry, and from it its name for Prometheus.

What a convention names has that name; all else begins with `memoria.`.
"""

import enum
import re
from typing import Literal

import msgspec

from app.telemetry import conventions as otel

ROLE, STATE, SERVER, PROCESS, RESULT = "role", "state", "server", "process", "result"
VERSION, PYTHON = "version", "python"

WAIT_BUCKETS = (0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)
JOIN_BUCKETS = (2, 4, 8, 16, 32, 64, 128, 256)
UNIT_IN_NAMES = {"s": "seconds", "By": "bytes"}


class Kind(enum.StrEnum):
    """What a value does as time goes by."""

    COUNTER = "counter"
    GAUGE = "gauge"
    HISTOGRAM = "histogram"


class Instrument(msgspec.Struct, frozen=True, kw_only=True):
    """One metric."""

    name: str
    """As OpenTelemetry has it."""
    kind: Kind
    about: str
    unit: str = ""
    """In UCUM: s, By, or what is counted in braces."""
    attributes: tuple[str, ...] = ()
    buckets: tuple[float, ...] = ()
    together: Literal["livesum", "livemin", "livemax"] = "livesum"
    """What a gauge is where several processes serve one port, of those that live."""

    @property
    def family(self) -> str:
        """Its name in Prometheus without the `_total` of counters.

        Source: OpenTelemetry, "Prometheus and OpenMetrics Compatibility", metric metadata.
        """
        unit = UNIT_IN_NAMES.get(self.unit)
        return label(self.name) + (f"_{unit}" if unit else "")

    @property
    def labels(self) -> tuple[str, ...]:
        """Its attributes as Prometheus spells them."""
        return tuple(map(label, self.attributes))


def label(name: str) -> str:
    """A name in Prometheus's letters."""
    return re.sub(r"[^a-zA-Z0-9_]", "_", name)


def _counter(name: str, about: str, *attributes: str, unit: str) -> Instrument:
    return Instrument(name=name, kind=Kind.COUNTER, about=about, unit=unit, attributes=attributes)


def _gauge(
    name: str,
    about: str,
    *attributes: str,
    unit: str = "",
    together: Literal["livesum", "livemin", "livemax"] = "livesum",
) -> Instrument:
    return Instrument(name=name, kind=Kind.GAUGE, about=about, unit=unit, attributes=attributes, together=together)


def _histogram(name: str, about: str, *attributes: str, unit: str, buckets: tuple[float, ...]) -> Instrument:
    return Instrument(
        name=name, kind=Kind.HISTOGRAM, about=about, unit=unit, attributes=attributes, buckets=buckets
    )


_OPERATION = (otel.GEN_AI_OPERATION_NAME, otel.GEN_AI_PROVIDER_NAME, otel.GEN_AI_REQUEST_MODEL)

REQUEST_DURATION = _histogram(
    otel.GEN_AI_SERVER_REQUEST_DURATION,
    "Seconds from a call's begin to its last token, waiting included.",
    *_OPERATION,
    otel.ERROR_TYPE,
    unit="s",
    buckets=otel.GEN_AI_DURATION_BUCKETS,
)
TIME_TO_FIRST_TOKEN = _histogram(
    otel.GEN_AI_SERVER_TIME_TO_FIRST_TOKEN,
    "Seconds from a call's begin to its first token, waiting included, of calls that went well.",
    *_OPERATION,
    unit="s",
    buckets=otel.TIME_TO_FIRST_TOKEN_BUCKETS,
)
TIME_PER_OUTPUT_TOKEN = _histogram(
    otel.GEN_AI_SERVER_TIME_PER_OUTPUT_TOKEN,
    "Mean seconds for each token after the first one, of calls that went well.",
    *_OPERATION,
    unit="s",
    buckets=otel.TIME_PER_OUTPUT_TOKEN_BUCKETS,
)
TOKEN_USAGE = _histogram(
    otel.GEN_AI_CLIENT_TOKEN_USAGE,
    "Tokens of a call, of its prompt (input) or of its answer (output).",
    *_OPERATION,
    otel.GEN_AI_TOKEN_TYPE,
    unit="{token}",
    buckets=otel.TOKEN_BUCKETS,
)
HTTP_DURATION = _histogram(
    otel.HTTP_SERVER_REQUEST_DURATION,
    "Seconds until a request's last byte was handed over.",
    otel.HTTP_REQUEST_METHOD,
    otel.HTTP_ROUTE,
    otel.HTTP_RESPONSE_STATUS_CODE,
    otel.URL_SCHEME,
    otel.ERROR_TYPE,
    unit="s",
    buckets=otel.HTTP_DURATION_BUCKETS,
)
QUEUE_WAIT = _histogram(
    "memoria.queue.wait",
    "Seconds that a call waited for its turn at an engine; 0 for most.",
    ROLE,
    unit="s",
    buckets=WAIT_BUCKETS,
)
JOIN_WAIT = _histogram(
    "memoria.join.wait",
    "Seconds that a call waited to travel with others, of those that waited.",
    ROLE,
    unit="s",
    buckets=WAIT_BUCKETS,
)
JOIN_SIZE = _histogram(
    "memoria.join.size",
    "Requests that a request travelled with, itself included, of those that had company.",
    ROLE,
    unit="{request}",
    buckets=JOIN_BUCKETS,
)
SERVICE_READY = _gauge("memoria.service.ready", "1 if all engines take requests, else 0.", together="livemin")
ENGINE_STATE = _gauge(
    "memoria.engine.state", "1 for the state that an engine is in, else 0.", ROLE, STATE, together="livemax"
)
ENGINE_RESTARTS = _counter(
    "memoria.engine.restarts", "How often an engine was lost and started again.", ROLE, unit="{restart}"
)
RUNNING = _gauge("memoria.requests.running", "Requests that an engine works on.", ROLE, unit="{request}")
RUNNING_LIMIT = _gauge(
    "memoria.requests.running.limit", "Most requests that an engine is given at a time.", ROLE, unit="{request}"
)
WAITING = _gauge("memoria.requests.waiting", "Requests that wait for their turn.", ROLE, unit="{request}")
WAITING_LIMIT = _gauge("memoria.requests.waiting.limit", "Most requests that may wait.", ROLE, unit="{request}")
RUNNING_TOKENS = _gauge(
    "memoria.tokens.running", "Tokens, estimated, that an engine works on.", ROLE, unit="{token}"
)
RUNNING_TOKENS_LIMIT = _gauge(
    "memoria.tokens.running.limit",
    "Most tokens, estimated, that an engine is given at a time.",
    ROLE,
    unit="{token}",
)
WAITING_TOKENS = _gauge(
    "memoria.tokens.waiting", "Tokens, estimated, that wait for their turn.", ROLE, unit="{token}"
)
WAITING_TOKENS_LIMIT = _gauge(
    "memoria.tokens.waiting.limit", "Most tokens, estimated, that may wait.", ROLE, unit="{token}"
)
RETRIES = _counter("memoria.retries", "Requests to a server that were made again.", ROLE, unit="{request}")
RETRIES_GIVEN_UP = _counter(
    "memoria.retries.given_up",
    "Requests that failed for want of a server, retries and all.",
    ROLE,
    unit="{request}",
)
SERVER_STATE = _gauge(
    "memoria.server.state",
    "1 for the state that a server is in, else 0.",
    ROLE,
    SERVER,
    STATE,
    together="livemax",
)
SERVER_BREAKER = _gauge(
    "memoria.server.breaker",
    "1 for the state that a server's circuit breaker is in, else 0.",
    ROLE,
    SERVER,
    STATE,
    together="livemax",
)
SERVER_EJECTIONS = _counter(
    "memoria.server.ejections",
    "How often a server was left out until it answered again.",
    ROLE,
    SERVER,
    unit="{ejection}",
)
SERVER_OUTSTANDING = _gauge(
    "memoria.server.outstanding",
    "Work under way: inputs to embed, choices to write.",
    ROLE,
    SERVER,
    unit="{item}",
)
CACHE_INPUTS = _counter(
    "memoria.embedding_cache.inputs",
    "Inputs whose vector was there (hit), was being computed (shared), or had to be computed (miss).",
    RESULT,
    unit="{input}",
)
CACHE_ENTRIES = _gauge("memoria.embedding_cache.entries", "Vectors in the cache.", unit="{entry}")
CACHE_SIZE = _gauge("memoria.embedding_cache.size", "Memory that the cache uses.", unit="By")
CACHE_LIMIT = _gauge("memoria.embedding_cache.limit", "Memory that the cache may use.", unit="By")
GPU_USED = _gauge(
    "memoria.gpu.memory.used", "Memory of the card in use, by whomever.", unit="By", together="livemax"
)
GPU_LIMIT = _gauge("memoria.gpu.memory.limit", "Memory of the card.", unit="By", together="livemax")
PROCESS_MEMORY = _gauge(
    "memoria.process.memory",
    "Resident memory of the service, and of the processes of each engine that is inside it.",
    PROCESS,
    unit="By",
)
BUILD_INFO = _gauge(
    "memoria.build.info", "1, with the versions of what runs.", VERSION, PYTHON, together="livemax"
)

INSTRUMENTS = tuple(value for value in list(globals().values()) if isinstance(value, Instrument))
BY_FAMILY = {instrument.family: instrument for instrument in INSTRUMENTS}
