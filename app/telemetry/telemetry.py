"""All that watches the service: who is told of requests, who makes spans, and what runs beside them."""

import asyncio
from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

from litestar.types import HTTPScope

from app.telemetry.record import Listener
from app.telemetry.request import OBSERVATION, RequestObservation

if TYPE_CHECKING:
    from app.telemetry.tracing import Tracing


class Exporter(Protocol):
    """Sends something elsewhere, in a thread of its own."""

    def start(self) -> None:
        """Begin."""
        ...

    def stop(self) -> None:
        """Send what is left, and end. Blocks for some seconds at most."""
        ...


class Telemetry:
    """What the application tells of its requests to whom."""

    def __init__(
        self,
        listeners: Sequence[Listener] = (),
        *,
        tracing: "Tracing | None" = None,
        exporters: Sequence[Exporter] = (),
    ) -> None:
        """Make it; nothing starts yet.

        Args:
            listeners: told of everything that ends.
            tracing: makes spans.
            exporters: started and stopped with the service.
        """
        self._listeners = tuple(listeners)
        self._tracing = tracing
        self._exporters = exporters

    def begin(self, scope: HTTPScope, request_id: str) -> RequestObservation | None:
        """Watch a request from now on; None if nobody wants to know."""
        if not self._listeners and self._tracing is None:
            return None
        observation = RequestObservation(scope, request_id, self._listeners, self._tracing)
        scope["state"][OBSERVATION] = observation
        return observation

    def start(self) -> None:
        """Start what runs beside the service."""
        for exporter in self._exporters:
            exporter.start()

    async def stop(self) -> None:
        """Send what has not been sent, for some seconds at most."""
        stops = [exporter.stop for exporter in self._exporters]
        if self._tracing is not None:
            stops.append(self._tracing.stop)
        await asyncio.gather(*(asyncio.to_thread(stop) for stop in stops))


NO_TELEMETRY = Telemetry()
"""Watches nothing, and costs nothing."""
