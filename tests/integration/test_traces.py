"""Traces from the client to the engine, received by a real OTLP receiver.

They are exported over HTTP by in-process engines, and over gRPC by a gateway and its vLLM servers.
"""

import concurrent.futures
import json
import threading
from collections.abc import Generator
from contextlib import ExitStack, suppress
from pathlib import Path

import httpx
import pytest
from openai import APIError, NotFoundError, OpenAI
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status

from domain.roles import Role
from tests.conftest import free_port
from tests.otlp_receiver import OtlpReceiver, attributes, otlp_receiver
from tests.processes import CHAT_FLAGS, ServiceProcess, VLLMServerProcess, tiny_environment

pytestmark = pytest.mark.integration

CLIENT_SPAN = "00f067aa0ba902b7"
EXPORT_SETTINGS = {"OTEL_BSP_SCHEDULE_DELAY": "100", "OTEL_TRACES_EXPORTER": "otlp"}
SECRET = "a-unique-secret-word"
# vLLM takes the arrival time from another clock than the end of its spans, and rounds.
CLOCK_NS = 5_000_000
_trace_numbers = iter(range(1, 1000))


class Traced:
    """A service that exports its spans to a receiver."""

    def __init__(self, service: ServiceProcess, receiver: OtlpReceiver, kind: int) -> None:
        self.url = service.url
        self.receiver = receiver
        self.client = OpenAI(base_url=f"{service.url}/v1", api_key="unused", max_retries=0)
        self.kind = kind
        """Kind of the spans for engine calls."""

    def trace(self, trace_id: str, *names: str) -> dict[str, Span]:
        """Wait for spans with these names; returns all spans of the trace by name, which must be unique."""

        def found() -> list[Span]:
            return [span for span in self.receiver.spans() if span.trace_id.hex() == trace_id]

        self.receiver.wait_for(lambda: set(names) <= {span.name for span in found()})
        spans = found()
        assert len({span.name for span in spans}) == len(spans)
        return {span.name: span for span in spans}


def new_trace(*, sampled: bool = True) -> tuple[str, dict[str, str]]:
    """A trace started by a client: its id and its headers."""
    trace_id = f"{next(_trace_numbers):032x}"
    return trace_id, {"traceparent": f"00-{trace_id}-{CLIENT_SPAN}-0{int(sampled)}", "tracestate": "vendor=value"}


@pytest.fixture(scope="module")
def in_process(tiny_models: dict[str, Path]) -> Generator[Traced, None, None]:
    with otlp_receiver() as receiver:
        service = ServiceProcess(
            {
                **tiny_environment(tiny_models),
                **EXPORT_SETTINGS,
                "OTEL_EXPORTER_OTLP_ENDPOINT": receiver.http_url,
                "OTEL_METRICS_EXPORTER": "none",
                "GEN_MAX_RUNNING": "2",
            }
        )
        try:
            service.wait_until_ready()
            yield Traced(service, receiver, Span.SPAN_KIND_INTERNAL)
        finally:
            service.end()


@pytest.fixture(scope="module")
def over_http(tiny_models: dict[str, Path]) -> Generator[Traced, None, None]:
    with otlp_receiver() as receiver, ExitStack() as stack:
        tracing = f"--otlp-traces-endpoint {receiver.grpc_url}"
        servers = {
            Role.EMBED: VLLMServerProcess(
                tiny_models["tiny-embed"], port=free_port(), runner="pooling", flags=tracing
            ),
            Role.GENERATE: VLLMServerProcess(
                tiny_models["tiny-gen"], port=free_port(), runner="generate", flags=f"{CHAT_FLAGS} {tracing}"
            ),
        }
        for server in servers.values():
            stack.callback(server.end)
        service = ServiceProcess(
            {
                "EMBED_BACKEND": "vllm-http",
                "GEN_BACKEND": "vllm-http",
                "VLLM_EMBED_URL": servers[Role.EMBED].wait_until_ready(),
                "VLLM_GEN_URL": servers[Role.GENERATE].wait_until_ready(),
                **EXPORT_SETTINGS,
                "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": receiver.grpc_url,
                "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL": "grpc",
                "OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT": "true",
            }
        )
        stack.callback(service.end)
        service.wait_until_ready()
        yield Traced(service, receiver, Span.SPAN_KIND_CLIENT)


