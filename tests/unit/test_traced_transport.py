"""Spans of requests, over a real connection to a server on this machine."""

import asyncio
import os
from collections.abc import AsyncGenerator, Iterator

import httpx
import pytest
from opentelemetry import context as otel_context
from opentelemetry.trace import SpanKind, StatusCode

from adapters.vllm.http.tracing import TRACE, TracedTransport
from adapters.vllm.http.transport import PooledTransport
from tests.unit.test_telemetry_tracing import PARENT, TRACEPARENT, Spans
from tests.unit.test_telemetry_tracing import TRACE as TRACE_ID
from tests.unit.test_transport import OK, always, head_of, serving

CARRIER = {"traceparent": TRACEPARENT, "tracestate": "vendor=value", "baggage": "user=alice"}


@pytest.fixture(scope="module", autouse=True)
def _stable_attribute_names() -> Iterator[None]:
    # As the service sets it; read when the first transport is created.
    before = os.environ.get("OTEL_SEMCONV_STABILITY_OPT_IN")
    os.environ["OTEL_SEMCONV_STABILITY_OPT_IN"] = "http"
    yield
    if before is None:
        del os.environ["OTEL_SEMCONV_STABILITY_OPT_IN"]
    else:
        os.environ["OTEL_SEMCONV_STABILITY_OPT_IN"] = before


@pytest.fixture
def spans() -> Spans:
    return Spans()


@pytest.fixture
async def client(spans) -> AsyncGenerator[httpx.AsyncClient, None]:
    transport = TracedTransport(PooledTransport(), spans.provider)
    async with httpx.AsyncClient(transport=transport, timeout=2.0) as client:
        yield client


class RecordingServer:
    """A server that records request headers."""

    def __init__(self, answer: bytes = OK) -> None:
        self.heads: list[dict[str, str]] = []
        self._answer = answer

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            lines = (await head_of(reader)).decode().split("\r\n")[1:-2]
            self.heads.append(dict(line.lower().split(": ", 1) for line in lines))
            writer.write(self._answer)


async def test_a_traced_request_is_a_span_and_is_propagated(client, spans):
    script = RecordingServer()
    async with serving(script) as (_, url):
        response = await client.get(f"{url}/v1/models", extensions={TRACE: CARRIER})
    assert response.text == "ok"
    (span,) = spans.all()
    assert (span.kind, span.name) == (SpanKind.CLIENT, "GET")
    assert (f"{span.context.trace_id:032x}", f"{span.parent.span_id:016x}") == (TRACE_ID, PARENT)
    assert span.attributes["http.request.method"] == "GET"
    assert span.attributes["http.response.status_code"] == 200
    assert span.attributes["server.address"] == "127.0.0.1"
    (head,) = script.heads
    assert head["traceparent"] == f"00-{TRACE_ID}-{span.context.span_id:016x}-01"
    assert (head["tracestate"], head["baggage"]) == ("vendor=value", "user=alice")


async def test_a_request_without_a_trace_passes_through(client, spans):
    script = RecordingServer()
    async with serving(script) as (_, url):
        assert (await client.get(url)).text == "ok"
    assert spans.all() == []
    assert not {"traceparent", "tracestate", "baggage"} & script.heads[0].keys()


async def test_concurrent_requests_keep_their_traces(client, spans):
    script = RecordingServer()
    traces = [f"{number:032x}" for number in range(1, 9)]
    async with serving(script) as (_, url):

        async def ask(trace: str) -> None:
            carrier = {"traceparent": f"00-{trace}-{PARENT}-01"}
            await client.get(url, headers={"x-trace": trace}, extensions={TRACE: carrier})

        await asyncio.gather(*map(ask, traces))
    assert {head["traceparent"].split("-")[1]: head["x-trace"] for head in script.heads} == {t: t for t in traces}


async def test_the_tasks_context_is_restored(client):
    before = otel_context.get_current()
    async with serving(always(OK)) as (_, url):
        await client.get(url, extensions={TRACE: CARRIER})
        assert otel_context.get_current() == before
    async with serving(always(OK)) as (_, url):
        pass
    with pytest.raises(httpx.ConnectError):
        await client.get(url, extensions={TRACE: CARRIER})
    assert otel_context.get_current() == before


@pytest.mark.parametrize("flags", ["00", "02"], ids=["not sampled", "not sampled, random trace id"])
async def test_unsampled_traces_are_propagated_without_a_span(client, spans, monkeypatch, flags):
    monkeypatch.setattr(client._transport, "_traced", None)
    carrier = CARRIER | {"traceparent": f"{TRACEPARENT[:-2]}{flags}"}
    script = RecordingServer()
    async with serving(script) as (_, url):
        await client.get(url, extensions={TRACE: carrier})
    assert spans.all() == []
    assert carrier.items() <= script.heads[0].items()


@pytest.mark.parametrize("flags", ["01", "03"])
async def test_sampled_traces_have_a_span(client, spans, flags):
    async with serving(always(OK)) as (_, url):
        await client.get(url, extensions={TRACE: {"traceparent": f"{TRACEPARENT[:-2]}{flags}"}})
    assert len(spans.all()) == 1


async def test_a_trace_without_traceparent_is_propagated(client):
    script = RecordingServer()
    async with serving(script) as (_, url):
        assert (await client.get(url, extensions={TRACE: {"baggage": "user=alice"}})).text == "ok"
    assert script.heads[0]["baggage"] == "user=alice"


async def test_a_server_error_is_an_error(client, spans):
    refusal = b"HTTP/1.1 503 No\r\ncontent-length: 0\r\n\r\n"
    async with serving(always(refusal)) as (_, url):
        assert (await client.get(url, extensions={TRACE: CARRIER})).status_code == 503
    (span,) = spans.all()
    assert span.attributes["http.response.status_code"] == 503
    assert span.attributes["error.type"] == "503"
    assert span.status.status_code is StatusCode.ERROR


async def test_an_unreachable_server_is_an_error(client, spans):
    async with serving(always(OK)) as (_, url):
        pass
    with pytest.raises(httpx.ConnectError):
        await client.get(url, extensions={TRACE: CARRIER})
    (span,) = spans.all()
    assert span.attributes["error.type"] == "ConnectError"
    assert span.status.status_code is StatusCode.ERROR


async def test_streams_are_unchanged(client, spans):
    parts = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n"
    async with (
        serving(always(parts)) as (_, url),
        client.stream("POST", url, content=b"", extensions={TRACE: CARRIER}) as response,
    ):
        # The span ends with the response headers; the span of the operation lasts as long as the stream.
        assert len(spans.all()) == 1
        assert b"".join([part async for part in response.aiter_bytes()]) == b"abcde"


async def test_the_wrapped_transport_is_closed(spans):
    class Inner(httpx.AsyncBaseTransport):
        closed = 0

        async def aclose(self) -> None:
            self.closed += 1

    inner = Inner()
    await TracedTransport(inner, spans.provider).aclose()
    assert inner.closed == 1
