"""Spans by OpenTelemetry's conventions, created with its SDK, of the application on fake engines."""

import asyncio
import json
import os
import socket
import time
from collections.abc import AsyncGenerator

import pytest
from opentelemetry.context import Context
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF, ParentBased, TraceIdRatioBased
from opentelemetry.trace import SpanKind, StatusCode

import app.http.disconnect
from app.settings import load_settings
from app.settings.otlp import GRPC, OtlpSignal
from app.telemetry.environment import export_environment, opentelemetry
from app.telemetry.record import OperationRecord
from app.telemetry.request import RequestObservation
from app.telemetry.setup import build_tracing
from app.telemetry.tracing import Tracing
from domain.errors import BackendFailedError, ConfigurationError
from domain.roles import Role
from tests.unit.observed import ObservedApi, observing
from tests.unit.serving import BODIES, CHAT, COMPLETE, EMBED, NEVER_S, SILENT, Leaving
from tests.unit.waiting import until

SECRET = "a very secret sentence"
TRACE, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
TRACEPARENT = f"00-{TRACE}-{PARENT}-01"


class Spans:
    """The exported spans."""

    def __init__(self, **provider) -> None:
        self._exporter = InMemorySpanExporter()
        self.provider = TracerProvider(**provider)
        self.provider.add_span_processor(SimpleSpanProcessor(self._exporter))

    def all(self) -> list[ReadableSpan]:
        return list(self._exporter.get_finished_spans())

    def named(self, name: str) -> list[ReadableSpan]:
        return [span for span in self.all() if span.name == name]

    def one(self, name: str) -> ReadableSpan:
        (span,) = self.named(name)
        return span

    def forget(self) -> None:
        self._exporter.clear()


class Traced:
    """An application, its exported spans, and the contexts that its engines received."""

    def __init__(self, api: ObservedApi, spans: Spans) -> None:
        self.api, self.spans = api, spans
        self.contexts: list = []
        for engine in (api.embedder, api.writer):
            for method in ("call", "stream"):
                setattr(engine, method, self._kept(getattr(engine, method)))

    def _kept(self, method):
        def call(request, context):
            self.contexts.append(context)
            return method(request, context)

        return call


@pytest.fixture(scope="module")
async def running() -> AsyncGenerator[Traced, None]:
    spans = Spans()
    async with observing(tracing=Tracing(spans.provider)) as api:
        yield Traced(api, spans)


@pytest.fixture
def traced(running) -> Traced:
    for engine in (running.api.embedder, running.api.writer):
        engine.delay_s, engine.fail_next = 0.0, None
    running.spans.forget()
    running.contexts.clear()
    running.api.listener.forget()
    return running


@pytest.fixture
def _own_environment():
    def ours() -> dict[str, str]:
        return {name: value for name, value in os.environ.items() if name.startswith("OTEL_")}

    before = ours()
    for name in before:
        del os.environ[name]
    yield
    for name in ours():
        del os.environ[name]
    os.environ.update(before)


def is_child(child: ReadableSpan, parent: ReadableSpan) -> bool:
    return (
        child.parent is not None
        and child.parent.span_id == parent.context.span_id
        and child.context.trace_id == parent.context.trace_id
        and parent.start_time <= child.start_time <= child.end_time <= parent.end_time
    )


# The tree


@pytest.mark.parametrize(
    ("path", "operation", "model"),
    [
        (EMBED, "embeddings", "fake-embed"),
        (COMPLETE, "text_completion", "fake-write"),
        (CHAT, "chat", "fake-write"),
    ],
)
async def test_a_request_is_a_span_with_a_call_of_the_engine_below(traced, path, operation, model):
    response = await traced.api.http.post(path, json=BODIES[path], headers={"traceparent": TRACEPARENT})
    server, call = traced.spans.one(f"POST {path}"), traced.spans.one(f"{operation} {model}")
    assert len(traced.spans.all()) == 2
    assert (server.kind, call.kind) == (SpanKind.SERVER, SpanKind.INTERNAL)
    assert f"{server.context.trace_id:032x}" == TRACE
    assert f"{server.parent.span_id:016x}" == PARENT
    assert is_child(call, server)
    usage = response.json()["usage"]
    assert call.attributes["gen_ai.operation.name"] == operation
    assert call.attributes["gen_ai.provider.name"] == "vllm"
    assert call.attributes["gen_ai.request.model"] == call.attributes["gen_ai.response.model"] == model
    assert call.attributes["gen_ai.usage.input_tokens"] == usage["prompt_tokens"]
    assert call.attributes.get("gen_ai.usage.output_tokens") == usage.get("completion_tokens")
    assert server.status.status_code == call.status.status_code == StatusCode.UNSET
    assert "error.type" not in {**server.attributes, **call.attributes}


