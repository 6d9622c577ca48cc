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
        from opentelemetry import context, propagate

        token = context.attach(propagate.extract(trace))
        try:
            return await self._traced.handle_async_request(request)
        finally:
            context.detach(token)

    async def aclose(self) -> None:
        """See httpx."""
        await self._transport.aclose()
