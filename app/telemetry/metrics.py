"""Collects the service's metrics, which `/metrics` serves and OTLP exports.

Everything runs on the event loop unless noted otherwise.
"""

import asyncio
import logging
import re
import time
import uuid
from collections.abc import Awaitable, Callable, Collection, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TypeVar

import prometheus_client
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from app.telemetry import conventions as otel
from app.telemetry import instruments, several_processes
from app.telemetry.instruments import Instrument, Kind
from app.telemetry.record import UNMATCHED, Listener, OperationRecord, RequestRecord
from domain.observation import Phase
from domain.statistics import Family

MAX_LABEL_VALUES = 64
"""Limit of distinct values of an otherwise unbounded label, such as error types; others become `_OTHER`."""
REFRESH_S = 1.0
"""How old the state of other processes may be in the metrics of one of several."""
EVENT_LOOP_TIMEOUT_S = 5.0
"""Longest wait of another thread for the event loop."""
END = b"# EOF\n"
"""The line that ends an OpenMetrics page."""
Child = Counter | Gauge | Histogram
T = TypeVar("T")
# An invalid version makes prometheus_client fail, immediately or while encoding.
_INVALID_VERSION = re.compile(r"version=(?!\d+(\.\d+)*\s*([;,]|$))", re.ASCII)
log = logging.getLogger("memoria")


