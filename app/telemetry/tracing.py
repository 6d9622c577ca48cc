"""Spans: one trace from the client's `traceparent` to the engine. Imported only where traces are exported.

    SERVER    POST /v1/chat/completions          the request, until its last byte
    INTERNAL  └── chat MODEL                     the call of the engine, until its last token
              ├── queue                          waiting for a place among those that the engine works on
              ├── join                           waiting for the call before (embeddings)
              ├── joined call                    the call of the batch, whose request it links to
    CLIENT    └── POST                           over HTTP: opentelemetry-instrumentation-httpx, until the head
    SERVER        └── llm_request                vLLM's own span, in its own process or in this one

Source: OpenTelemetry's conventions (`conventions.VERSION`), docs/http/http-spans.md and
docs/gen-ai/gen-ai-spans.md; W3C Trace Context.
"""

import logging
import threading
from collections.abc import Mapping, Sequence
from importlib import metadata
from typing import cast

from litestar.types import HTTPScope
from opentelemetry import propagate, trace
from opentelemetry.context import Context
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter
from opentelemetry.trace import Link, Span, SpanKind, Status, StatusCode
from opentelemetry.util.types import AttributeValue

from app.settings import TelemetrySettings
from app.settings.otlp import GRPC, OtlpSignal
from app.telemetry import conventions as names
from app.telemetry.environment import export_environment as export_environment
from app.telemetry.record import CANCELLED, UNMATCHED, OperationRecord, RequestRecord

NS = 1_000_000_000
LAST_PATIENCE_S = 5.0
"""How long the last export may take while the service waits for it; the SDK would give it 30 s."""


class Tracing:
    """Makes the spans of requests, and hands their context on."""

    def __init__(
        self,
        provider: TracerProvider,
        *,
        exporter: SpanExporter | None = None,
        on_behalf_of_clients: bool = False,
    ) -> None:
        """Make it.

        Args:
            provider: where spans go.
            exporter: what sends them from there.
            on_behalf_of_clients: whether engines are elsewhere, so that calls of them are a client's.
        """
        self._provider = provider
        self._exporter = exporter
        self._tracer = provider.get_tracer("memoria", schema_url=names.SCHEMA_URL)
        self._wanted = {name.encode("latin-1") for name in propagate.get_global_textmap().fields}
        self._kind = SpanKind.CLIENT if on_behalf_of_clients else SpanKind.INTERNAL

    @property
    def provider(self) -> TracerProvider:
        """Where spans go, for instrumentations."""
        return self._provider

    def begin_request(self, scope: HTTPScope, record: RequestRecord) -> Context:
        """A context with the span of a request, in the client's trace if it sent one.

        What else the client sent along (tracestate, baggage) is in it, too. If the trace is kept, its id goes into
        the record.
        """
        # Its route is known only at its end, and samplers shall not see what a client may have put into a path.
        headers = self._headers(scope)
        context = self._begin(
            _method(record.method),
            propagate.extract(headers) if headers else Context(),
            SpanKind.SERVER,
            start_time=int(record.began * NS),
        )
        span = trace.get_current_span(context)
        if span.is_recording():
            record.trace_id = trace.format_trace_id(span.get_span_context().trace_id)
            span.set_attributes(_request_attributes(scope, record))
        return context

    def end_request(self, context: Context, record: RequestRecord) -> None:
        """The span is over."""
        span = trace.get_current_span(context)
        if span.is_recording():
            if record.route != UNMATCHED:
                span.update_name(f"{_method(record.method)} {record.route}")
                span.set_attribute(names.HTTP_ROUTE, record.route)
            if record.status:
                span.set_attribute(names.HTTP_RESPONSE_STATUS_CODE, record.status)
            if record.client_gone:
                span.set_attribute(names.CLIENT_GONE, True)
                span.set_attribute(names.ERROR_TYPE, CANCELLED)
            elif record.status >= 500 or (record.error_type is not None and record.status < 400):
                # What is the client's fault is no error of a server; a broken stream has status 200.
                span.set_attribute(names.ERROR_TYPE, record.error_type or str(record.status))
                span.set_status(Status(StatusCode.ERROR))
        span.end()

    def begin_operation(
        self, parent: Context, operation: OperationRecord, attributes: Mapping[str, object]
    ) -> Context:
        """A context with the span of a call of an engine."""
        context = self._begin(f"{operation.name} {operation.model}", parent, self._kind)
        trace.get_current_span(context).set_attributes(
            {
                names.GEN_AI_OPERATION_NAME: operation.name,
                names.GEN_AI_PROVIDER_NAME: names.PROVIDER,
                names.GEN_AI_REQUEST_MODEL: operation.model,
                **cast(Mapping[str, AttributeValue], attributes),
            }
        )
        return context

    def end_operation(
        self,
        context: Context,
        operation: OperationRecord,
        finish_reasons: Sequence[str],
        attributes: Mapping[str, object],
    ) -> None:
        """The span is over."""
        span = trace.get_current_span(context)
        said = {
            names.GEN_AI_RESPONSE_MODEL: None if operation.error_type else operation.model,
            names.GEN_AI_USAGE_INPUT_TOKENS: operation.prompt_tokens or None,
            names.GEN_AI_USAGE_OUTPUT_TOKENS: operation.completion_tokens or None,
            names.GEN_AI_RESPONSE_TIME_TO_FIRST_CHUNK: operation.first_token_s,
            names.GEN_AI_RESPONSE_FINISH_REASONS: list(finish_reasons) or None,
            names.ERROR_TYPE: operation.error_type,
            **attributes,
        }
        found = {name: value for name, value in said.items() if value is not None}
        span.set_attributes(cast(Mapping[str, AttributeValue], found))
        if operation.error_type not in (None, CANCELLED):
            span.set_status(Status(StatusCode.ERROR))
        span.end()

    def carrier(self, context: Context) -> dict[str, str]:
        """Headers that carry a span on to the engine, with what its client sent along."""
        headers: dict[str, str] = {}
        propagate.inject(headers, context)
        return headers

    def child(
        self,
        parent: Context,
        name: str,
        began: float,
        ended: float,
        *,
        batch_size: int,
        link: Mapping[str, str] | None,
    ) -> None:
        """A span of the past below another one.

        Args:
            parent: has the other one.
            name: what it was.
            began: Unix time.
            ended: Unix time.
            batch_size: requests in the batch; 0 where that means nothing.
            link: the trace context of the span in which it happened; None where it is this one's own.
        """
        if not trace.get_current_span(parent).is_recording():
            # It has ended meanwhile.
            return
        span = self._tracer.start_span(
            name,
            context=parent,
            start_time=int(began * NS),
            links=_links(link, but=trace.get_current_span(parent)),
            attributes={names.JOINED_REQUESTS: batch_size} if batch_size else None,
        )
        span.end(end_time=int(ended * NS))

    def stop(self) -> None:
        """Send what has not been sent, and end. Blocks for some seconds at most."""
        ending = threading.Thread(target=self._provider.shutdown, name="export-last-spans", daemon=True)
        ending.start()
        ending.join(LAST_PATIENCE_S)
        if ending.is_alive() and self._exporter is not None:
            # Whoever is still trying gives up now.
            self._exporter.shutdown()

    def _headers(self, scope: HTTPScope) -> dict[str, str]:
        """What a client says of its trace."""
        found: dict[str, str] = {}
        for raw, value in scope["headers"]:
            if raw in self._wanted:
                # A list may come in several headers (RFC 9110, 5.3); two parents are none (W3C Trace Context).
                name, text = raw.decode("latin-1"), value.decode("latin-1")
                found[name] = f"{found[name]},{text}" if name in found else text
        return found

    def _begin(self, name: str, parent: Context, kind: SpanKind, start_time: int | None = None) -> Context:
        span = self._tracer.start_span(name, context=parent, kind=kind, start_time=start_time)
        return trace.set_span_in_context(span, parent)


