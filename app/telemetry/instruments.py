"""Declares every metric of this service under its OpenTelemetry name; the Prometheus name is derived from it.

Metrics that the semantic conventions define have that name; all others begin with `memoria.`.
"""

import enum
import re
from typing import Literal

import msgspec

from app.telemetry import conventions as otel

ROLE, STATE, SERVER, PROCESS, RESULT = "role", "state", "server", "process", "result"
VERSION, PYTHON, CLASS, STATUS = "version", "python", "class", "status"

WAIT_BUCKETS = (0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)
JOIN_BUCKETS = (2, 4, 8, 16, 32, 64, 128, 256)
UNIT_IN_NAMES = {"s": "seconds", "By": "bytes"}


class Kind(enum.StrEnum):
    """The type of a metric."""

    COUNTER = "counter"
    GAUGE = "gauge"
    HISTOGRAM = "histogram"


class Instrument(msgspec.Struct, frozen=True, kw_only=True):
    """One metric."""

    name: str
    """Name in OpenTelemetry."""
    kind: Kind
    about: str
    unit: str = ""
    """UCUM unit: s, By, or the counted item in braces."""
    attributes: tuple[str, ...] = ()
    buckets: tuple[float, ...] = ()
    multiprocess_mode: Literal["livesum", "livemin", "livemax"] = "livesum"
    """How a gauge's values of several live API processes are combined."""

    @property
    def family(self) -> str:
        """Name in Prometheus, without the `_total` of counters.

        Source: OpenTelemetry, "Prometheus and OpenMetrics Compatibility", metric metadata.
        """
        unit = UNIT_IN_NAMES.get(self.unit)
        return label(self.name) + (f"_{unit}" if unit else "")

    @property
    def labels(self) -> tuple[str, ...]:
        """Attributes as Prometheus labels."""
        return tuple(map(label, self.attributes))


def label(name: str) -> str:
    """Convert a name to the characters that Prometheus allows."""
    return re.sub(r"[^a-zA-Z0-9_]", "_", name)


def _counter(name: str, about: str, *attributes: str, unit: str) -> Instrument:
    return Instrument(name=name, kind=Kind.COUNTER, about=about, unit=unit, attributes=attributes)


def _gauge(
    name: str,
    about: str,
    *attributes: str,
    unit: str = "",
    multiprocess_mode: Literal["livesum", "livemin", "livemax"] = "livesum",
) -> Instrument:
    return Instrument(
        name=name,
        kind=Kind.GAUGE,
        about=about,
        unit=unit,
        attributes=attributes,
        multiprocess_mode=multiprocess_mode,
    )


def _histogram(name: str, about: str, *attributes: str, unit: str, buckets: tuple[float, ...]) -> Instrument:
    return Instrument(
        name=name, kind=Kind.HISTOGRAM, about=about, unit=unit, attributes=attributes, buckets=buckets
    )


_OPERATION = (otel.GEN_AI_OPERATION_NAME, otel.GEN_AI_PROVIDER_NAME, otel.GEN_AI_REQUEST_MODEL)

