"""Creates spans: one trace from the client's `traceparent` to the engine. Imported only if traces are exported.

    SERVER    POST /v1/chat/completions          the request, until its last byte
    INTERNAL  └── chat MODEL                     the engine call, until its last token
              ├── queue                          time in the engine's queue
              ├── join                           time waiting for the previous call (embeddings)
              ├── joined call                    the batch's call, linked to the request that made it
    CLIENT    └── POST                           over HTTP: opentelemetry-instrumentation-httpx, until the headers
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
FINAL_EXPORT_TIMEOUT_S = 5.0
"""How long the service waits for the final export; the SDK's own limit is 30 s."""


class Tracing:
    """Creates the spans of requests, and propagates their context."""

    def __init__(
        self,
        provider: TracerProvider,
        *,
        exporter: SpanExporter | None = None,
        has_remote_engines: bool = False,
    ) -> None:
        """Create it.

        Args:
            provider: creates the spans.
            exporter: exports the provider's spans.
            has_remote_engines: whether all engines run on servers, so that calls of them are CLIENT spans.
        """
        self._provider = provider
        self._exporter = exporter
        self._tracer = provider.get_tracer("memoria", schema_url=names.SCHEMA_URL)
        self._wanted = {name.encode("latin-1") for name in propagate.get_global_textmap().fields}
        self._kind = SpanKind.CLIENT if has_remote_engines else SpanKind.INTERNAL

    @property
    def provider(self) -> TracerProvider:
        """The tracer provider, for instrumentations."""
        return self._provider

    def begin_request(self, scope: HTTPScope, record: RequestRecord) -> Context:
        """Start the span of a request, in the client's trace if it sent one, and return its context.

        The context also has the client's tracestate and baggage. If the trace is sampled, its id is set in the
        record.
        """
        # The route is known only at the end, and samplers should not see the path, which may contain anything.
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
        """End the span of a request."""
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
                # Client errors are no errors of a SERVER span; a stream that fails midway has status 200.
                span.set_attribute(names.ERROR_TYPE, record.error_type or str(record.status))
                span.set_status(Status(StatusCode.ERROR))
        span.end()

    def begin_operation(
        self, parent: Context, operation: OperationRecord, attributes: Mapping[str, object]
    ) -> Context:
        """Start the span of an engine call, and return its context."""
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
        """End the span of an engine call."""
        span = trace.get_current_span(context)
        values = {
            names.GEN_AI_RESPONSE_MODEL: None if operation.error_type else operation.model,
            names.GEN_AI_USAGE_INPUT_TOKENS: operation.prompt_tokens or None,
            names.GEN_AI_USAGE_OUTPUT_TOKENS: operation.completion_tokens or None,
            names.GEN_AI_RESPONSE_TIME_TO_FIRST_CHUNK: operation.first_token_s,
            names.GEN_AI_RESPONSE_FINISH_REASONS: list(finish_reasons) or None,
            names.ERROR_TYPE: operation.error_type,
            **attributes,
        }
        found = {name: value for name, value in values.items() if value is not None}
        span.set_attributes(cast(Mapping[str, AttributeValue], found))
        if operation.error_type not in (None, CANCELLED):
            span.set_status(Status(StatusCode.ERROR))
        span.end()

    def carrier(self, context: Context) -> dict[str, str]:
        """Headers that propagate the trace context, including the client's baggage, to the engine."""
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
        """Create a child span for something that has already ended.

        Args:
            parent: context of the parent span.
            name: name of the span.
            began: Unix time.
            ended: Unix time.
            batch_size: requests in the batch; 0 without a batch.
            link: trace context of the span to link to; None for no link.
        """
        if not trace.get_current_span(parent).is_recording():
            # The parent has ended meanwhile.
            return
        span = self._tracer.start_span(
            name,
            context=parent,
            start_time=int(began * NS),
            links=_links(link, own=trace.get_current_span(parent)),
            attributes={names.JOINED_REQUESTS: batch_size} if batch_size else None,
        )
        span.end(end_time=int(ended * NS))

    def stop(self) -> None:
        """Export what is left, and stop. Blocks for some seconds at most."""
        ending = threading.Thread(target=self._provider.shutdown, name="export-last-spans", daemon=True)
        ending.start()
        ending.join(FINAL_EXPORT_TIMEOUT_S)
        if ending.is_alive() and self._exporter is not None:
            # Aborts an export that is still running.
            self._exporter.shutdown()

    def _headers(self, scope: HTTPScope) -> dict[str, str]:
        """The client's trace context headers."""
        found: dict[str, str] = {}
        for raw, value in scope["headers"]:
            if raw in self._wanted:
                # A list may be split over several headers (RFC 9110, 5.3); two parents are invalid (W3C).
                name, text = raw.decode("latin-1"), value.decode("latin-1")
                found[name] = f"{found[name]},{text}" if name in found else text
        return found

    def _begin(self, name: str, parent: Context, kind: SpanKind, start_time: int | None = None) -> Context:
        span = self._tracer.start_span(name, context=parent, kind=kind, start_time=start_time)
        return trace.set_span_in_context(span, parent)


def build_tracing(settings: TelemetrySettings, signal: OtlpSignal, *, has_remote_engines: bool) -> Tracing:
    """Build tracing and its exporter.

    The provider becomes the global one, so that it also exports the spans of engines in this process.

    Args:
        settings: the service's name.
        signal: the endpoint and protocol.
        has_remote_engines: see `Tracing`.
    """
    export_environment(settings)
    service = {names.SERVICE_NAME: settings.service_name, names.SERVICE_VERSION: metadata.version("memoria-vllm")}
    # The SDK reads the sampler and batch sizes from the standard variables.
    provider = TracerProvider(resource=Resource.create(service, schema_url=names.SCHEMA_URL))
    exporter = _exporter(signal)
    provider.add_span_processor(BatchSpanProcessor(exporter))
    trace.set_tracer_provider(provider)
    # Each engine in this process tries to set its own provider, and the SDK would log a warning.
    logging.getLogger("opentelemetry.trace").setLevel(logging.ERROR)
    return Tracing(provider, exporter=exporter, has_remote_engines=has_remote_engines)


def _exporter(signal: OtlpSignal) -> SpanExporter:
    if signal.protocol == GRPC:
        from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter as GrpcExporter

        return GrpcExporter(endpoint=signal.endpoint, insecure=not signal.endpoint.lower().startswith("https:"))
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter as HttpExporter

    return HttpExporter(endpoint=signal.endpoint)


def _links(carrier: Mapping[str, str] | None, *, own: Span) -> list[Link]:
    """A link to the span in a carrier, unless that is the linking span itself."""
    if carrier is None:
        return []
    context = trace.get_current_span(propagate.extract(carrier)).get_span_context()
    is_own = context.span_id == own.get_span_context().span_id
    return [Link(context)] if context.is_valid and not is_own else []


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
