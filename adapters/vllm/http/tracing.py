"""The span of a request to a server, and its trace's way there.

The spans are made by opentelemetry-instrumentation-httpx, around our transport. That takes the parent from the
context of the running task, which here serves many requests; so it is put there for the call.
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
"""The bit of its flags that says that the trace is kept (W3C Trace Context, 3.2.2.5.1)."""


def is_sampled(trace: Mapping[str, str]) -> bool:
    """Whether the trace of a carrier is kept, as far as it tells (propagators can be chosen)."""
    parent = trace.get(PARENT)
    return parent is None or bool(int(parent[-2:], 16) & SAMPLED)


class TracedTransport(httpx.AsyncBaseTransport):
    """Makes a span of each request that belongs to a trace. Others, which look how a server is, pass through."""

    def __init__(self, transport: httpx.AsyncBaseTransport, provider: "TracerProvider") -> None:
        """Wrap a transport.

        Args:
            transport: the one that sends.
            provider: where spans go.
        """
        # Nothing of it is loaded where nobody traces.
        from opentelemetry.instrumentation.httpx import AsyncOpenTelemetryTransport

        self._transport = transport
        self._traced = AsyncOpenTelemetryTransport(transport, tracer_provider=provider)

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """See httpx."""
        trace: Mapping[str, str] | None = request.extensions.get(TRACE)
        if trace is None:
            return await self._transport.handle_async_request(request)
        if not is_sampled(trace):
            # The server hears of the trace, and that nobody keeps it; a span would be work for nothing.
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