class Metrics(Listener):
    """Records metrics of requests, reads the service's state on demand, and exposes both."""

    def __init__(
        self,
        *,
        models: Callable[[], Collection[str]],
        scheme: str = "http",
        folder: Path | None = None,
        is_shown: bool = True,
    ) -> None:
        """Create the metrics.

        Args:
            models: returns the names of the served models, without aliases; other names become `_OTHER` in labels.
            scheme: http or https.
            folder: where several processes of one service share their values; None for one process.
            is_shown: whether `/metrics` is served.
        """
        prometheus_client.disable_created_metrics()  # type: ignore[no-untyped-call]
        self.is_shown = is_shown
        self.began_ns = several_processes.began_ns(folder) if folder else time.time_ns()
        self.instance_id = str(uuid.uuid5(uuid.NAMESPACE_URL, str(folder)) if folder else uuid.uuid4())
        self.folder = folder
        self.sources: list[Callable[[], None]] = []
        """Functions that update the state; called on the event loop."""
        self.waiting_sources: list[Callable[[], Awaitable[None]]] = []
        """The same, awaited; they may take a fraction of a second."""
        self.slow_sources: list[Callable[[], None]] = []
        """The same, called in a thread."""
        self.engines: list[Callable[[], Iterable[Family]]] = []
        """Functions that return the metric families of an engine; called in any thread."""
        self._models = models
        self._served: set[str] = set()
        self._scheme = scheme
        self._registry = CollectorRegistry()
        self._parents: dict[Instrument, Child] = {}
        self._children: dict[tuple[Instrument, tuple[str, ...]], Child] = {}
        self._totals: dict[tuple[Instrument, tuple[str, ...]], float] = {}
        self._operations, self._routes, self._errors = LabelLimiter(), LabelLimiter(), LabelLimiter()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._refreshing: asyncio.Task[None] | None = None

    # Events.

    def operation_ended(self, operation: OperationRecord) -> None:
        """See `Listener`."""
        labels = (self._operations(operation.name), otel.PROVIDER, self._model(operation.model))
        if operation.prompt_tokens:
            self._observe(instruments.TOKEN_USAGE, operation.prompt_tokens, *labels, otel.INPUT)
        if operation.completion_tokens:
            self._observe(instruments.TOKEN_USAGE, operation.completion_tokens, *labels, otel.OUTPUT)
        if operation.is_line:
            # It may have waited for minutes, which says nothing about the requests of clients.
            return
        error = self._errors(operation.error_type or "")
        self._observe(instruments.REQUEST_DURATION, operation.duration_s, *labels, error)
        if not error or operation.queue_s:
            # A request that was rejected immediately did not queue; 0 would distort the histogram.
            self._observe(instruments.QUEUE_WAIT, operation.queue_s, operation.role.value)
        # Without streaming the time of the first token is not known.
        if error or not operation.is_stream or operation.first_token_s is None:
            return
        self._observe(instruments.TIME_TO_FIRST_TOKEN, operation.first_token_s, *labels)
        # Choices are generated in parallel, so each takes as long as all of them.
        further = operation.completion_tokens / operation.choices - 1
        if further > 0:
            rest_s = operation.duration_s - operation.first_token_s
            self._observe(instruments.TIME_PER_OUTPUT_TOKEN, rest_s / further, *labels)

    def request_ended(self, record: RequestRecord) -> None:
        """See `Listener`."""
        if record.is_line:
            return
        self._observe(
            instruments.HTTP_DURATION,
            record.duration_s,
            record.method if record.method in otel.METHODS else otel.OTHER,
            self._routes(record.route) if record.route != UNMATCHED else UNMATCHED,
            str(record.status) if 100 <= record.status <= 599 else "",
            self._scheme,
            self._errors(record.error_type or ""),
        )

    def waited(self, operation: OperationRecord, phase: str, seconds: float) -> None:
        """See `Listener`."""
        if phase == Phase.JOIN:
            self._observe(instruments.JOIN_WAIT, seconds, operation.role.value)

    def batched(self, operation: OperationRecord, batch_size: int) -> None:
        """See `Listener`."""
        self._observe(instruments.JOIN_SIZE, batch_size, operation.role.value)

    # State.

    def set(self, instrument: Instrument, value: float, *labels: str) -> None:
        """Set a gauge. Callable from any thread."""
        gauge = self._child(instrument, labels)
        assert isinstance(gauge, Gauge)
        gauge.set(value)

    def count_to(self, instrument: Instrument, total: float, *labels: str) -> None:
        """Raise a counter to the total of an external counter, which may restart at 0."""
        counter = self._child(instrument, labels)
        assert isinstance(counter, Counter)
        before = self._totals.get((instrument, labels), 0.0)
        counter.inc(total - before if total >= before else total)
        self._totals[instrument, labels] = total

    def set_state(self, instrument: Instrument, state: str, states: Iterable[str], *labels: str) -> None:
        """Set the gauge of the current state to 1, and those of the other states to 0."""
        for each in states:
            self.set(instrument, float(each == state), *labels, each)

    # Output.

    def refresh(self) -> None:
        """Update the state, as far as that takes no time."""
        for source in self.sources:
            source()

    async def update(self) -> None:
        """Update the state."""
        for source in self.waiting_sources:
            await source()
        self.refresh()

    def collect(self) -> list[Metric]:
        """All families as of the last `refresh`. Takes some milliseconds. Callable from any thread."""
        for source in self.slow_sources:
            source()
        own = several_processes.collect(self.folder) if self.folder else self._registry.collect()
        families = {metric.name: metric for metric in _yielding_gil(own)}
        for engine in self.engines:
            for family in _yielding_gil(engine()):
                _add(family, families)
        return list(families.values())

    async def text(self, accept: str) -> tuple[bytes, str]:
        """The page for Prometheus, and its content type.

        Args:
            accept: the request's Accept header, which selects OpenMetrics or Prometheus's own format.
        """
        await self.update()
        encode, content_type = _encoder(accept)
        return await asyncio.to_thread(lambda: _encode(encode, self.collect())), content_type

    # Lifecycle.

    def start(self) -> None:
        """Start sharing the state with the other processes, if there are any."""
        self._loop = asyncio.get_running_loop()
        if self.folder is not None:
            self._refreshing = self._loop.create_task(self._refresh_periodically(), name="share-metrics")

    def stop(self) -> None:
        """Stop sharing the state. Callable from any thread."""
        if self._refreshing is not None and self._loop is not None:
            self._loop.call_soon_threadsafe(self._refreshing.cancel)

    def refreshed(self) -> list[Metric]:
        """Refresh and return all families. For threads other than the event loop's."""
        if self._loop is not None:
            asyncio.run_coroutine_threadsafe(self.update(), self._loop).result(EVENT_LOOP_TIMEOUT_S)
        return self.collect()

    async def _refresh_periodically(self) -> None:
        logged = ""
        while True:
            try:
                await self.update()
                await asyncio.to_thread(self._refresh_slowly)
                logged = ""
            except Exception as error:
                # The next attempt may succeed. The same error is logged only once in a row.
                if repr(error) != logged:
                    logged = repr(error)
                    log.exception("metrics can't be shared with the other processes; retrying")
            await asyncio.sleep(REFRESH_S)

    def _refresh_slowly(self) -> None:
        for source in self.slow_sources:
            source()

    def _observe(self, instrument: Instrument, value: float, *labels: str) -> None:
        # Always a histogram here; a check per call would cost time.
        self._child(instrument, labels).observe(value)  # type: ignore[union-attr]

    def _child(self, instrument: Instrument, labels: tuple[str, ...]) -> Child:
        child = self._children.get((instrument, labels))
        if child is None:
            parent = self._parents.get(instrument)
            if parent is None:
                # Created with the first value: a metric without labels would otherwise show 0 from the start.
                parent = self._parents[instrument] = _create(instrument, self._registry)
            child = self._children[instrument, labels] = parent.labels(*labels) if labels else parent
        return child

    def _model(self, name: str) -> str:
        if name in self._served:
            return name
        # A remote server may have reported its model since.
        self._served = set(self._models())
        return name if name in self._served else otel.OTHER


