"""Exposes the service's state as metrics, read on demand."""

import contextlib
import importlib.metadata
import platform
import time
from collections.abc import Awaitable, Callable, Mapping

import msgspec
import psutil

from app.telemetry import instruments
from app.telemetry.metrics import Metrics
from domain.batches import BatchStatus
from domain.health import BackendHealth, BackendState, BreakerState, CacheStats, MemberHealth, ServiceHealth
from domain.roles import Role
from domain.units import GIB

MEMORY_INTERVAL_S = 5.0
SERVICE = "service"
"""Value of the `process` label for the service's own memory; engines have their role."""


class Retries(msgspec.Struct, frozen=True):
    """Counts of retried requests, and of those that failed after all retries."""

    made: int
    given_up: int


class AnsweredLines(msgspec.Struct, frozen=True):
    """Counts of lines of batches: those with an answer, and those with an error."""

    completed: int
    failed: int


class ServiceState:
    """Copies `health`, and counters kept elsewhere, into metrics."""

    def __init__(
        self,
        metrics: Metrics,
        health: Callable[[], ServiceHealth],
        *,
        retries: Mapping[Role, Callable[[], Retries]],
    ) -> None:
        """Register as a source of the metrics.

        Args:
            metrics: updated by `read`.
            health: returns the current state.
            retries: by role, returns the counts; only for roles with retries.
        """
        self._metrics = metrics
        self._health = health
        self._retries = retries
        version = importlib.metadata.version("memoria-vllm")
        metrics.set(instruments.BUILD_INFO, 1, version, platform.python_version())
        metrics.sources.append(self.read)

    def read(self) -> None:
        """Update the metrics. Takes about 0.1 ms."""
        health, metrics = self._health(), self._metrics
        metrics.set(instruments.SERVICE_READY, health.status == "ok")
        for role, backend in health.backends.items():
            self._read_backend(role.value, backend)
        for role, retries in self._retries.items():
            counted = retries()
            metrics.count_to(instruments.RETRIES, counted.made, role.value)
            metrics.count_to(instruments.RETRIES_GIVEN_UP, counted.given_up, role.value)
        if health.embedding_cache is not None:
            self._read_cache(health.embedding_cache)
        if health.gpu_memory is not None:
            metrics.set(instruments.GPU_USED, health.gpu_memory.used_gib * GIB)
            metrics.set(instruments.GPU_LIMIT, health.gpu_memory.total_gib * GIB)

    def _read_backend(self, role: str, health: BackendHealth) -> None:
        metrics = self._metrics
        metrics.set_state(instruments.ENGINE_STATE, health.state, BackendState, role)
        metrics.count_to(instruments.ENGINE_RESTARTS, health.restarts, role)
        for member in health.members or ():
            self._read_server(role, member)
        if health.queue is None:
            return
        queue, bounds = health.queue, health.queue.bounds
        metrics.set(instruments.RUNNING, queue.running, role)
        metrics.set(instruments.WAITING, queue.waiting, role)
        metrics.set(instruments.RUNNING_TOKENS, queue.running_tokens, role)
        metrics.set(instruments.WAITING_TOKENS, queue.waiting_tokens, role)
        for name, load in queue.classes.items():
            metrics.set(instruments.CLASS_RUNNING, load.running, role, name)
            metrics.set(instruments.CLASS_WAITING, load.waiting, role, name)
        metrics.set(instruments.RUNNING_LIMIT, bounds.max_running, role)
        metrics.set(instruments.WAITING_LIMIT, bounds.max_waiting, role)
        metrics.set(instruments.RUNNING_TOKENS_LIMIT, bounds.max_running_tokens, role)
        metrics.set(instruments.WAITING_TOKENS_LIMIT, bounds.max_waiting_tokens, role)

    def _read_server(self, role: str, member: MemberHealth) -> None:
        metrics, labels = self._metrics, (role, member.address)
        metrics.set_state(instruments.SERVER_STATE, member.state, BackendState, *labels)
        metrics.set_state(instruments.SERVER_BREAKER, member.breaker, BreakerState, *labels)
        metrics.set(instruments.SERVER_OUTSTANDING, member.outstanding, *labels)
        metrics.count_to(instruments.SERVER_EJECTIONS, member.ejections, *labels)

    def _read_cache(self, cache: CacheStats) -> None:
        metrics = self._metrics
        metrics.count_to(instruments.CACHE_INPUTS, cache.hits, "hit")
        metrics.count_to(instruments.CACHE_INPUTS, cache.shared, "shared")
        metrics.count_to(instruments.CACHE_INPUTS, cache.misses, "miss")
        metrics.set(instruments.CACHE_ENTRIES, cache.entries)
        metrics.set(instruments.CACHE_SIZE, cache.bytes)
        metrics.set(instruments.CACHE_LIMIT, cache.max_bytes)


class BatchesState:
    """Copies what is known of batches into metrics."""

    def __init__(
        self,
        metrics: Metrics,
        unfinished: Callable[[], Awaitable[Mapping[BatchStatus, int]]],
        lines: Callable[[], AnsweredLines],
    ) -> None:
        """Register as a source of the metrics.

        Args:
            metrics: updated by `read`.
            unfinished: returns how many batches have each of the statuses of those that have not ended.
            lines: returns the lines that this process has answered.
        """
        self._metrics = metrics
        self._unfinished = unfinished
        self._lines = lines
        metrics.waiting_sources.append(self.read)

    async def read(self) -> None:
        """Update the metrics."""
        lines, metrics = self._lines(), self._metrics
        metrics.count_to(instruments.BATCH_LINES, lines.completed, "completed")
        metrics.count_to(instruments.BATCH_LINES, lines.failed, "failed")
        for status, count in (await self._unfinished()).items():
            metrics.set(instruments.BATCHES_UNFINISHED, count, status.value)


class ProcessMemory:
    """Measures the memory of the service and its engines, at most every `MEMORY_INTERVAL_S`."""

    def __init__(self, metrics: Metrics, engines: Mapping[Role, Callable[[], list[int]]]) -> None:
        """Register as a source of the metrics.

        Args:
            metrics: updated by `read`.
            engines: by role, returns the process ids of an engine that runs in process.
        """
        self._metrics = metrics
        self._engines = engines
        self._measured_at = -MEMORY_INTERVAL_S
        metrics.slow_sources.append(self.read)

    def read(self) -> None:
        """Update the metrics. Takes some milliseconds; called in a thread."""
        if time.monotonic() - self._measured_at < MEMORY_INTERVAL_S:
            return
        self._measured_at = time.monotonic()
        self._metrics.set(instruments.PROCESS_MEMORY, psutil.Process().memory_info().rss, SERVICE)
        for role, ids in self._engines.items():
            self._metrics.set(instruments.PROCESS_MEMORY, sum(map(_resident, ids())), role.value)


def _resident(pid: int) -> int:
    with contextlib.suppress(psutil.Error):
        return int(psutil.Process(pid).memory_info().rss)
    return 0
