"""Observes requests while they run, and notifies the listeners and tracing.

Each request has a `RequestObservation` in the state of its ASGI scope, and an `Operation` for each call of an
engine that it makes. Neither holds content.
"""

import math
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

import msgspec
from litestar.types import HTTPScope, Scope

from app.telemetry.conventions import METHODS, OTHER
from app.telemetry.record import CANCELLED, UNMATCHED, Listener, OperationRecord, RequestRecord, is_probe
from domain.errors import InferenceError
from domain.observation import Phase
from domain.port import RequestContext
from domain.results import GenerationUsage
from domain.roles import Role
from domain.service_class import ServiceClass

if TYPE_CHECKING:
    from opentelemetry.context import Context

    from app.telemetry.tracing import Tracing

OBSERVATION = "observation"
"""Key of the observation in a request's state; absent if the request is not observed."""
STATUS_CLIENT_GONE = 499
"""nginx's status for a client that disconnected before the answer; it appears only in telemetry."""


class RequestObservation:
    """Records what happens to one request."""

    def __init__(
        self,
        scope: HTTPScope,
        request_id: str,
        listeners: Sequence[Listener],
        tracing: "Tracing | None",
        *,
        service_class: ServiceClass = ServiceClass.INTERACTIVE,
    ) -> None:
        """Start observing.

        Args:
            scope: the request's scope; its route is read at the end, when it is known.
            request_id: the request's id.
            listeners: notified when the request and its operations end.
            tracing: creates spans; None without tracing.
            service_class: as far as it is known before the body is read.
        """
        self._began = time.monotonic()
        method = scope["method"] if scope["method"] in METHODS else OTHER
        self.record = RequestRecord(
            request_id=request_id, began=time.time(), method=method, service_class=service_class
        )
        # Converts times of the monotonic clock to Unix time.
        self.unix_offset = self.record.began - self._began
        self.listeners = listeners
        self.tracing = None if is_probe(scope["path"]) else tracing
        self._scope = scope
        self._context = self.tracing.begin_request(scope, self.record) if self.tracing else None

    @property
    def is_traced(self) -> bool:
        """Whether its spans are sampled, so that their attributes are worth computing."""
        return self.record.trace_id is not None

    def waited(self, phase: Phase, began: float, ended: float) -> None:
        """Do nothing: only operations wait. Defined for the protocol `Observer`."""

    def batched(self, began: float, ended: float, *, batch_size: int, trace: Mapping[str, str] | None) -> None:
        """Do nothing, as `waited`."""

    def set_model(self, model: str | None, role: Role) -> None:
        """Record the requested model, whether or not it is ready."""
        self.record.model, self.record.role = model, role

    def set_class(self, service_class: ServiceClass) -> None:
        """Record how urgent the request is."""
        self.record.service_class = service_class

    def set_status(self, status: int) -> None:
        """Record the status that is sent; later ones are ignored."""
        self.record.status = self.record.status or status

    def failed(self, error: InferenceError) -> None:
        """Record an error that is the answer or ends a stream."""
        self.record.error_type = type_of(error)

    def client_left(self) -> None:
        """Record that the client disconnected before the answer was complete, unless an error caused it."""
        if self.record.error_type is None:
            self.record.client_gone = True
            self.record.error_type = CANCELLED

    def abandoned(self) -> None:
        """Record that the service stops without waiting for the request any longer."""
        self.record.error_type = "service_stopping"

    def begin(self, operation: OperationRecord, attributes: Mapping[str, object]) -> "Operation":
        """Start observing an engine call.

        Args:
            operation: its record.
            attributes: additional attributes of its span.
        """
        record = self.record
        record.operation, record.role, record.model = operation.name, operation.role, operation.model
        record.is_stream, operation.is_line = operation.is_stream, record.is_line
        context = self._context
        if self.tracing is not None and context is not None and self.is_traced:
            # Without sampling no span is created, but the engine still receives the trace context.
            context = self.tracing.begin_operation(context, operation, attributes)
        return Operation(self, operation, context)

    def operation_ended(self, operation: OperationRecord, first_token: float | None) -> None:
        """Add a finished engine call to the request's record.

        Args:
            operation: its record.
            first_token: time of its first token, by the monotonic clock.
        """
        record = self.record
        record.queue_s = max(record.queue_s, operation.queue_s)
        record.join_s = max(record.join_s, operation.join_s)
        record.prompt_tokens += operation.prompt_tokens
        record.completion_tokens += operation.completion_tokens
        if first_token is not None:
            since = first_token - self._began
            record.first_token_s = since if record.first_token_s is None else min(since, record.first_token_s)
        for listener in self.listeners:
            listener.operation_ended(operation)

    def end(self) -> None:
        """Finish the record and notify the listeners."""
        record = self.record
        record.duration_s = time.monotonic() - self._began
        record.route = route_of(self._scope)
        if record.client_gone and not record.status:
            record.status = STATUS_CLIENT_GONE
        if self.tracing is not None and self._context is not None:
            self.tracing.end_request(self._context, record)
        for listener in self.listeners:
            listener.request_ended(record)


