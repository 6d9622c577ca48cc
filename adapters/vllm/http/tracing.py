"""Creates client spans for requests to a server and propagates the trace context.

opentelemetry-instrumentation-httpx creates the spans, around our transport. It takes the parent from the context
of the running task. A task here serves many requests, so the context is attached for each call.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING

import httpx

if TYPE_CHECKING:
    from opentelemetry.trace import TracerProvider

TRACE = "memoria.trace"
"""The extension of an httpx request that carries its trace context, as headers."""

PARENT = "traceparent"
SAMPLED = 1
"""The `sampled` bit of the trace flags (W3C Trace Context, 3.2.2.5.1)."""


def is_sampled(trace: Mapping[str, str]) -> bool:
    """Whether a carrier's trace is sampled. True without a `traceparent`: propagators are configurable."""
    parent = trace.get(PARENT)
    return parent is None or bool(int(parent[-2:], 16) & SAMPLED)


class TracedTransport(httpx.AsyncBaseTransport):
    """Creates a span for each request that carries a trace. Others, such as health checks, pass through."""

    def __init__(self, transport: httpx.AsyncBaseTransport, provider: "TracerProvider") -> None:
        """Wrap a transport.

        Args:
            transport: sends the requests.
            provider: receives the spans.
        """
        # Imported only if tracing is on.
        from opentelemetry.instrumentation.httpx import AsyncOpenTelemetryTransport

        self._transport = transport
        self._traced = AsyncOpenTelemetryTransport(transport, tracer_provider=provider)

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """See httpx."""
        trace: Mapping[str, str] | None = request.extensions.get(TRACE)
        if trace is None:
            return await self._transport.handle_async_request(request)
        if not is_sampled(trace):
            # Propagate the context without the cost of a span that would be dropped.
            request.headers.update(trace)
            return await self._transport.handle_async_request(request)
        from opentelemetry import context, propagate

        token = context.attach(propagate.extract(trace))
        try:
            return await self._traced.handle_async_request(request)
        finally:
            context.detach(token)

    async def aclose(self) -> None:
        """See httpx."""
        await self._transport.aclose()