async def test_the_http_span_has_the_attributes_of_the_conventions(traced):
    headers = {"user-agent": "a program", "x-request-id": "mine"}
    await traced.api.http.post(f"{COMPLETE}?key={SECRET}", json=BODIES[COMPLETE], headers=headers)
    assert dict(traced.spans.one(f"POST {COMPLETE}").attributes) == {
        "http.request.method": "POST",
        "http.route": COMPLETE,
        "http.response.status_code": 200,
        "url.path": COMPLETE,
        "url.scheme": "http",
        "network.protocol.version": "1.1",
        "server.address": "api",
        "client.address": "127.0.0.1",
        "user_agent.original": "a program",
        "memoria.request_id": "mine",
    }


async def test_the_calls_span_has_the_request_parameters(traced):
    requested = {"temperature": 0.5, "top_p": 0.9, "seed": 7, "stop": ["zz", "yy"], "n": 2, "max_tokens": 3}
    requested |= {"presence_penalty": 0.25, "frequency_penalty": -0.25, "top_k": 5, "stream": True}
    await traced.api.complete(**requested)
    found = traced.spans.one("text_completion fake-write").attributes
    assert {name: found[f"gen_ai.request.{name}"] for name in ("temperature", "top_p", "top_k", "seed")} == {
        "temperature": 0.5,
        "top_p": 0.9,
        "top_k": 5,
        "seed": 7,
    }
    assert found["gen_ai.request.stop_sequences"] == ("zz", "yy")
    assert (found["gen_ai.request.choice.count"], found["gen_ai.request.max_tokens"]) == (2, 3)
    assert (found["gen_ai.request.presence_penalty"], found["gen_ai.request.frequency_penalty"]) == (0.25, -0.25)
    assert found["gen_ai.request.stream"] is True
    assert found["gen_ai.response.finish_reasons"] == ("length", "length")
    assert found["gen_ai.usage.output_tokens"] == 6


def test_finish_reasons_have_the_order_of_the_choices():
    spans = Spans()
    scope = {"type": "http", "method": "POST", "path": CHAT, "state": {}, "headers": [], "scheme": "http"}
    scope |= {"http_version": "1.1", "server": ("api", 80), "client": None}
    observation = RequestObservation(scope, "id", [], Tracing(spans.provider))
    call = observation.begin(OperationRecord(name="chat", role=Role.GENERATE, model="m"), {})
    for index, reason in ((1, "stop"), (0, "length")):
        call.finished(index, reason)
    call.end()
    observation.end()
    assert spans.one("chat m").attributes["gen_ai.response.finish_reasons"] == ("length", "stop")
    found = spans.one("POST").attributes
    assert (found["server.address"], found["server.port"]) == ("api", 80)
    assert "client.address" not in found


async def test_a_streams_spans_end_with_it_and_carry_the_time_to_the_first_chunk(traced):
    traced.api.writer.delay_s = 0.002
    early = None
    body = BODIES[CHAT] | {"stream": True, "max_tokens": 5}
    async with traced.api.http.stream("POST", CHAT, json=body) as response:
        async for _ in response.aiter_bytes():
            if early is None:
                early = len(traced.spans.all())
    server, call = traced.spans.one(f"POST {CHAT}"), traced.spans.one("chat fake-write")
    first = call.attributes["gen_ai.response.time_to_first_chunk"]
    assert 0.002 <= first < (call.end_time - call.start_time) / 1e9
    assert is_child(call, server)
    assert call.attributes["gen_ai.usage.output_tokens"] == 5


