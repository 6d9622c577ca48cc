"""Collects vLLM's metrics under their original names, at a fraction of the cost of vLLM's logger.

vLLM's Prometheus logger takes its instrument classes from attributes. The instruments here are plain numbers,
without locks of their own and without a global registry, so that two engines in one process do not unregister each
other's. They are converted to metric families when they are read.
"""

import threading
import time
from bisect import bisect_left
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from vllm.config import VllmConfig
from vllm.distributed.ec_transfer.ec_connector.metrics import ECConnectorProm
from vllm.distributed.kv_transfer.kv_connector.v1.metrics import KVConnectorProm
from vllm.v1.metrics.loggers import PrometheusStatLogger
from vllm.v1.metrics.perf import PerfMetricsProm
from vllm.v1.metrics.stats import IterationStats, SchedulerStats
from vllm.v1.spec_decode.metrics import SpecDecodingProm

from domain.statistics import Family, Sample

COUNTER, GAUGE, HISTOGRAM = "counter", "gauge", "histogram"
MODEL = "model_name"
"""vLLM's label for the model; added to families without it, because there may be a second engine."""


class EngineStatistics:
    """The metrics of one engine. Counters survive its restarts."""

    def __init__(self, model: str) -> None:
        """Create it without any metrics.

        Args:
            model: the model's name for clients.
        """
        self._model = model
        self._instruments: dict[str, _Instrument] = {}
        # The event loop writes, and a thread reads.
        self._lock = threading.Lock()
        self.before_read: Callable[[], None] = lambda: None
        """Called with the lock held, before metrics are read."""

    def logger(self) -> type[PrometheusStatLogger]:
        """A logger class for vLLM, which expects a class and instantiates it."""
        return _logger(self, self._lock)

    def instrument(
        self,
        kind: str,
        name: str,
        documentation: str = "",
        labelnames: Sequence[str] = (),
        buckets: Sequence[float] = (),
        **_ignored: object,
    ) -> "_Instrument":
        """A replacement for an instrument of prometheus_client; the same one again after a restart."""
        # As prometheus_client does, store a counter's name without the suffix and add it on output.
        name = name.removesuffix("_total") if kind == COUNTER else name
        made = self._instruments.get(name)
        if made is None:
            made = self._instruments[name] = _Instrument(
                kind, name, documentation, tuple(labelnames), tuple(buckets)
            )
        return made

    def clear_gauges(self) -> None:
        """Clear the gauges after the engine has ended; counters keep their values."""
        with self._lock:
            self.before_read = lambda: None
            for instrument in self._instruments.values():
                if instrument.kind == GAUGE:
                    instrument.children.clear()

    def families(self) -> list[Family]:
        """All metric families now; thread-safe."""
        with self._lock:
            self.before_read()
            return [
                instrument.family(self._model) for instrument in self._instruments.values() if instrument.children
            ]


class NoStatistics(PrometheusStatLogger):  # type: ignore[misc]
    """Collects nothing. With a logger, vLLM records the timestamps of each request, which its spans contain.

    As a subclass, it replaces vLLM's default logger.
    """

    def __init__(self, vllm_config: VllmConfig, engine_indexes: list[int] | None = None) -> None:
        """See vLLM."""

    def record(self, *_args: Any, **_kwargs: Any) -> None:
        """See vLLM."""

    def record_admission_rejection(self, reason: str) -> None:
        """See vLLM."""

    def record_sleep_state(self, sleep: int = 0, level: int = 0) -> None:
        """See vLLM."""

    def log_engine_initialized(self) -> None:
        """See vLLM."""


def stat_loggers(
    config: VllmConfig, statistics: EngineStatistics | None
) -> list[type[PrometheusStatLogger]] | None:
    """The logger classes for an engine; None if it collects neither metrics nor traces.

    Args:
        config: the engine's configuration.
        statistics: collects the metrics; None for no metrics.
    """
    if statistics is not None:
        return [statistics.logger()]
    return [NoStatistics] if config.observability_config.otlp_traces_endpoint is not None else None


class _Instrument:
    """A metric with one child for each set of label values."""

    def __init__(
        self, kind: str, name: str, about: str, labels: tuple[str, ...], buckets: tuple[float, ...]
    ) -> None:
        self.kind = kind
        self.children: dict[tuple[str, ...], Any] = {}
        self._name = name
        self._about = about
        self._labels = labels
        self._buckets = buckets

    def labels(self, *values: object, **named: object) -> Any:
        """The child for a set of label values."""
        key = tuple(map(str, values)) if values else tuple(str(named[name]) for name in self._labels)
        child = self.children.get(key)
        if child is None:
            child = self.children[key] = _Histogram(self._buckets) if self.kind == HISTOGRAM else _Number()
        return child

    # An instrument without labels has a single child.

    def set(self, value: float) -> None:
        self.labels().set(value)

    def inc(self, amount: float = 1) -> None:
        self.labels().inc(amount)

    def observe(self, value: float) -> None:
        self.labels().observe(value)

    def family(self, model: str) -> Family:
        samples: list[Sample] = []
        for values, child in self.children.items():
            labels = {MODEL: model} | dict(zip(self._labels, values, strict=True))
            if isinstance(child, _Histogram):
                samples += child.samples(labels)
            else:
                samples.append(Sample("_total" if self.kind == COUNTER else "", labels, child.value))
        return Family(name=self._name, kind=self.kind, about=self._about, samples=samples)