def build_tracing(settings: TelemetrySettings, signal: OtlpSignal, *, on_behalf_of_clients: bool) -> Tracing:
    """What makes spans and sends them.

    The provider becomes the process's own, so that the spans of an engine in this process go with ours.

    Args:
        settings: the name under which they are sent.
        signal: where they are sent.
        on_behalf_of_clients: see Tracing.
    """
    export_environment(settings)
    service = {names.SERVICE_NAME: settings.service_name, names.SERVICE_VERSION: metadata.version("memoria-vllm")}
    # The sampler and the sizes of batches follow from the standard variables.
    provider = TracerProvider(resource=Resource.create(service, schema_url=names.SCHEMA_URL))
    exporter = _exporter(signal)
    provider.add_span_processor(BatchSpanProcessor(exporter))
    trace.set_tracer_provider(provider)
    # Each engine in this process brings a provider too, and is told in the log that there is one.
    logging.getLogger("opentelemetry.trace").setLevel(logging.ERROR)
    return Tracing(provider, exporter=exporter, on_behalf_of_clients=on_behalf_of_clients)


def _exporter(signal: OtlpSignal) -> SpanExporter:
    if signal.protocol == GRPC:
        from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter as GrpcExporter

        return GrpcExporter(endpoint=signal.endpoint, insecure=not signal.endpoint.lower().startswith("https:"))
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter as HttpExporter

    return HttpExporter(endpoint=signal.endpoint)


def _links(carrier: Mapping[str, str] | None, *, but: Span) -> list[Link]:
    """A link to the span that a carrier carries, unless that is the one that would link."""
    if carrier is None:
        return []
    context = trace.get_current_span(propagate.extract(carrier)).get_span_context()
    own = but.get_span_context()
    return [Link(context)] if context.is_valid and context.span_id != own.span_id else []


def _method(method: str) -> str:
    return "HTTP" if method == names.OTHER else method


def _request_attributes(scope: HTTPScope, record: RequestRecord) -> dict[str, AttributeValue]:
    attributes: dict[str, AttributeValue] = {
        names.HTTP_REQUEST_METHOD: record.method,
        names.URL_PATH: scope["path"],
        names.URL_SCHEME: scope["scheme"],
        names.NETWORK_PROTOCOL_VERSION: scope["http_version"],
        names.REQUEST_ID: record.request_id,
    }
    if record.method == names.OTHER:
        attributes[names.HTTP_REQUEST_METHOD_ORIGINAL] = scope["method"]
    if scope["server"] is not None:
        attributes[names.SERVER_ADDRESS] = scope["server"][0]
        if scope["server"][1] is not None:
            attributes[names.SERVER_PORT] = scope["server"][1]
    if scope["client"] is not None:
        attributes[names.CLIENT_ADDRESS] = scope["client"][0]
    for name, value in scope["headers"]:
        if name == b"user-agent":
            attributes[names.USER_AGENT_ORIGINAL] = value.decode("latin-1")
    return attributes