async def test_a_complete_answer_has_no_first_chunk(traced):
    await traced.api.complete()
    assert "gen_ai.response.time_to_first_chunk" not in traced.spans.one("text_completion fake-write").attributes


async def test_each_prompt_is_a_call(traced):
    await traced.api.complete(prompt=["a", "bb", "ccc"])
    server, calls = traced.spans.one(f"POST {COMPLETE}"), traced.spans.named("text_completion fake-write")
    assert sorted(call.attributes["gen_ai.usage.input_tokens"] for call in calls) == [1, 2, 3]
    assert all(is_child(call, server) for call in calls)


async def test_embedding_spans_have_counts(traced):
    await traced.api.embed(["a", "b"], dimensions=4)
    found = traced.spans.one("embeddings fake-embed").attributes
    assert found["gen_ai.embeddings.dimension.count"] == 4
    assert found["memoria.input.count"] == 2


async def test_over_http_a_call_is_a_client_span():
    spans = Spans()
    async with observing(tracing=Tracing(spans.provider, has_remote_engines=True)) as api:
        await api.complete()
    assert spans.one("text_completion fake-write").kind is SpanKind.CLIENT


async def test_spans_name_the_version_of_their_conventions(traced):
    await traced.api.complete()
    schemas = {span.instrumentation_scope.schema_url for span in traced.spans.all()}
    assert schemas == {"https://opentelemetry.io/schemas/1.41.0"}


# Contexts: in, and on to the engine


@pytest.mark.parametrize("path", [EMBED, COMPLETE, CHAT])
async def test_the_engine_receives_the_trace_context_and_baggage(traced, path):
    headers = {"traceparent": TRACEPARENT, "tracestate": "vendor=value", "baggage": "user=alice,plan=gold"}
    await traced.api.http.post(path, json=BODIES[path], headers=headers)
    (context,) = traced.contexts
    call = next(span for span in traced.spans.all() if span.kind is SpanKind.INTERNAL)
    assert context.trace["traceparent"] == f"00-{TRACE}-{call.context.span_id:016x}-01"
    assert context.trace["tracestate"] == "vendor=value"
    assert sorted(context.trace["baggage"].split(",")) == ["plan=gold", "user=alice"]


async def test_lists_that_come_in_several_headers_are_one(traced):
    headers = [("traceparent", TRACEPARENT), ("tracestate", "a=1"), ("tracestate", "b=2")]
    headers += [("baggage", "user=alice"), ("baggage", "plan=gold")]
    await traced.api.http.post(COMPLETE, json=BODIES[COMPLETE], headers=headers)
    (context,) = traced.contexts
    assert context.trace["tracestate"] == "a=1,b=2"
    assert sorted(context.trace["baggage"].split(",")) == ["plan=gold", "user=alice"]


@pytest.mark.parametrize(
    "headers",
    [
        [],
        [("traceparent", "nonsense")],
        [("traceparent", f"00-{'0' * 32}-{PARENT}-01")],
        [("traceparent", f"ff-{TRACE}-{PARENT}-01")],
        [("traceparent", TRACEPARENT), ("traceparent", TRACEPARENT.replace("4bf", "abc"))],
    ],
    ids=["none", "nonsense", "zeros", "version", "two"],
)
async def test_without_a_usable_parent_a_trace_begins_here(traced, headers):
    await traced.api.http.post(COMPLETE, json=BODIES[COMPLETE], headers=headers)
    server = traced.spans.one(f"POST {COMPLETE}")
    assert server.parent is None
    assert f"{server.context.trace_id:032x}" not in ("0" * 32, TRACE)
    assert traced.api.listener.request.trace_id == f"{server.context.trace_id:032x}"


