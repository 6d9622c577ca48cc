"""What is known of a request when it is over: the one source of log, metrics and page."""

import msgspec

from domain.roles import Role

UNMATCHED = "unmatched"
"""The route of a path that the service does not have; the path itself could be anything."""
PROBES = frozenset({"/health", "/health/live", "/health/ready", "/metrics", "/status", "/"})
"""Routes that machines and open pages ask all the time: counted, but neither traced nor listed."""
PAGE_FILES = "/page/"
"""What an open page loads; as the routes of probes, or it would fill log and history with itself."""
CANCELLED = "cancelled"
"""The error type of work whose client has left."""


def is_probe(path: str) -> bool:
    """Whether somebody who asks this only looks how the service is.

    Args:
        path: a request's, or its template.
    """
    return (path.rstrip("/") or "/") in PROBES or path.startswith(PAGE_FILES)


class OperationRecord(msgspec.Struct, kw_only=True):
    """One call of an engine, as the request's client asked for it: a request has one, or one for each prompt.

    Durations are seconds.
    """

    name: str
    """OpenTelemetry's `gen_ai.operation.name`: chat, text_completion or embeddings."""
    role: Role
    model: str
    """The model's own name, not an alias and not what the client wrote."""
    is_stream: bool = False
    duration_s: float = 0.0
    queue_s: float = 0.0
    """Waiting for a place among those that the engine works on."""
    join_s: float = 0.0
    """Waiting for the call before its batch's to end."""
    first_token_s: float | None = None
    """From the operation's begin to its first token; None without one, and for embeddings."""
    prompt_tokens: int = 0
    completion_tokens: int = 0
    """Of all its choices together."""
    choices: int = 1
    """How many answers were written side by side."""
    error_type: str | None = None
    """The error's code in OpenAI's spelling, its type where it has none, or CANCELLED; None if all went well."""


class RequestRecord(msgspec.Struct, kw_only=True):
    """One HTTP request. Holds nothing of its content. Durations are seconds."""

    request_id: str
    trace_id: str | None = None
    """32 hexadecimal digits; None where the request is not traced, or its trace not kept."""
    began: float
    """Unix time."""
    method: str
    """One of `conventions.METHODS`, or OTHER: a client may write anything."""
    route: str = UNMATCHED
    """The path's template, such as /v1/models/{model_id}; UNMATCHED for an unknown path."""
    key: str | None = None
    """Name of the API key, where keys have names."""
    status: int = 0
    """Of the answer's head; 499 if the client left before it, 0 if nothing was answered for another reason."""
    duration_s: float = 0.0
    """Until the last byte was handed over."""
    error_type: str | None = None
    """As in OperationRecord, for anything that failed: a stream that breaks off has status 200 and this."""
    client_gone: bool = False
    """Whether the client left before its answer was whole."""
    operation: str | None = None
    """The name of its operations; None for requests that ask no engine."""
    role: Role | None = None
    model: str | None = None
    is_stream: bool = False
    queue_s: float = 0.0
    """The longest of its operations, as join_s."""
    join_s: float = 0.0
    first_token_s: float | None = None
    """From the request's begin to the first token of any operation."""
    prompt_tokens: int = 0
    completion_tokens: int = 0
    """What engines wrote. Of n greedy choices they write one, and `usage` in the answer counts n of them."""

    @property
    def is_probe(self) -> bool:
        """Whether somebody only looked how the service is."""
        return is_probe(self.route)


class Listener:
    """Told of what has happened; each method does nothing until a listener has a use for it."""

    def request_ended(self, record: RequestRecord) -> None:
        """A request is over."""

    def operation_ended(self, operation: OperationRecord) -> None:
        """A call of an engine is over."""

    def waited(self, operation: OperationRecord, phase: str, seconds: float) -> None:
        """A call has waited: `phase` is a `domain.observation.Phase`."""

    def batched(self, operation: OperationRecord, batch_size: int) -> None:
        """A call was part of a batch of `batch_size` requests, itself included."""