@pytest.fixture(params=["in_process", "over_http"])
def traced(request: pytest.FixtureRequest) -> Traced:
    found: Traced = request.getfixturevalue(request.param)
    return found


def is_below(child: Span, parent: Span) -> bool:
    """Whether a span is a child of another and lies within its time."""
    return (
        child.parent_span_id == parent.span_id
        and child.start_time_unix_nano >= parent.start_time_unix_nano - CLOCK_NS
        and child.end_time_unix_nano <= parent.end_time_unix_nano + CLOCK_NS
    )


def seconds(span: Span) -> float:
    return (span.end_time_unix_nano - span.start_time_unix_nano) / 1e9


def check_way_to_engine(traced: Traced, spans: dict[str, Span], operation: str) -> None:
    """Check the spans from the engine call to vLLM's span."""
    caller = spans[operation]
    if traced.kind == Span.SPAN_KIND_CLIENT:
        caller = spans["POST"]
        assert is_below(caller, spans[operation]) or caller.parent_span_id == spans[operation].span_id
        assert caller.kind == Span.SPAN_KIND_CLIENT
        assert attributes(caller.attributes)["http.response.status_code"] == 200
    assert spans["llm_request"].parent_span_id == caller.span_id
    assert spans["llm_request"].kind == Span.SPAN_KIND_SERVER


def wanted(traced: Traced, *names: str) -> list[str]:
    return [*names, "llm_request", *(["POST"] if traced.kind == Span.SPAN_KIND_CLIENT else [])]


def test_a_streamed_chat_is_one_trace_to_the_last_token(traced: Traced) -> None:
    trace_id, headers = new_trace()
    stream = traced.client.chat.completions.create(
        model="tiny-gen",
        messages=[{"role": "user", "content": SECRET}],
        max_tokens=12,
        temperature=0,
        stream=True,
        stream_options={"include_usage": True},
        extra_body={"ignore_eos": True},
        extra_headers=headers,
    )
    usage = [chunk.usage for chunk in stream][-1]
    assert usage is not None
    spans = traced.trace(trace_id, *wanted(traced, "POST /v1/chat/completions", "chat tiny-gen"))
    server, chat = spans["POST /v1/chat/completions"], spans["chat tiny-gen"]
    assert server.parent_span_id.hex() == CLIENT_SPAN
    assert (server.kind, chat.kind) == (Span.SPAN_KIND_SERVER, traced.kind)
    assert is_below(chat, server)
    check_way_to_engine(traced, spans, "chat tiny-gen")
    span_attributes = attributes(chat.attributes)
    assert span_attributes["gen_ai.operation.name"] == "chat"
    assert span_attributes["gen_ai.provider.name"] == "vllm"
    assert (span_attributes["gen_ai.request.model"], span_attributes["gen_ai.response.model"]) == (
        "tiny-gen",
        "tiny-gen",
    )
    assert (span_attributes["gen_ai.request.max_tokens"], span_attributes["gen_ai.request.stream"]) == (12, True)
    assert span_attributes["gen_ai.usage.input_tokens"] == usage.prompt_tokens
    assert span_attributes["gen_ai.usage.output_tokens"] == usage.completion_tokens == 12
    assert span_attributes["gen_ai.response.finish_reasons"] == ["length"]
    first = span_attributes["gen_ai.response.time_to_first_chunk"]
    assert isinstance(first, float)
    assert 0 < first < seconds(chat)
    # The engine's latency is within that of the call.
    assert attributes(spans["llm_request"].attributes)["gen_ai.latency.e2e"] <= seconds(chat) + CLOCK_NS / 1e9
    http = attributes(server.attributes)
    assert http["http.route"] == http["url.path"] == "/v1/chat/completions"
    assert (http["http.request.method"], http["http.response.status_code"]) == ("POST", 200)
    assert server.status.code == chat.status.code == Status.STATUS_CODE_UNSET


