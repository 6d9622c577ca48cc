"""What is counted and measured, in one set of instruments: `/metrics` shows it and OTLP exports it.

Everything here runs on the event loop, save what says otherwise.
"""

import asyncio
import logging
import re
import time
import uuid
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
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

MOST_VALUES = 64
"""Values of one label that nothing else bounds, such as the types of errors; more of them become `_OTHER`."""
REFRESH_S = 1.0
"""How old another process's state may be in what one of several shows."""
PATIENCE_S = 5.0
"""How long the event loop may take to come round."""
END = b"# EOF\n"
"""OpenMetrics' mark at the end of a page."""
Child = Counter | Gauge | Histogram
T = TypeVar("T")
# A version that is none makes prometheus_client fail, now or while it writes.
_ODD_VERSION = re.compile(r"version=(?!\d+(\.\d+)*\s*([;,]|$))", re.ASCII)
log = logging.getLogger("memoria")


class Metrics(Listener):
    """Listens to requests, reads the service's state when asked, and shows both."""

    def __init__(
        self,
        *,
        models: Callable[[], Collection[str]],
        scheme: str = "http",
        folder: Path | None = None,
        is_shown: bool = True,
    ) -> None:
        """Make it.

        Args:
            models: the names of the models that are served, aliases aside; no others get into a label.
            scheme: http or https.
            folder: where several processes of one service share their values; None for one process.
            is_shown: whether there is a page for Prometheus.
        """
        prometheus_client.disable_created_metrics()  # type: ignore[no-untyped-call]
        self.is_shown = is_shown
        self.began_ns = several_processes.began_ns(folder) if folder else time.time_ns()
        self.instance_id = str(uuid.uuid5(uuid.NAMESPACE_URL, str(folder)) if folder else uuid.uuid4())
        self.folder = folder
        self.sources: list[Callable[[], None]] = []
        """Bring the state up to date; on the event loop."""
        self.slow_sources: list[Callable[[], None]] = []
        """As sources, in a thread."""
        self.engines: list[Callable[[], Iterable[Family]]] = []
        """Families of engines that count by themselves; in any thread."""
        self._models = models
        self._served: set[str] = set()
        self._scheme = scheme
        self._registry = CollectorRegistry()
        self._parents: dict[Instrument, Child] = {}
        self._children: dict[tuple[Instrument, tuple[str, ...]], Child] = {}
        self._totals: dict[tuple[Instrument, tuple[str, ...]], float] = {}
        self._operations, self._routes, self._errors = Bounded(), Bounded(), Bounded()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._refreshing: asyncio.Task[None] | None = None

    # Told of what happens.

    def operation_ended(self, operation: OperationRecord) -> None:
        """See `Listener`."""
        of_whom = (self._operations(operation.name), otel.PROVIDER, self._model(operation.model))
        error = self._errors(operation.error_type or "")
        self._observe(instruments.REQUEST_DURATION, operation.duration_s, *of_whom, error)
        if operation.prompt_tokens:
            self._observe(instruments.TOKEN_USAGE, operation.prompt_tokens, *of_whom, otel.INPUT)
        if operation.completion_tokens:
            self._observe(instruments.TOKEN_USAGE, operation.completion_tokens, *of_whom, otel.OUTPUT)
        if not error or operation.queue_s:
            # Who was refused at once has not waited for nothing, but not at all.
            self._observe(instruments.QUEUE_WAIT, operation.queue_s, operation.role.value)
        # A whole answer comes at its end, which tells nothing of its first token.
        if error or not operation.is_stream or operation.first_token_s is None:
            return
        self._observe(instruments.TIME_TO_FIRST_TOKEN, operation.first_token_s, *of_whom)
        # Choices are written side by side, so that each takes as long as all of them.
        further = operation.completion_tokens / operation.choices - 1
        if further > 0:
            rest_s = operation.duration_s - operation.first_token_s
            self._observe(instruments.TIME_PER_OUTPUT_TOKEN, rest_s / further, *of_whom)

    def request_ended(self, record: RequestRecord) -> None:
        """See `Listener`."""
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

    # Told of what is.

    def set(self, instrument: Instrument, value: float, *labels: str) -> None:
        """The value of a gauge now; in any thread."""
        gauge = self._child(instrument, labels)
        assert isinstance(gauge, Gauge)
        gauge.set(value)

    def count_to(self, instrument: Instrument, total: float, *labels: str) -> None:
        """How far a counter of somebody else's has come; it begins again at 0 when that one does."""
        counter = self._child(instrument, labels)
        assert isinstance(counter, Counter)
        before = self._totals.get((instrument, labels), 0.0)
        counter.inc(total - before if total >= before else total)
        self._totals[instrument, labels] = total

    def one_of(self, instrument: Instrument, state: str, states: Iterable[str], *labels: str) -> None:
        """Which of several states is the one now."""
        for each in states:
            self.set(instrument, float(each == state), *labels, each)

    # Shown.

    def refresh(self) -> None:
        """Bring the state up to date."""
        for source in self.sources:
            source()

    def collect(self) -> list[Metric]:
        """All families, as of the last `refresh`. Takes some milliseconds, in any thread."""
        for source in self.slow_sources:
            source()
        own = several_processes.collect(self.folder) if self.folder else self._registry.collect()
        families = {metric.name: metric for metric in _in_turns(own)}
        for engine in self.engines:
            for family in _in_turns(engine()):
                _add(family, families)
        return list(families.values())

    async def text(self, accept: str) -> tuple[bytes, str]:
        """The page for Prometheus, and its content type.

        Args:
            accept: the header of the request; OpenMetrics is written if it asks for it.
        """
        self.refresh()
        encode, content_type = _encoder(accept)
        return await asyncio.to_thread(lambda: _written(encode, self.collect())), content_type

    # Life.

    def start(self) -> None:
        """Begin to share the state with other processes, if there are any."""
        self._loop = asyncio.get_running_loop()
        if self.folder is not None:
            self._refreshing = self._loop.create_task(self._refresh_all_the_time(), name="share-metrics")

    def stop(self) -> None:
        """The end of `start`; in a thread."""
        if self._refreshing is not None and self._loop is not None:
            self._loop.call_soon_threadsafe(self._refreshing.cancel)

    def refreshed(self) -> list[Metric]:
        """All families now, for a thread that is not the event loop's."""
        if self._loop is not None:
            asyncio.run_coroutine_threadsafe(self._refresh(), self._loop).result(PATIENCE_S)
        return self.collect()

    async def _refresh(self) -> None:
        self.refresh()

    async def _refresh_all_the_time(self) -> None:
        told = ""
        while True:
            try:
                self.refresh()
                await asyncio.to_thread(self._refresh_slowly)
                told = ""
            except Exception as error:
                # What can't be told now may be told later. The same is not told each second.
                if repr(error) != told:
                    told = repr(error)
                    log.exception("the state can't be shared with the other processes; this is tried again")
            await asyncio.sleep(REFRESH_S)

    def _refresh_slowly(self) -> None:
        for source in self.slow_sources:
            source()

    def _observe(self, instrument: Instrument, value: float, *labels: str) -> None:
        # What an instrument has for given labels is a histogram here, which is not worth asking each time.
        self._child(instrument, labels).observe(value)  # type: ignore[union-attr]

    def _child(self, instrument: Instrument, labels: tuple[str, ...]) -> Child:
        child = self._children.get((instrument, labels))
        if child is None:
            parent = self._parents.get(instrument)
            if parent is None:
                # Not before there is a value: one without labels would be 0 from the start.
                parent = self._parents[instrument] = _made(instrument, self._registry)
            child = self._children[instrument, labels] = parent.labels(*labels) if labels else parent
        return child

    def _model(self, name: str) -> str:
        if name in self._served:
            return name
        # A server far away may only now have told which model it has.
        self._served = set(self._models())
        return name if name in self._served else otel.OTHER


