"""Records of finished requests and engine calls, from which the log, the metrics and the status page are made."""

import msgspec

from domain.roles import Role
from domain.service_class import ServiceClass

UNMATCHED = "unmatched"
"""Route of unknown paths; the path itself could be anything."""
PROBES = frozenset({"/health", "/health/live", "/health/ready", "/metrics", "/status", "/"})
"""Routes that monitoring and the status page poll: counted, but neither traced nor listed."""
PAGE_FILES = "/page/"
"""Files of the status page; handled as probes, or they would fill the log and the history."""
CANCELLED = "cancelled"
"""Error type of work whose client has disconnected."""
TEMPORARY = frozenset({429, 503})
"""Statuses with which the service refuses what it can do later; lines of batches are then tried again."""


def is_probe(path: str) -> bool:
    """Whether a path is polled for monitoring.

    Args:
        path: a request's path or route.
    """
    return (path.rstrip("/") or "/") in PROBES or path.startswith(PAGE_FILES)


class OperationRecord(msgspec.Struct, kw_only=True):
    """One call of an engine. A request makes one, or one for each of its prompts.

    Durations are in seconds.
    """

    name: str
    """OpenTelemetry's `gen_ai.operation.name`: chat, text_completion or embeddings; or rerank, for which the
    conventions have no name."""
    role: Role
    model: str
    """The model's own name, not an alias or what the client sent."""
    is_stream: bool = False
    is_line: bool = False
    """Whether it is part of a line of a batch."""
    duration_s: float = 0.0
    queue_s: float = 0.0
    """Time in the queue of the engine."""
    join_s: float = 0.0
    """Time waiting for the call before its batch's to end."""
    first_token_s: float | None = None
    """From the operation's start to its first token; None without one, and for embeddings."""
    prompt_tokens: int = 0
    completion_tokens: int = 0
    """Of all choices together."""
    choices: int = 1
    """Number of choices, which are generated in parallel."""
    error_type: str | None = None
    """The error's OpenAI code, its type if it has no code, or CANCELLED; None on success."""


class RequestRecord(msgspec.Struct, kw_only=True):
    """One HTTP request, without its content. Durations are in seconds."""

    request_id: str
    trace_id: str | None = None
    """32 hexadecimal digits; None if the request is not traced or its trace is not sampled."""
    began: float
    """Unix time."""
    method: str
    """One of `conventions.METHODS`, or OTHER."""
    route: str = UNMATCHED
    """The path template, such as /v1/models/{model_id}; UNMATCHED for an unknown path."""
    key: str | None = None
    """Name of the API key, if it has one."""
    status: int = 0
    """Status that was sent; 499 if the client disconnected before it, 0 if none was sent for another reason."""
    duration_s: float = 0.0
    """Until the last byte was sent."""
    error_type: str | None = None
    """As in OperationRecord. A stream that fails midway has status 200 and an error type."""
    client_gone: bool = False
    """Whether the client disconnected before the answer was complete."""
    operation: str | None = None
    """Name of its operations; None for requests that reach no engine."""
    role: Role | None = None
    model: str | None = None
    is_stream: bool = False
    service_class: ServiceClass = ServiceClass.INTERACTIVE
    queue_s: float = 0.0
    """The longest among its operations, as is join_s."""
    join_s: float = 0.0
    first_token_s: float | None = None
    """From the request's start to the first token of any operation."""
    prompt_tokens: int = 0
    completion_tokens: int = 0
    """Tokens of all choices, as in `usage`: n greedy choices count n times, though one of them is generated."""

    @property
    def is_probe(self) -> bool:
        """Whether the request only polled for monitoring."""
        return is_probe(self.route)

    @property
    def is_line(self) -> bool:
        """Whether it is a line of a batch."""
        return self.service_class is ServiceClass.BATCH

    @property
    def is_routine_line(self) -> bool:
        """Whether it is a line of a batch that has not failed; one that is cancelled or tried again has not."""
        if not self.is_line:
            return False
        return self.client_gone or self.status in TEMPORARY or (self.error_type is None and self.status < 400)


class Listener:
    """Receives events of requests and operations; subclasses override the methods they need."""

    def request_ended(self, record: RequestRecord) -> None:
        """Called when a request has ended."""

    def operation_ended(self, operation: OperationRecord) -> None:
        """Called when an engine call has ended."""

    def waited(self, operation: OperationRecord, phase: str, seconds: float) -> None:
        """Called when a call has waited; `phase` is a `domain.observation.Phase`."""

    def batched(self, operation: OperationRecord, batch_size: int) -> None:
        """Called when a call was part of a batch of `batch_size` requests, including itself."""