@pytest.mark.parametrize(
    ("operation", "route"),
    [("embeddings tiny-embed", "/v1/embeddings"), ("text_completion tiny-gen", "/v1/completions")],
)
def test_other_endpoints_are_traced_to_the_engine_too(traced: Traced, operation: str, route: str) -> None:
    trace_id, headers = new_trace()
    if route == "/v1/embeddings":
        traced.client.embeddings.create(model="tiny-embed", input="a text", extra_headers=headers)
    else:
        traced.client.completions.create(model="tiny-gen", prompt="a", max_tokens=2, extra_headers=headers)
    spans = traced.trace(trace_id, *wanted(traced, f"POST {route}", operation))
    assert is_below(spans[operation], spans[f"POST {route}"])
    check_way_to_engine(traced, spans, operation)
    span_attributes = attributes(spans[operation].attributes)
    assert span_attributes["gen_ai.operation.name"] == operation.split()[0]
    assert span_attributes["gen_ai.usage.input_tokens"] > 0


def test_content_is_captured_only_if_enabled(in_process: Traced, over_http: Traced) -> None:
    for traced in (in_process, over_http):
        trace_id, headers = new_trace()
        answer = traced.client.chat.completions.create(
            model="tiny-gen",
            messages=[{"role": "user", "content": SECRET}],
            max_tokens=4,
            extra_headers=headers,
        )
        spans = traced.trace(trace_id, *wanted(traced, "POST /v1/chat/completions", "chat tiny-gen"))
        everything = "".join(str(span) for span in spans.values())
        if traced is in_process:
            assert SECRET not in everything
            continue
        span_attributes = attributes(spans["chat tiny-gen"].attributes)
        (asked,) = json.loads(str(span_attributes["gen_ai.input.messages"]))
        assert asked == {"role": "user", "parts": [{"type": "text", "content": SECRET}]}
        (answered,) = json.loads(str(span_attributes["gen_ai.output.messages"]))
        message = answer.choices[0].message
        parts = {part["type"]: part["content"] for part in answered["parts"]}
        assert parts.get("text", "") == (message.content or "")
        assert answered["finish_reason"] == answer.choices[0].finish_reason


def test_a_rejected_request_is_the_clients_error(traced: Traced) -> None:
    trace_id, headers = new_trace()
    with pytest.raises(NotFoundError):
        traced.client.completions.create(model="no-such-model", prompt="x", extra_headers=headers)
    spans = traced.trace(trace_id, "POST /v1/completions")
    (server,) = spans.values()
    assert attributes(server.attributes)["http.response.status_code"] == 404
    assert server.status.code == Status.STATUS_CODE_UNSET


def test_a_client_disconnect_is_marked_and_no_error(traced: Traced) -> None:
    trace_id, headers = new_trace()
    stream = traced.client.completions.create(
        model="tiny-gen",
        prompt="x",
        # The context has no room for more.
        max_tokens=500,
        stream=True,
        extra_body={"ignore_eos": True},
        extra_headers=headers,
    )
    next(iter(stream))
    stream.close()
    spans = traced.trace(trace_id, "POST /v1/completions", "text_completion tiny-gen")
    server, operation = spans["POST /v1/completions"], spans["text_completion tiny-gen"]
    for span in (server, operation):
        assert attributes(span.attributes)["error.type"] == "cancelled"
        assert span.status.code == Status.STATUS_CODE_UNSET
    assert attributes(server.attributes)["memoria.client_gone"] is True


def test_a_request_that_takes_too_long_is_an_error(traced: Traced) -> None:
    trace_id, headers = new_trace()
    with suppress(APIError):
        traced.client.completions.create(
            model="tiny-gen",
            prompt="x",
            # The context has no room for more; on a CPU they take longer than the limit of time.
            max_tokens=500,
            extra_body={"ignore_eos": True},
            extra_headers={**headers, "x-request-timeout": "0.2"},
        )
    spans = traced.trace(trace_id, "POST /v1/completions", "text_completion tiny-gen")
    for span in spans.values():
        if span.name in ("POST /v1/completions", "text_completion tiny-gen"):
            assert span.status.code == Status.STATUS_CODE_ERROR
            assert attributes(span.attributes)["error.type"]
    assert attributes(spans["POST /v1/completions"].attributes)["http.response.status_code"] == 504


