"""A request while it is under way: what is noted of it, and what follows when it is over.

One `RequestObservation` for each request, in the state of its ASGI scope; one `Operation` for each call of an
engine that it makes. Both are free of content.
"""

import time
from collections.abc import Mapping, Sequence
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

if TYPE_CHECKING:
    from opentelemetry.context import Context

    from app.telemetry.tracing import Tracing

OBSERVATION = "observation"
"""Where a request's state keeps its observation; absent where nobody watches."""
STATUS_CLIENT_GONE = 499
"""nginx's number for a client that left before its answer; nobody sees it but logs."""


class RequestObservation:
    """Notes what happens to one request."""

    def __init__(
        self, scope: HTTPScope, request_id: str, listeners: Sequence[Listener], tracing: "Tracing | None"
    ) -> None:
        """Begin.

        Args:
            scope: the request's; its route is read at the end, when it is known.
            request_id: the id that the request was given.
            listeners: told of everything that ends.
            tracing: makes spans; None where nobody wants them.
        """
        self._began = time.monotonic()
        method = scope["method"] if scope["method"] in METHODS else OTHER
        self.record = RequestRecord(request_id=request_id, began=time.time(), method=method)
        # From moments of the monotonic clock to Unix time.
        self.unix_offset = self.record.began - self._began
        self.listeners = listeners
        self.tracing = None if is_probe(scope["path"]) else tracing
        self._scope = scope
        self._context = self.tracing.begin_request(scope, self.record) if self.tracing else None

    @property
    def is_traced(self) -> bool:
        """Whether its spans are kept, so that it is worth while to fill them."""
        return self.record.trace_id is not None

    def waited(self, phase: Phase, began: float, ended: float) -> None:
        """Nothing: whoever waits is an operation. There to be what travels in a `RequestContext`."""

    def batched(self, began: float, ended: float, *, batch_size: int, trace: Mapping[str, str] | None) -> None:
        """Nothing, as `waited`."""

    def asks(self, model: str | None, role: Role) -> None:
        """It is for this model, whether that is ready or not."""
        self.record.model, self.record.role = model, role

    def answers(self, status: int) -> None:
        """The answer's head goes out; what comes after one does not."""
        self.record.status = self.record.status or status

    def failed(self, error: InferenceError) -> None:
        """An error is the answer, or the end of a stream."""
        self.record.error_type = type_of(error)

    def client_left(self) -> None:
        """The client has gone before its answer was whole; one that was sent away did not leave."""
        if self.record.error_type is None:
            self.record.client_gone = True
            self.record.error_type = CANCELLED

    def given_up(self) -> None:
        """The service ends and does not wait for it any longer."""
        self.record.error_type = "service_stopping"

    def begin(self, operation: OperationRecord, attributes: Mapping[str, object]) -> "Operation":
        """An engine is asked.

        Args:
            operation: what is known of it.
            attributes: what else its span shall say.
        """
        record = self.record
        record.operation, record.role, record.model = operation.name, operation.role, operation.model
        record.is_stream = operation.is_stream
        context = self._context
        if self.tracing is not None and context is not None and self.is_traced:
            # Of a trace that is not kept no span is worth its making; the engine hears of it all the same.
            context = self.tracing.begin_operation(context, operation, attributes)
        return Operation(self, operation, context)

    def operation_ended(self, operation: OperationRecord, first_token: float | None) -> None:
        """One of its calls is over.

        Args:
            operation: everything that is known of it.
            first_token: the moment of its first token, by the monotonic clock.
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
        """The answer is out, or there will be none."""
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
    """One call of an engine; the `Observer` that travels with it."""

    def __init__(self, request: RequestObservation, record: OperationRecord, context: "Context | None") -> None:
        self.record = record
        self._request = request
        self._context = context
        self._began = time.monotonic()
        self._first_token: float | None = None
        self.is_complete = False
        """Whether all of a generation has come."""
        self._finish_reasons: dict[int, str] = {}

    def context(self, context: RequestContext) -> RequestContext:
        """What travels with the call: the request's context, watched by this operation."""
        trace = None
        if self._request.tracing is not None and self._context is not None:
            trace = self._request.tracing.carrier(self._context)
        return msgspec.structs.replace(context, observer=self, trace=trace)

    def waited(self, phase: Phase, began: float, ended: float) -> None:
        """See `domain.observation.Observer`."""
        record, seconds = self.record, ended - began
        if phase is Phase.QUEUE:
            record.queue_s += seconds
        else:
            record.join_s += seconds
        for listener in self._request.listeners:
            listener.waited(record, phase, seconds)
        self._child(str(phase), began, ended)

    def batched(self, began: float, ended: float, *, batch_size: int, trace: Mapping[str, str] | None) -> None:
        """See `domain.observation.Observer`."""
        for listener in self._request.listeners:
            listener.batched(self.record, batch_size)
        self._child("joined call", began, ended, batch_size=batch_size, link=trace)

    def first_token(self) -> None:
        """The first part of the answer is there."""
        self._first_token = time.monotonic()

    def used(self, usage: GenerationUsage) -> None:
        """The last of a generation is there: what it took."""
        self.record.prompt_tokens = usage.prompt_tokens
        self.record.completion_tokens = usage.completion_tokens
        self.is_complete = True

    def finished(self, index: int, reason: str) -> None:
        """One choice is whole."""
        self._finish_reasons[index] = reason

    def end(self, error_type: str | None = None, *, attributes: Mapping[str, object] | None = None) -> None:
        """It is over.

        Args:
            error_type: why it failed; None if it did not.
            attributes: what else its span shall say.
        """
        record = self.record
        record.duration_s = time.monotonic() - self._began
        record.error_type = error_type
        record.choices = len(self._finish_reasons) or 1
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


def observation_of(scope: Scope) -> RequestObservation | None:
    """What watches a request, if anything does."""
    state = scope.get("state")
    return None if state is None else state.get(OBSERVATION)


def note_key(scope: Scope, name: str) -> None:
    """Whose request it is."""
    observation = observation_of(scope)
    if observation is not None:
        observation.record.key = name


def note_error(scope: Scope, error: InferenceError) -> None:
    """An error is the answer to a request, or the end of its stream."""
    observation = observation_of(scope)
    if observation is not None:
        observation.failed(error)


def note_client_left(scope: Scope) -> None:
    """The client of a request has gone."""
    observation = observation_of(scope)
    if observation is not None:
        observation.client_left()


def type_of(error: InferenceError) -> str:
    """An error in a word of a bounded set."""
    return error.code or error.type


def route_of(scope: Scope) -> str:
    """The template of the request's path."""
    return str(scope.get("path_template") or UNMATCHED)