@pytest.mark.parametrize("odd", [b"x", b"\xff\xfe=1", b"a=b" * 4000, b"=,;", b"a b=c", b"k" * 9000])
async def test_invalid_tracestate_and_baggage_are_ignored(traced, odd):
    headers = [(b"traceparent", TRACEPARENT.encode()), (b"tracestate", odd), (b"baggage", odd)]
    response = await traced.api.http.post(COMPLETE, json=BODIES[COMPLETE], headers=headers)
    assert response.status_code == 200
    assert f"{traced.spans.one(f'POST {COMPLETE}').context.trace_id:032x}" == TRACE


async def test_an_unsampled_trace_has_only_its_first_span(traced, monkeypatch):
    begun: list[str] = []
    begin = Tracing._begin

    def counted(self, name, *arguments, **more):
        begun.append(name)
        return begin(self, name, *arguments, **more)

    monkeypatch.setattr(Tracing, "_begin", counted)
    for flag, spans in (("0", 1), ("1", 2)):
        begun.clear()
        await traced.api.http.post(EMBED, json=BODIES[EMBED], headers={"traceparent": TRACEPARENT[:-1] + flag})
        assert len(begun) == spans


async def test_a_clients_sampling_decision_is_propagated(traced):
    await traced.api.http.post(COMPLETE, json=BODIES[COMPLETE], headers={"traceparent": TRACEPARENT[:-1] + "0"})
    assert traced.spans.all() == []
    (context,) = traced.contexts
    assert context.trace["traceparent"].startswith(f"00-{TRACE}-")
    assert context.trace["traceparent"].endswith("-00")
    # There is no trace to look up.
    assert traced.api.listener.request.trace_id is None


@pytest.mark.parametrize(
    ("sampler", "parent", "kept"),
    [
        (ALWAYS_OFF, None, False),
        (ParentBased(TraceIdRatioBased(0.0)), None, False),
        (ParentBased(TraceIdRatioBased(0.0)), TRACEPARENT, True),
        (ParentBased(TraceIdRatioBased(1.0)), None, True),
    ],
)
async def test_the_sampler_is_respected(sampler, parent, kept):
    spans = Spans(sampler=sampler)
    async with observing(tracing=Tracing(spans.provider)) as api:
        headers = {"traceparent": parent} if parent else {}
        response = await api.http.post(CHAT, json=BODIES[CHAT] | {"stream": True}, headers=headers)
    assert response.status_code == 200
    assert bool(spans.all()) is kept
    assert (api.listener.request.trace_id is not None) is kept


# Errors


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "name"),
    [
        ("POST", COMPLETE, {"model": "nobody", "prompt": "x"}, 404, f"POST {COMPLETE}"),
        ("POST", COMPLETE, {"model": "fake-write"}, 400, f"POST {COMPLETE}"),
        ("GET", f"/{SECRET}", None, 404, "GET"),
        ("DELETE", COMPLETE, None, 405, f"DELETE {COMPLETE}"),
        ("GET", "/v1/models/nobody", None, 404, "GET /v1/models/{model_id}"),
        ("PURGE", COMPLETE, None, 405, f"HTTP {COMPLETE}"),
    ],
)
async def test_client_errors_are_no_span_errors(traced, method, path, body, status, name):
    await traced.api.http.request(method, path, json=body)
    span = traced.spans.one(name)
    assert span.attributes["http.response.status_code"] == status
    assert span.status.status_code is StatusCode.UNSET
    assert "error.type" not in span.attributes
    if name == "GET":
        assert "http.route" not in span.attributes
    if method == "PURGE":
        assert span.attributes["http.request.method"] == "_OTHER"
        assert span.attributes["http.request.method_original"] == "PURGE"


async def test_a_rejection_by_the_engine_is_its_calls_error(traced):
    await traced.api.complete(prompt="x" * 300)
    server, call = traced.spans.one(f"POST {COMPLETE}"), traced.spans.one("text_completion fake-write")
    assert call.attributes["error.type"] == "context_length_exceeded"
    assert call.status.status_code is StatusCode.ERROR
    assert "gen_ai.response.model" not in call.attributes
    assert server.status.status_code is StatusCode.UNSET