class Bounded:
    """Lets so many different values of a label through; all others are one."""

    def __init__(self, most: int = MOST_VALUES) -> None:
        self._most = most
        self._values = {""}

    def __call__(self, value: str) -> str:
        """The value, or what stands for all others."""
        if value in self._values:
            return value
        if len(self._values) > self._most:
            return otel.OTHER
        self._values.add(value)
        return value


class _Collected:
    """What is collected already, for the encoder."""

    def __init__(self, families: Sequence[Metric]) -> None:
        self._families = families

    def collect(self) -> Sequence[Metric]:
        return self._families


def _in_turns(families: Iterable[T]) -> Iterator[T]:
    """The same, with a moment for the event loop after each: a thread gives way only every 5 ms by itself."""
    for family in families:
        yield family
        time.sleep(0)


def _written(encode: Callable[[Collector], bytes], families: Iterable[Metric]) -> bytes:
    """A page of all families. OpenMetrics ends each page with a mark, and this one shall have one at its end."""
    pages = [encode(_Collected([family])).removesuffix(END) for family in _in_turns(families)]
    return b"".join([*pages, encode(_Collected([]))])


def _encoder(accept: str) -> tuple[Callable[[Collector], bytes], str]:
    return choose_encoder("" if _ODD_VERSION.search(accept) else accept)


def _made(instrument: Instrument, registry: CollectorRegistry) -> Child:
    name, about, labels = instrument.family, instrument.about, instrument.labels
    if instrument.kind is Kind.COUNTER:
        return Counter(name, about, labels, registry=registry)
    if instrument.kind is Kind.GAUGE:
        return Gauge(name, about, labels, registry=registry, multiprocess_mode=instrument.together)
    return Histogram(name, about, labels, registry=registry, buckets=instrument.buckets)


def _add(family: Family, families: dict[str, Metric]) -> None:
    """Two engines have the same families, and one page shows each once."""
    metric = families.get(family.name)
    if metric is None:
        metric = families[family.name] = Metric(family.name, family.about, family.kind)
    for sample in family.samples:
        metric.add_sample(family.name + sample.suffix, sample.labels, sample.value)