REQUEST_DURATION = _histogram(
    otel.GEN_AI_SERVER_REQUEST_DURATION,
    "Seconds from a call's start to its last token, including waiting.",
    *_OPERATION,
    otel.ERROR_TYPE,
    unit="s",
    buckets=otel.GEN_AI_DURATION_BUCKETS,
)
TIME_TO_FIRST_TOKEN = _histogram(
    otel.GEN_AI_SERVER_TIME_TO_FIRST_TOKEN,
    "Seconds from a call's start to its first token, including waiting, for successful calls.",
    *_OPERATION,
    unit="s",
    buckets=otel.TIME_TO_FIRST_TOKEN_BUCKETS,
)
TIME_PER_OUTPUT_TOKEN = _histogram(
    otel.GEN_AI_SERVER_TIME_PER_OUTPUT_TOKEN,
    "Mean seconds per token after the first one, for successful calls.",
    *_OPERATION,
    unit="s",
    buckets=otel.TIME_PER_OUTPUT_TOKEN_BUCKETS,
)
TOKEN_USAGE = _histogram(
    otel.GEN_AI_CLIENT_TOKEN_USAGE,
    "Tokens of a call's prompt (input) or answer (output).",
    *_OPERATION,
    otel.GEN_AI_TOKEN_TYPE,
    unit="{token}",
    buckets=otel.TOKEN_BUCKETS,
)
HTTP_DURATION = _histogram(
    otel.HTTP_SERVER_REQUEST_DURATION,
    "Seconds until a request's last byte was sent.",
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
    "Seconds that a call waited in the queue of an engine; 0 for most.",
    ROLE,
    unit="s",
    buckets=WAIT_BUCKETS,
)
JOIN_WAIT = _histogram(
    "memoria.join.wait",
    "Seconds that a call waited for its batch, for calls that waited.",
    ROLE,
    unit="s",
    buckets=WAIT_BUCKETS,
)
JOIN_SIZE = _histogram(
    "memoria.join.size",
    "Size of a request's batch, including itself, for requests that shared one.",
    ROLE,
    unit="{request}",
    buckets=JOIN_BUCKETS,
)
SERVICE_READY = _gauge(
    "memoria.service.ready", "1 if all engines accept requests, else 0.", multiprocess_mode="livemin"
)
ENGINE_STATE = _gauge(
    "memoria.engine.state", "1 for an engine's current state, else 0.", ROLE, STATE, multiprocess_mode="livemax"
)
ENGINE_RESTARTS = _counter(
    "memoria.engine.restarts", "How often an engine crashed and was restarted.", ROLE, unit="{restart}"
)
RUNNING = _gauge("memoria.requests.running", "Requests that an engine is processing.", ROLE, unit="{request}")
RUNNING_LIMIT = _gauge(
    "memoria.requests.running.limit", "Limit of running requests per engine.", ROLE, unit="{request}"
)
WAITING = _gauge("memoria.requests.waiting", "Interactive requests in the queue.", ROLE, unit="{request}")
WAITING_LIMIT = _gauge("memoria.requests.waiting.limit", "Limit of requests in the queue.", ROLE, unit="{request}")
RUNNING_TOKENS = _gauge("memoria.tokens.running", "Estimated tokens of running requests.", ROLE, unit="{token}")
RUNNING_TOKENS_LIMIT = _gauge(
    "memoria.tokens.running.limit",
    "Limit of estimated tokens of running requests.",
    ROLE,
    unit="{token}",
)
WAITING_TOKENS = _gauge(
    "memoria.tokens.waiting", "Estimated tokens of interactive requests in the queue.", ROLE, unit="{token}"
)
WAITING_TOKENS_LIMIT = _gauge(
    "memoria.tokens.waiting.limit", "Limit of estimated tokens of requests in the queue.", ROLE, unit="{token}"
)
CLASS_RUNNING = _gauge(
    "memoria.class.running",
    "Requests of one class of service (interactive, flex, batch) that an engine is processing.",
    ROLE,
    CLASS,
    unit="{request}",
)
CLASS_WAITING = _gauge(
    "memoria.class.waiting", "Requests of one class of service in the queue.", ROLE, CLASS, unit="{request}"
)
BATCHES_UNFINISHED = _gauge(
    "memoria.batches.unfinished",
    "Batches in the database, of all keys, that have not ended.",
    STATUS,
    unit="{batch}",
    multiprocess_mode="livemax",
)
BATCH_LINES = _counter(
    "memoria.batches.lines", "Lines of batches that were answered (completed) or failed.", RESULT, unit="{line}"
)
RETRIES = _counter("memoria.retries", "Retried requests to a server.", ROLE, unit="{request}")
RETRIES_GIVEN_UP = _counter(
    "memoria.retries.given_up",
    "Requests that failed after all retries because no server was available.",
    ROLE,
    unit="{request}",
)
SERVER_STATE = _gauge(
    "memoria.server.state",
    "1 for a server's current state, else 0.",
    ROLE,
    SERVER,
    STATE,
    multiprocess_mode="livemax",
)
SERVER_BREAKER = _gauge(
    "memoria.server.breaker",
    "1 for the current state of a server's circuit breaker, else 0.",
    ROLE,
    SERVER,
    STATE,
    multiprocess_mode="livemax",
)
SERVER_EJECTIONS = _counter(
    "memoria.server.ejections",
    "How often a server was taken out of rotation until it answered again.",
    ROLE,
    SERVER,
    unit="{ejection}",
)
SERVER_OUTSTANDING = _gauge(
    "memoria.server.outstanding",
    "Work in progress: inputs to embed, choices to generate.",
    ROLE,
    SERVER,
    unit="{item}",
)
CACHE_INPUTS = _counter(
    "memoria.embedding_cache.inputs",
    "Inputs whose vector was cached (hit), was being computed (shared), or had to be computed (miss).",
    RESULT,
    unit="{input}",
)
CACHE_ENTRIES = _gauge("memoria.embedding_cache.entries", "Vectors in the cache.", unit="{entry}")
CACHE_SIZE = _gauge("memoria.embedding_cache.size", "Memory that the cache uses.", unit="By")
CACHE_LIMIT = _gauge("memoria.embedding_cache.limit", "Memory that the cache may use.", unit="By")
GPU_USED = _gauge(
    "memoria.gpu.memory.used", "GPU memory in use, by any process.", unit="By", multiprocess_mode="livemax"
)
GPU_LIMIT = _gauge("memoria.gpu.memory.limit", "GPU memory in total.", unit="By", multiprocess_mode="livemax")
PROCESS_MEMORY = _gauge(
    "memoria.process.memory",
    "Resident memory of the service, and of the processes of each engine that runs in process.",
    PROCESS,
    unit="By",
)
BUILD_INFO = _gauge(
    "memoria.build.info",
    "1, with the version of the service and of Python.",
    VERSION,
    PYTHON,
    multiprocess_mode="livemax",
)

INSTRUMENTS = tuple(value for value in list(globals().values()) if isinstance(value, Instrument))
BY_FAMILY = {instrument.family: instrument for instrument in INSTRUMENTS}
