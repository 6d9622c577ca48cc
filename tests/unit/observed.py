"""The application on fake engines, watched by a listener that keeps all that it is told."""

import contextlib
from collections.abc import AsyncGenerator

from app.telemetry.record import Listener, OperationRecord, RequestRecord
from app.telemetry.telemetry import Telemetry
from tests.unit.serving import Api, serving
from tests.unit.waiting import until


class Heard(Listener):
    """What has been told so far."""

    def __init__(self) -> None:
        self.requests: list[RequestRecord] = []
        self.operations: list[OperationRecord] = []
        self.waits: list[tuple[OperationRecord, str, float]] = []
        self.journeys: list[tuple[OperationRecord, int]] = []

    def request_ended(self, record):
        self.requests.append(record)

    def operation_ended(self, operation):
        self.operations.append(operation)

    def waited(self, operation, phase, seconds):
        self.waits.append((operation, phase, seconds))

    def batched(self, operation, batch_size):
        self.journeys.append((operation, batch_size))

    @property
    def request(self) -> RequestRecord:
        """The only one."""
        (record,) = self.requests
        return record

    @property
    def operation(self) -> OperationRecord:
        (record,) = self.operations
        return record

    def forget(self) -> None:
        for told in (self.requests, self.operations, self.waits, self.journeys):
            told.clear()


class WatchedApi(Api):
    """An application whose telemetry is a test's own."""

    def __init__(self, *, tracing=None, settings: dict[str, str] | None = None, **options) -> None:
        super().__init__(settings=settings, **options)
        self.heard = Heard()
        self.app.telemetry = Telemetry([self.heard], tracing=tracing)


@contextlib.asynccontextmanager
async def watched(**options) -> AsyncGenerator[WatchedApi, None]:
    api = WatchedApi(**options)
    async with serving(api):
        await until(lambda: api.is_ready)
        yield api
