"""Ties telemetry together: the listeners of requests, tracing, and the exporters."""

import asyncio
from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

from litestar.types import HTTPScope

from app.telemetry.record import Listener
from app.telemetry.request import OBSERVATION, RequestObservation
from domain.service_class import ServiceClass

if TYPE_CHECKING:
    from app.telemetry.tracing import Tracing


class Exporter(Protocol):
    """Exports telemetry in its own thread."""

    def start(self) -> None:
        """Start exporting."""
        ...

    def stop(self) -> None:
        """Export what is left, and stop. Blocks for some seconds at most."""
        ...


class Telemetry:
    """Observes the application's requests."""

    def __init__(
        self,
        listeners: Sequence[Listener] = (),
        *,
        tracing: "Tracing | None" = None,
        exporters: Sequence[Exporter] = (),
    ) -> None:
        """Create it without starting the exporters.

        Args:
            listeners: notified of finished requests and operations.
            tracing: creates spans.
            exporters: started and stopped with the service.
        """
        self._listeners = tuple(listeners)
        self._tracing = tracing
        self._exporters = exporters

    def begin(
        self,
        scope: HTTPScope,
        request_id: str,
        *,
        service_class: ServiceClass = ServiceClass.INTERACTIVE,
    ) -> RequestObservation | None:
        """Start observing a request; None if there are no listeners and no tracing."""
        if not self._listeners and self._tracing is None:
            return None
        observation = RequestObservation(
            scope, request_id, self._listeners, self._tracing, service_class=service_class
        )
        scope["state"][OBSERVATION] = observation
        return observation

    def start(self) -> None:
        """Start the exporters."""
        for exporter in self._exporters:
            exporter.start()

    async def stop(self) -> None:
        """Export what is left, and stop. Takes some seconds at most."""
        stops = [exporter.stop for exporter in self._exporters]
        if self._tracing is not None:
            stops.append(self._tracing.stop)
        await asyncio.gather(*(asyncio.to_thread(stop) for stop in stops))


NO_TELEMETRY = Telemetry()
"""Observes nothing."""