@pytest.mark.parametrize("stream", [False, True])
async def test_a_failure_is_an_error_of_both(traced, stream):
    traced.api.writer.fail_next = BackendFailedError("It failed.")
    await traced.api.complete(stream=stream)
    server, call = traced.spans.one(f"POST {COMPLETE}"), traced.spans.one("text_completion fake-write")
    assert server.attributes["http.response.status_code"] == (200 if stream else 500)
    for span in (server, call):
        assert span.attributes["error.type"] == "server_error"
        assert span.status.status_code is StatusCode.ERROR
        # An exception's message may contain a prompt.
        assert not span.events
        assert not span.status.description


async def test_a_deadline_is_an_error_of_both(traced):
    traced.api.writer.delay_s = NEVER_S
    await traced.api.http.post(COMPLETE, json=BODIES[COMPLETE], headers={"x-request-timeout": "0.01"})
    for span in traced.spans.all():
        assert span.attributes["error.type"] == "timeout"
        assert span.status.status_code is StatusCode.ERROR


async def test_a_server_error_without_a_type_has_its_status():
    spans = Spans()
    tracing = Tracing(spans.provider)
    api = ObservedApi(tracing=tracing)

    async def broken(_scope, _receive, send) -> None:
        await send({"type": "http.response.start", "status": 503, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    api.app.asgi_handler = broken
    await api.http.get("/v1/models")
    span = spans.one("GET")
    assert span.status.status_code is StatusCode.ERROR
    assert span.attributes["error.type"] == "503"


@pytest.mark.parametrize("stream", [False, True])
async def test_a_disconnect_is_marked_and_no_error(traced, monkeypatch, stream):
    monkeypatch.setattr(app.http.disconnect, "WATCH_AFTER_S", 0.0)
    traced.api.writer.delay_s = 0.002
    client = Leaving(BODIES[COMPLETE] | {"stream": stream, "max_tokens": 200})
    call = asyncio.create_task(client.call(traced.api.app, COMPLETE))
    await until(lambda: traced.api.writer.running > 0 and bool(client.sent) == stream)
    client.leave.set()
    await call
    server, operation = traced.spans.one(f"POST {COMPLETE}"), traced.spans.one("text_completion fake-write")
    assert server.attributes["memoria.client_gone"] is True
    assert server.attributes["http.response.status_code"] == (200 if stream else 499)
    for span in (server, operation):
        assert span.attributes["error.type"] == "cancelled"
        assert span.status.status_code is StatusCode.UNSET


@pytest.mark.parametrize("stream", [False, True])
async def test_an_abandoned_request_is_an_error(traced, stream):
    traced.api.writer.delay_s = 0.002
    client = Leaving(BODIES[COMPLETE] | {"stream": stream, "max_tokens": 200})
    call = asyncio.create_task(client.call(traced.api.app, COMPLETE))
    await until(lambda: traced.api.writer.running > 0 and bool(client.sent) == stream)
    call.cancel()
    await call
    server = traced.spans.one(f"POST {COMPLETE}")
    assert server.attributes["error.type"] == "service_stopping"
    assert server.status.status_code is StatusCode.ERROR
    assert server.attributes.get("http.response.status_code") == (200 if stream else None)


@pytest.mark.parametrize("path", ["/health", "/health/", "/health/live", "/health/ready", "/", "/page/main.js"])
async def test_probes_leave_no_spans(traced, path):
    await traced.api.http.get(path, headers={"traceparent": TRACEPARENT})
    assert traced.spans.all() == []


# Waiting


async def test_waiting_is_a_span_below_the_call():
    spans = Spans()
    async with observing(tracing=Tracing(spans.provider), settings={"GEN_MAX_RUNNING": "1"}) as api:
        api.writer.delay_s = 0.01
        await asyncio.gather(api.complete(max_tokens=1), api.complete(max_tokens=1))
    queue = spans.one("queue")
    assert [is_child(queue, call) for call in spans.named("text_completion fake-write")].count(True) == 1
    assert queue.end_time - queue.start_time >= 5e6
    assert queue.kind is SpanKind.INTERNAL


async def test_batched_requests_link_to_the_batchs_call():
    spans = Spans()
    async with observing(tracing=Tracing(spans.provider), settings={"EMBED_JOIN": "true"}) as api:
        api.embedder.delay_s = 0.005
        await asyncio.gather(*(api.embed(text) for text in ("a", "b", "c")))
    calls = {call.context.span_id: call for call in spans.named("embeddings fake-embed")}
    batches = spans.named("joined call")
    assert len(batches) == len(spans.named("join")) == 2
    leaders = [journey.parent.span_id for journey in batches if not journey.links]
    followers = [journey for journey in batches if journey.links]
    assert (len(leaders), len(followers)) == (1, 1)
    (link,) = followers[0].links
    assert link.context.span_id == leaders[0]
    for journey in batches:
        assert journey.attributes["memoria.joined.requests"] == 2
        assert is_child(journey, calls[journey.parent.span_id])
    assert all("memoria.joined.requests" not in join.attributes for join in spans.named("join"))


# Content


async def talk(api: ObservedApi) -> None:
    await api.chat(SECRET)
    await api.chat(SECRET, stream=True)
    await api.complete(SECRET)
    await api.embed(SECRET)


async def test_content_is_not_captured_by_default(traced):
    await talk(traced.api)
    assert len(traced.spans.all()) == 8
    assert SECRET not in "".join(span.to_json() for span in traced.spans.all())


async def test_content_is_captured_if_enabled():
    spans = Spans()
    asked_for = {"OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT": "true"}
    async with observing(tracing=Tracing(spans.provider), settings=asked_for) as api:
        answer = (await api.chat(SECRET, **SILENT)).json()["choices"][0]
        (chat,) = spans.named("chat fake-write")
        requested = json.loads(chat.attributes["gen_ai.input.messages"])
        assert requested == [{"role": "user", "parts": [{"type": "text", "content": SECRET}]}]
        (found,) = json.loads(chat.attributes["gen_ai.output.messages"])
        text = answer["message"]["content"]
        assert found == {
            "role": "assistant",
            "parts": [{"type": "text", "content": text}],
            "finish_reason": answer["finish_reason"],
        }
        # The joined parts of a stream are the same text.
        spans.forget()
        await api.chat(SECRET, stream=True)
        (chat,) = spans.named("chat fake-write")
        assert json.loads(chat.attributes["gen_ai.output.messages"]) == [found]
        # The conventions have no attribute for inputs of embeddings.
        spans.forget()
        await api.embed(SECRET)
        assert SECRET not in "".join(span.to_json() for span in spans.all())


async def test_unsampled_requests_capture_no_content(monkeypatch):
    monkeypatch.setattr("app.telemetry.request_attributes._json", lambda _: pytest.fail("content was encoded"))
    asked_for = {"OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT": "true"}
    async with observing(tracing=Tracing(TracerProvider(sampler=ALWAYS_OFF)), settings=asked_for) as api:
        for answer in (await api.chat(SECRET), await api.chat(SECRET, stream=True), await api.complete(SECRET)):
            assert answer.status_code == 200
            assert api.listener.operations.pop().error_type is None


async def test_a_failed_streams_partial_content_is_captured():
    spans = Spans()
    asked_for = {"OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT": "true"}
    async with observing(tracing=Tracing(spans.provider), settings=asked_for) as api:
        api.writer.fail_next = BackendFailedError("It failed.")
        await api.complete(stream=True)
    found = json.loads(spans.one("text_completion fake-write").attributes["gen_ai.output.messages"])
    assert [message["finish_reason"] for message in found] == ["error"]
    assert len(found[0]["parts"][0]["content"]) == 1


# Building from the settings


BASE = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9"}


@pytest.fixture
def built(monkeypatch, _own_environment):
    """Builds tracing from settings, without making its provider the global one."""
    providers: list[TracerProvider] = []
    monkeypatch.setattr("opentelemetry.trace.set_tracer_provider", providers.append)
    made: list[Tracing] = []

    def build(**given: str) -> Tracing | None:
        tracing = build_tracing(load_settings(given))
        if tracing is not None:
            assert providers[-1] is tracing.provider
            made.append(tracing)
        return tracing

    yield build
    for tracing in made:
        tracing.stop()


def test_without_an_endpoint_nothing_is_built(built):
    assert built() is None
    assert not [name for name in os.environ if name.startswith("OTEL_")]


@pytest.mark.parametrize(
    ("given", "description"),
    [
        ({}, "ParentBased{root:AlwaysOnSampler"),
        ({"OTEL_TRACES_SAMPLER": "always_off"}, "AlwaysOffSampler"),
        ({"OTEL_TRACES_SAMPLER": "traceidratio", "OTEL_TRACES_SAMPLER_ARG": "0.25"}, "TraceIdRatioBased{0.25}"),
        (
            {"OTEL_TRACES_SAMPLER": "PARENTBASED_traceidratio", "OTEL_TRACES_SAMPLER_ARG": "0.1"},
            "ParentBased{root:TraceIdRatioBased{0.1}",
        ),
    ],
)
def test_the_sampler_follows_from_the_variables(built, given, description):
    assert built(**BASE, **given).provider.sampler.get_description().startswith(description)


def test_the_resource_names_the_service(built):
    found = built(**BASE, OTEL_RESOURCE_ATTRIBUTES="deployment.environment=test").provider.resource.attributes
    assert found["service.name"] == "memoria-vllm"
    assert found["deployment.environment"] == "test"
    assert found["service.version"]


@pytest.mark.parametrize(
    ("given", "name"),
    [
        ({"OTEL_SERVICE_NAME": "mine"}, "mine"),
        ({"OTEL_RESOURCE_ATTRIBUTES": "a=b, service.name=my%20own"}, "my own"),
        ({"OTEL_RESOURCE_ATTRIBUTES": "service.name=other", "OTEL_SERVICE_NAME": "mine"}, "mine"),
        ({"OTEL_RESOURCE_ATTRIBUTES": "service.name="}, "memoria-vllm"),
    ],
)
def test_the_services_name_may_be_set_in_both_ways(built, given, name):
    tracing = built(**BASE, **given)
    assert tracing.provider.resource.attributes["service.name"] == name
    # Engine processes read it from the environment.
    assert os.environ["OTEL_SERVICE_NAME"] == name


@pytest.mark.usefixtures("_own_environment")
def test_what_dotenv_sets_reaches_the_libraries_and_engine_processes(tmp_path):
    path = tmp_path / ".env"
    path.write_text(
        "OTEL_EXPORTER_OTLP_ENDPOINT=http://a:4318\nOTEL_BSP_SCHEDULE_DELAY=7\nOTEL_EXPORTER_OTLP_HEADERS=a=b\n"
    )
    export_environment(load_settings({}, path).telemetry)
    found = {name: value for name, value in os.environ.items() if name.startswith("OTEL_")}
    assert found == {
        "OTEL_EXPORTER_OTLP_ENDPOINT": "http://a:4318",
        "OTEL_BSP_SCHEDULE_DELAY": "7",
        "OTEL_EXPORTER_OTLP_HEADERS": "a=b",
        "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL": "http/protobuf",
        "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://a:4318/v1/traces",
        "OTEL_SERVICE_NAME": "memoria-vllm",
        "OTEL_SEMCONV_STABILITY_OPT_IN": "http",
    }


@pytest.mark.parametrize(
    ("given", "kind", "endpoint"),
    [
        ({}, "http", "http://127.0.0.1:9/v1/traces"),
        ({"OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"}, "grpc", "127.0.0.1:9"),
    ],
)
def test_the_exporter_follows_from_the_protocol(built, given, kind, endpoint):
    (processor,) = built(**BASE, **given).provider._active_span_processor._span_processors
    exporter = processor.span_exporter
    assert f".{kind}." in type(exporter).__module__
    assert exporter._endpoint == endpoint


@pytest.mark.parametrize(
    ("endpoint", "insecure"), [("http://a:1", True), ("https://a:1", False), ("HTTPS://a:1", False)]
)
def test_grpc_is_encrypted_for_https(monkeypatch, endpoint, insecure):
    from app.telemetry import otlp_metrics, tracing

    given = []
    for name in ("trace_exporter.OTLPSpanExporter", "metric_exporter.OTLPMetricExporter"):
        monkeypatch.setattr(
            f"opentelemetry.exporter.otlp.proto.grpc.{name}", lambda **arguments: given.append(arguments)
        )
    for module in (tracing, otlp_metrics):
        module._exporter(OtlpSignal(endpoint=endpoint, protocol=GRPC))
    assert [arguments["insecure"] for arguments in given] == [insecure] * 2


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("OTEL_EXPORTER_OTLP_COMPRESSION", "zip"),
        ("OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT", "-1"),
    ],
)
def test_a_mistake_in_a_variable_that_only_the_sdk_reads_is_a_sentence(built, name, value):
    with pytest.raises(ConfigurationError) as caught:
        built(**BASE, **{name: value, "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"})
    assert f"{name} is '{value}'" in str(caught.value)
    assert "\n" not in str(caught.value)


