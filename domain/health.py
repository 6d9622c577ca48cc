"""Health of roles and of the service, as `GET /health` reports it."""

import enum
from typing import Literal

import msgspec

from domain.load import Load
from domain.roles import Role


class BackendState(enum.StrEnum):
    """State of an engine."""

    STARTING = "starting"
    READY = "ready"
    BUSY = "busy"
    """It serves, and requests wait in the queue; this is not a failure."""
    UNAVAILABLE = "unavailable"
    """It is unreachable; it is probed until it answers."""
    DEAD = "dead"
    """Its process has ended; it is restarted."""
    HUNG = "hung"
    """Its process makes no progress; it is restarted."""
    FAILED = "failed"
    """It can't start, or crashed too often; it is restarted after a long delay, or on request."""
    DRAINING = "draining"
    """The service is shutting down: requests in progress are finished, and new ones are rejected."""
    STOPPED = "stopped"


SERVING = (BackendState.READY, BackendState.BUSY)
"""The states in which requests are accepted."""


class Fault(msgspec.Struct, frozen=True, kw_only=True):
    """A failure of an engine."""

    message: str
    at: str
    """ISO 8601, UTC, whole seconds."""


class BreakerState(enum.StrEnum):
    """State of a server's circuit breaker."""

    CLOSED = "closed"
    """All requests pass."""
    OPEN = "open"
    """No requests pass: too many have failed."""
    HALF_OPEN = "half-open"
    """One trial request passes, to check whether the server has recovered."""


class MemberHealth(msgspec.Struct, frozen=True, kw_only=True):
    """State of one server behind a role."""

    address: str
    """Host and port."""
    state: BackendState
    """Only a ready server gets requests; an unavailable one is out of rotation until it answers."""
    breaker: BreakerState
    outstanding: int
    """Work in progress: inputs to embed, choices to generate."""
    ejections: int
    last_error: str | None
    """The latest error, however long ago; None if there was none."""


class MemoryPart(msgspec.Struct, frozen=True, kw_only=True):
    """One part of an engine's memory."""

    name: str
    """weights, kv_cache, activations, and cuda_graphs, cuda_context, buffer on a GPU, or processes on the CPU."""
    bytes: int


class EngineMemory(msgspec.Struct, frozen=True, kw_only=True):
    """An engine's planned and measured memory: GPU memory on a GPU, system memory on the CPU."""

    planned: list[MemoryPart]
    """Their sum is the engine's memory in the plan."""
    measured_bytes: int | None = None
    """Memory of its processes some seconds ago; None while it has none, or if it can't be measured."""
    kv_cache_planned_bytes: int
    """Also included in `planned`."""
    kv_cache_bytes: int | None = None
    """The size of the KV cache that vLLM reports; None until the engine has started."""


class MemoryMeter:
    """A backend that reports its engine's memory."""

    def memory(self) -> EngineMemory | None:
        """Planned and measured memory. Queries the operating system or the driver, which takes about 10 ms."""
        raise NotImplementedError  # Not abstract: `layer` takes the class, and mypy requires a concrete one.


class BackendHealth(msgspec.Struct, frozen=True, kw_only=True):
    """State of one role."""

    state: BackendState
    reason: str | None
    """The reason for the state, in one sentence; None if it is ready."""
    model: str | None
    since: str
    """When this state began: ISO 8601, UTC, whole seconds."""
    restarts: int = 0
    """How often the engine was lost and restarted."""
    last_error: Fault | None = None
    """The latest failure that made the role unavailable; kept after recovery."""
    queue: Load | None = None
    members: list[MemberHealth] | None = None
    """The servers of the role, in the order of the setting; None for an in-process engine."""
    memory: EngineMemory | None = None
    """None for a remote engine, and for a model whose shape could not be read."""


def with_load(health: BackendHealth, load: Load) -> BackendHealth:
    """Add the load of a role to its health; a ready role with waiting requests is busy."""
    is_busy = health.state is BackendState.READY and load.waiting > 0
    return msgspec.structs.replace(health, queue=load, state=BackendState.BUSY if is_busy else health.state)


class CacheStats(msgspec.Struct, frozen=True, kw_only=True):
    """Statistics of the embedding cache since the start."""

    hits: int
    """Inputs whose vector was cached."""
    shared: int
    """Inputs whose vector was already being computed for another request."""
    misses: int
    """Inputs that were computed."""
    entries: int
    bytes: int
    max_bytes: int


class GpuMemory(msgspec.Struct, frozen=True, kw_only=True):
    """Memory of the GPU, used by any process."""

    used_gib: float
    total_gib: float


class ServiceHealth(msgspec.Struct, frozen=True, kw_only=True):
    """Health of the service: ok only if every role serves."""

    status: Literal["ok", "unavailable"]
    backends: dict[Role, BackendHealth]
    tasks: int
    """Tasks of the service's event loop: several per request in progress, and a few permanent ones."""
    embedding_cache: CacheStats | None = None
    """None if there is no cache."""
    gpu_memory: GpuMemory | None = None
    """Measured some seconds ago; None without a GPU."""


def service_health(
    backends: dict[Role, BackendHealth],
    *,
    tasks: int,
    embedding_cache: CacheStats | None = None,
    gpu_memory: GpuMemory | None = None,
) -> ServiceHealth:
    """The health of the service from that of all roles."""
    ready = all(health.state in SERVING for health in backends.values())
    return ServiceHealth(
        status="ok" if ready else "unavailable",
        backends=backends,
        tasks=tasks,
        embedding_cache=embedding_cache,
        gpu_memory=gpu_memory,
    )