class _Number:
    """The value of a counter or a gauge."""

    __slots__ = ("value",)

    def __init__(self) -> None:
        self.value = 0.0

    def inc(self, amount: float = 1) -> None:
        self.value += amount

    def set(self, value: float) -> None:
        self.value = float(value)

    def set_to_current_time(self) -> None:
        self.value = time.time()


class _Histogram:
    __slots__ = ("_bounds", "_counts", "_sum")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self._bounds = bounds
        self._counts = [0] * (len(bounds) + 1)
        self._sum = 0.0

    def observe(self, value: float) -> None:
        self._counts[bisect_left(self._bounds, value)] += 1
        self._sum += value

    def samples(self, labels: dict[str, str]) -> list[Sample]:
        samples, count = [], 0
        for bound, own in zip((*map(float, self._bounds), "+Inf"), self._counts, strict=True):
            count += own
            samples.append(Sample("_bucket", labels | {"le": str(bound)}, count))
        return [*samples, Sample("_count", labels, count), Sample("_sum", labels, self._sum)]


def _logger(statistics: EngineStatistics, lock: threading.Lock) -> type[PrometheusStatLogger]:
    kinds = {
        "_counter_cls": staticmethod(partial(statistics.instrument, COUNTER)),
        "_gauge_cls": staticmethod(partial(statistics.instrument, GAUGE)),
        "_histogram_cls": staticmethod(partial(statistics.instrument, HISTOGRAM)),
    }

    def with_instruments(kind: type) -> type:
        """A subclass of vLLM's class that uses these instruments."""
        return type(kind.__name__, (kind,), kinds)

    class Logger(with_instruments(PrometheusStatLogger)):  # type: ignore[misc]
        """vLLM's logger with these instruments; as a subclass, it replaces vLLM's default logger."""

        _spec_decoding_cls = with_instruments(SpecDecodingProm)
        _kv_connector_cls = with_instruments(KVConnectorProm)
        _ec_connector_cls = with_instruments(ECConnectorProm)
        _perf_metrics_cls = with_instruments(PerfMetricsProm)

        def __init__(self, vllm_config: VllmConfig, engine_indexes: list[int] | None = None) -> None:
            """See vLLM."""
            with lock:
                super().__init__(vllm_config, engine_indexes)
                self._is_single = len(self.engine_indexes) == 1 and self.gauge_lora_info is None
                self._latest: SchedulerStats | None = None
                statistics.before_read = self._record_latest

        def record(
            self,
            scheduler_stats: SchedulerStats | None,
            iteration_stats: IterationStats | None,
            mm_cache_stats: Any = None,
            engine_idx: int = 0,
        ) -> None:
            """See vLLM. Has a fast path for steps that only generate tokens, which most do."""
            with lock:
                if (
                    self._is_single
                    and mm_cache_stats is None
                    and _has_only_tokens(scheduler_stats, iteration_stats)
                ):
                    assert iteration_stats is not None
                    self._latest = scheduler_stats
                    tokens = iteration_stats.num_generation_tokens
                    self.counter_generation_tokens[engine_idx].inc(tokens)
                    self.histogram_iteration_tokens[engine_idx].observe(tokens)
                    observe = self.histogram_inter_token_latency[engine_idx].observe
                    for latency in iteration_stats.inter_token_latencies_iter:
                        observe(latency)
                    return
                self._latest = None
                super().record(scheduler_stats, iteration_stats, mm_cache_stats, engine_idx)

        def _record_latest(self) -> None:
            """Record the current scheduler state before metrics are read."""
            if self._latest is not None:
                super().record(self._latest, None, None, self.engine_indexes[0])
                self._latest = None

    return Logger


def _has_only_tokens(scheduled: SchedulerStats | None, step: IterationStats | None) -> bool:
    """Whether a step only generated tokens, so that vLLM's logger would record nothing else."""
    return (
        scheduled is not None
        and step is not None
        and not (
            step.finished_requests
            or step.time_to_first_tokens_iter
            or step.prompt_token_stats.total
            or step.num_preempted_reqs
            or step.num_corrupted_reqs
            or step.max_num_generation_tokens_iter
            or step.n_params_iter
            or scheduled.prefix_cache_stats.queries
            or scheduled.kv_cache_eviction_events
        )
        and scheduled.connector_prefix_cache_stats is None
        and scheduled.spec_decoding_stats is None
        and scheduled.kv_connector_stats is None
        and scheduled.ec_connector_stats is None
        and scheduled.perf_stats is None
    )