class LabelLimiter:
    """Limits the distinct values of a label; all further values become `_OTHER`."""

    def __init__(self, limit: int = MAX_LABEL_VALUES) -> None:
        self._limit = limit
        self._values = {""}

    def __call__(self, value: str) -> str:
        """The value, or `_OTHER`."""
        if value in self._values:
            return value
        if len(self._values) > self._limit:
            return otel.OTHER
        self._values.add(value)
        return value


class _Collected:
    """Adapts collected families to the encoder's interface."""

    def __init__(self, families: Sequence[Metric]) -> None:
        self._families = families

    def collect(self) -> Sequence[Metric]:
        return self._families


def _yielding_gil(families: Iterable[T]) -> Iterator[T]:
    """Yield families, releasing the GIL after each: otherwise a thread holds it for 5 ms at a time."""
    for family in families:
        yield family
        time.sleep(0)


def _encode(encode: Callable[[Collector], bytes], families: Iterable[Metric]) -> bytes:
    """Encode families one by one as one page, with OpenMetrics' end mark only at its end."""
    pages = [encode(_Collected([family])).removesuffix(END) for family in _yielding_gil(families)]
    return b"".join([*pages, encode(_Collected([]))])


def _encoder(accept: str) -> tuple[Callable[[Collector], bytes], str]:
    return choose_encoder("" if _INVALID_VERSION.search(accept) else accept)


def _create(instrument: Instrument, registry: CollectorRegistry) -> Child:
    name, about, labels = instrument.family, instrument.about, instrument.labels
    if instrument.kind is Kind.COUNTER:
        return Counter(name, about, labels, registry=registry)
    if instrument.kind is Kind.GAUGE:
        return Gauge(name, about, labels, registry=registry, multiprocess_mode=instrument.multiprocess_mode)
    return Histogram(name, about, labels, registry=registry, buckets=instrument.buckets)


def _add(family: Family, families: dict[str, Metric]) -> None:
    """Add an engine's family; several engines have the same families, and a page contains each once."""
    metric = families.get(family.name)
    if metric is None:
        metric = families[family.name] = Metric(family.name, family.about, family.kind)
    for sample in family.samples:
        metric.add_sample(family.name + sample.suffix, sample.labels, sample.value)