def test_an_unsampled_trace_is_not_exported(in_process: Traced) -> None:
    trace_id, headers = new_trace(sampled=False)
    in_process.client.completions.create(model="tiny-gen", prompt="x", max_tokens=2, extra_headers=headers)
    later, headers = new_trace()
    in_process.client.completions.create(model="tiny-gen", prompt="x", max_tokens=2, extra_headers=headers)
    in_process.trace(later, "POST /v1/completions", "text_completion tiny-gen", "llm_request")
    assert trace_id not in {span.trace_id.hex() for span in in_process.receiver.spans()}


def test_probes_and_the_services_own_requests_leave_no_spans(in_process: Traced) -> None:
    for path in ("/health", "/health/live", "/health/ready"):
        httpx.get(f"{in_process.url}{path}", trust_env=False)
    trace_id, headers = new_trace()
    in_process.client.completions.create(model="tiny-gen", prompt="x", max_tokens=2, extra_headers=headers)
    in_process.trace(trace_id, "POST /v1/completions", "llm_request")
    spans = in_process.receiver.spans()
    assert not [span for span in spans if "/health" in span.name]
    # The warm-up is a request of the service itself; without a trace it has no span.
    ours = {span.span_id for span in spans}
    assert all(span.parent_span_id in ours for span in spans if span.name == "llm_request")


def test_queueing_has_its_own_span(in_process: Traced) -> None:
    traces = [new_trace() for _ in range(6)]

    def complete(headers: dict[str, str]) -> None:
        in_process.client.completions.create(
            model="tiny-gen", prompt="x", max_tokens=100, extra_body={"ignore_eos": True}, extra_headers=headers
        )

    with concurrent.futures.ThreadPoolExecutor(6) as pool:
        list(pool.map(complete, [headers for _, headers in traces]))
    waited = 0
    for trace_id, _ in traces:
        spans = in_process.trace(trace_id, "POST /v1/completions", "text_completion tiny-gen", "llm_request")
        operation = spans["text_completion tiny-gen"]
        if "queue" in spans:
            waited += 1
            assert is_below(spans["queue"], operation)
            # The engine gets the request after the queue, and both together take no longer than the call.
            assert spans["llm_request"].start_time_unix_nano >= spans["queue"].end_time_unix_nano - CLOCK_NS
            engine_s = attributes(spans["llm_request"].attributes)["gen_ai.latency.e2e"]
            assert seconds(spans["queue"]) + engine_s <= seconds(operation) + CLOCK_NS / 1e9
    # Two run at a time, so four of six concurrent requests wait.
    assert waited == 4


def test_batched_requests_link_to_the_joint_call(over_http: Traced) -> None:
    traces = [new_trace() for _ in range(24)]
    start = threading.Barrier(len(traces))

    def embed(headers: dict[str, str]) -> None:
        start.wait()
        over_http.client.embeddings.create(model="tiny-embed", input="a text", extra_headers=headers)

    with concurrent.futures.ThreadPoolExecutor(len(traces)) as pool:
        list(pool.map(embed, [headers for _, headers in traces]))
    by_id = {}
    batched = []
    for trace_id, _ in traces:
        spans = over_http.trace(trace_id, "POST /v1/embeddings", "embeddings tiny-embed")
        by_id |= {span.span_id: span for span in spans.values()}
        if "joined call" in spans:
            batched.append(spans)
    assert batched
    for spans in batched:
        assert is_below(spans["join"], spans["embeddings tiny-embed"])
        assert is_below(spans["joined call"], spans["embeddings tiny-embed"])
        assert spans["joined call"].start_time_unix_nano >= spans["join"].end_time_unix_nano - CLOCK_NS
        assert attributes(spans["joined call"].attributes)["memoria.joined.requests"] >= 2
        links = list(spans["joined call"].links)
        if links:
            # To the request whose call carried the batch.
            (link,) = links
            assert by_id[link.span_id].name == "embeddings tiny-embed"
        else:
            assert "POST" in spans
    assert any(spans["joined call"].links for spans in batched)
