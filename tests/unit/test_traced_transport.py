"""The span of a request to a server, over a real connection to a real one on this machine."""

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
def _names_of_today() -> Iterator[None]:
    # As the service sets it; read when the first transport is made.
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


class Listening:
    """A server that keeps the heads of requests, and answers one after the other."""

    def __init__(self, answer: bytes = OK) -> None:
        self.heads: list[dict[str, str]] = []
        self._answer = answer

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            lines = (await head_of(reader)).decode().split("\r\n")[1:-2]
            self.heads.append(dict(line.lower().split(": ", 1) for line in lines))
            writer.write(self._answer)


async def test_a_request_of_a_trace_is_a_span_and_its_server_hears_of_it(client, spans):
    script = Listening()
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


async def test_a_request_of_no_trace_passes_through(client, spans):
    script = Listening()
    async with serving(script) as (_, url):
        assert (await client.get(url)).text == "ok"
    assert spans.all() == []
    assert not {"traceparent", "tracestate", "baggage"} & script.heads[0].keys()


async def test_requests_at_the_same_time_keep_to_their_own_traces(client, spans):
    script = Listening()
    traces = [f"{number:032x}" for number in range(1, 9)]
    async with serving(script) as (_, url):

        async def ask(trace: str) -> None:
            carrier = {"traceparent": f"00-{trace}-{PARENT}-01"}
            await client.get(url, headers={"x-trace": trace}, extensions={TRACE: carrier})

        await asyncio.gather(*map(ask, traces))
    assert {head["traceparent"].split("-")[1]: head["x-trace"] for head in script.heads} == {t: t for t in traces}


async def test_the_running_tasks_own_context_is_as_before(client):
    before = otel_context.get_current()
    async with serving(always(OK)) as (_, url):
        await client.get(url, extensions={TRACE: CARRIER})
        assert otel_context.get_current() == before
    async with serving(always(OK)) as (_, url):
        pass
    with pytest.raises(httpx.ConnectError):
        await client.get(url, extensions={TRACE: CARRIER})
    assert otel_context.get_current() == before


@pytest.mark.parametrize("flags", ["00", "02"], ids=["not kept", "not kept, of a random id"])
async def test_what_nobody_keeps_is_handed_on_as_it_is_and_makes_no_work(client, spans, monkeypatch, flags):
    monkeypatch.setattr(client._transport, "_traced", None)
    carrier = CARRIER | {"traceparent": f"{TRACEPARENT[:-2]}{flags}"}
    script = Listening()
    async with serving(script) as (_, url):
        await client.get(url, extensions={TRACE: carrier})
    assert spans.all() == []
    assert carrier.items() <= script.heads[0].items()


@pytest.mark.parametrize("flags", ["01", "03"])
async def test_what_is_kept_is_a_span(client, spans, flags):
    async with serving(always(OK)) as (_, url):
        await client.get(url, extensions={TRACE: {"traceparent": f"{TRACEPARENT[:-2]}{flags}"}})
    assert len(spans.all()) == 1


async def test_other_propagators_than_the_usual_name_no_parent_there(client):
    script = Listening()
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


async def test_a_server_that_is_not_there_is_an_error_as_without_traces(client, spans):
    async with serving(always(OK)) as (_, url):
        pass
    with pytest.raises(httpx.ConnectError):
        await client.get(url, extensions={TRACE: CARRIER})
    (span,) = spans.all()
    assert span.attributes["error.type"] == "ConnectError"
    assert span.status.status_code is StatusCode.ERROR


async def test_a_stream_comes_as_it_is(client, spans):
    parts = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n"
    async with (
        serving(always(parts)) as (_, url),
        client.stream("POST", url, content=b"", extensions={TRACE: CARRIER}) as response,
    ):
        # The span is of the request until the head; the call around it is as long as the stream.
        assert len(spans.all()) == 1
        assert b"".join([part async for part in response.aiter_bytes()]) == b"abcde"


async def test_what_is_inside_is_closed_too(spans):
    class Inner(httpx.AsyncBaseTransport):
        closed = 0

        async def aclose(self) -> None:
            self.closed += 1

    inner = Inner()
    await TracedTransport(inner, spans.provider).aclose()
    assert inner.closed == 1