class Operation:
    """One call of an engine: the `Observer` in its `RequestContext`."""

    def __init__(self, request: RequestObservation, record: OperationRecord, context: "Context | None") -> None:
        self.record = record
        self._request = request
        self._context = context
        self._began = time.monotonic()
        self._first_token: float | None = None
        self.is_complete = False
        """Whether a generation is complete."""
        self._finish_reasons: dict[int, str] = {}
        self._waits: dict[Phase, list[tuple[float, float]]] = {}

    def context(self, context: RequestContext) -> RequestContext:
        """The call's context: the request's, with this operation as observer and the span's trace context."""
        trace = None
        if self._request.tracing is not None and self._context is not None:
            trace = self._request.tracing.carrier(self._context)
        return msgspec.structs.replace(context, observer=self, trace=trace)

    def waited(self, phase: Phase, began: float, ended: float) -> None:
        """See `domain.observation.Observer`."""
        self._waits.setdefault(phase, []).append((began, ended))
        for listener in self._request.listeners:
            listener.waited(self.record, phase, ended - began)
        self._child(str(phase), began, ended)

    def batched(self, began: float, ended: float, *, batch_size: int, trace: Mapping[str, str] | None) -> None:
        """See `domain.observation.Observer`."""
        for listener in self._request.listeners:
            listener.batched(self.record, batch_size)
        self._child("joined call", began, ended, batch_size=batch_size, link=trace)

    def first_token(self) -> None:
        """Record the time of the first part of the answer."""
        self._first_token = time.monotonic()

    def set_usage(self, usage: GenerationUsage) -> None:
        """Record the usage, which is the last event of a generation."""
        self.record.prompt_tokens = usage.prompt_tokens
        self.record.completion_tokens = usage.completion_tokens
        self.is_complete = True

    def finished(self, index: int, reason: str) -> None:
        """Record that a choice is complete."""
        self._finish_reasons[index] = reason

    def end(self, error_type: str | None = None, *, attributes: Mapping[str, object] | None = None) -> None:
        """Finish the record and the span.

        Args:
            error_type: why the call failed; None on success.
            attributes: additional attributes of its span.
        """
        record = self.record
        record.duration_s = time.monotonic() - self._began
        record.error_type = error_type
        record.choices = len(self._finish_reasons) or 1
        if self._waits:
            record.queue_s = _covered_s(self._waits.get(Phase.QUEUE, ()))
            record.join_s = _covered_s(self._waits.get(Phase.JOIN, ()))
        if self._first_token is not None:
            record.first_token_s = self._first_token - self._began
        if self._request.tracing is not None and self._context is not None and self._request.is_traced:
            reasons = [self._finish_reasons[index] for index in sorted(self._finish_reasons)]
            self._request.tracing.end_operation(self._context, record, reasons, attributes or {})
        self._request.operation_ended(record, self._first_token)

    def _child(
        self, name: str, began: float, ended: float, *, batch_size: int = 0, link: Mapping[str, str] | None = None
    ) -> None:
        tracing, offset = self._request.tracing, self._request.unix_offset
        if tracing is not None and self._context is not None and self._request.is_traced:
            tracing.child(self._context, name, began + offset, ended + offset, batch_size=batch_size, link=link)


def _covered_s(waits: Iterable[tuple[float, float]]) -> float:
    """Seconds that intervals cover together: the parts of a split request wait at the same time."""
    total, until = 0.0, -math.inf
    for began, ended in sorted(waits):
        total += max(0.0, ended - max(began, until))
        until = max(until, ended)
    return total


def observation_of(scope: Scope) -> RequestObservation | None:
    """The observation of a request; None if it is not observed."""
    state = scope.get("state")
    return None if state is None else state.get(OBSERVATION)


def note_key(scope: Scope, name: str) -> None:
    """Record the name of a request's API key."""
    observation = observation_of(scope)
    if observation is not None:
        observation.record.key = name


def note_error(scope: Scope, error: InferenceError) -> None:
    """Record an error that is the answer to a request or ends its stream."""
    observation = observation_of(scope)
    if observation is not None:
        observation.failed(error)


def note_client_left(scope: Scope) -> None:
    """Record that the client of a request disconnected."""
    observation = observation_of(scope)
    if observation is not None:
        observation.client_left()


def type_of(error: InferenceError) -> str:
    """An error's code or type, from a bounded set."""
    return error.code or error.type


def route_of(scope: Scope) -> str:
    """The path template of a request, or UNMATCHED."""
    return str(scope.get("path_template") or UNMATCHED)
