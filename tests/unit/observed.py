"""The application on fake engines, with a listener that records all events."""

import contextlib
from collections.abc import AsyncGenerator

from app.telemetry.record import Listener, OperationRecord, RequestRecord
from app.telemetry.telemetry import Telemetry
from tests.unit.serving import Api, serving
from tests.unit.waiting import until


class RecordingListener(Listener):
    """Records all events."""

    def __init__(self) -> None:
        self.requests: list[RequestRecord] = []
        self.operations: list[OperationRecord] = []
        self.waits: list[tuple[OperationRecord, str, float]] = []
        self.batches: list[tuple[OperationRecord, int]] = []

    def request_ended(self, record):
        self.requests.append(record)

    def operation_ended(self, operation):
        self.operations.append(operation)

    def waited(self, operation, phase, seconds):
        self.waits.append((operation, phase, seconds))

    def batched(self, operation, batch_size):
        self.batches.append((operation, batch_size))

    @property
    def request(self) -> RequestRecord:
        """The only request."""
        (record,) = self.requests
        return record

    @property
    def operation(self) -> OperationRecord:
        (record,) = self.operations
        return record

    def forget(self) -> None:
        for found in (self.requests, self.operations, self.waits, self.batches):
            found.clear()


class ObservedApi(Api):
    """An application with the test's own telemetry."""

    def __init__(self, *, tracing=None, settings: dict[str, str] | None = None, **options) -> None:
        super().__init__(settings=settings, **options)
        self.listener = RecordingListener()
        self.app.telemetry = Telemetry([self.listener], tracing=tracing)


@contextlib.asynccontextmanager
async def observing(**options) -> AsyncGenerator[ObservedApi, None]:
    api = ObservedApi(**options)
    async with serving(api):
        await until(lambda: api.is_ready)
        yield api