async def test_stopping_exports_what_is_left():
    exporter, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(BatchSpanProcessor(exporter, schedule_delay_millis=1e6))
    async with observing(tracing=Tracing(provider)) as api:
        await api.complete()
        assert exporter.get_finished_spans() == ()
        await api.app.telemetry.stop()
        assert len(exporter.get_finished_spans()) == 2
        # Afterwards nothing is exported, and nothing fails.
        assert (await api.complete()).status_code == 200
        assert len(exporter.get_finished_spans()) == 2


@pytest.mark.parametrize("protocol", ["http/protobuf", "grpc"])
def test_an_unresponsive_collector_does_not_block_stopping(built, monkeypatch, protocol):
    monkeypatch.setattr("app.telemetry.tracing.FINAL_EXPORT_TIMEOUT_S", 0.3)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        tracing = built(
            OTEL_EXPORTER_OTLP_ENDPOINT=f"http://127.0.0.1:{port}", OTEL_EXPORTER_OTLP_PROTOCOL=protocol
        )
        tracing.provider.get_tracer("test").start_span("left").end()
        began = time.monotonic()
        tracing.stop()
        assert time.monotonic() - began < 3
        # A running export is aborted.
        assert tracing._exporter._shutdown


def test_spans_of_the_past_keep_their_times():
    spans = Spans()
    tracing = Tracing(spans.provider)
    call = OperationRecord(name="chat", role=Role.GENERATE, model="m")
    context = tracing.begin_operation(Context(), call, {})
    tracing.child(context, "queue", 10.0, 12.5, batch_size=0, link=None)
    tracing.end_operation(context, call, [], {})
    # A span that has ended gets no further children.
    tracing.child(context, "late", 10.0, 12.5, batch_size=0, link=None)
    queue = spans.one("queue")
    assert (queue.start_time, queue.end_time) == (10_000_000_000, 12_500_000_000)
    assert spans.named("late") == []


async def test_the_requests_span_begins_when_its_record_does(traced):
    await traced.api.complete()
    assert traced.spans.one(f"POST {COMPLETE}").start_time == int(
        traced.api.listener.request.began * 1_000_000_000
    )


@pytest.mark.usefixtures("_own_environment")
def test_errors_of_the_sdk_name_the_variable_and_hide_headers():
    given = load_settings(
        {"OTEL_BSP_MAX_QUEUE_SIZE": "lots", "OTEL_EXPORTER_OTLP_HEADERS": "key=secret"}
    ).telemetry
    with (
        pytest.raises(ConfigurationError, match=r"^OTEL_BSP_MAX_QUEUE_SIZE is 'lots': .*Correct or remove it\.$"),
        opentelemetry(given),
    ):
        raise ValueError("invalid literal: 'lots'.")
    with pytest.raises(ConfigurationError) as caught, opentelemetry(given):
        raise RuntimeError("Something with key=secret")
    assert str(caught.value).startswith("One of the variables OTEL_… can't be used")
    assert "secret" not in str(caught.value)
    # Set before the libraries are loaded.
    with opentelemetry(given):
        assert os.environ["OTEL_BSP_MAX_QUEUE_SIZE"] == "lots"
