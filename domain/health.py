"""How a role is doing, as `GET /health` tells it."""

import enum
from typing import Literal

import msgspec

from domain.load import Load
from domain.roles import Role


class BackendState(enum.StrEnum):
    """Where an engine stands."""

    STARTING = "starting"
    READY = "ready"
    BUSY = "busy"
    """It serves, and more waits than it works on: not a sick one."""
    UNAVAILABLE = "unavailable"
    """It was ready and is out of reach, or has not been reached yet; it is tried again."""
    DEAD = "dead"
    """Its process has ended; a new one is started."""
    HUNG = "hung"
    """Its process is there and does nothing; a new one is started."""
    FAILED = "failed"
    """It can't start, or was lost too often; it is tried again after a long while, or when told to."""
    DRAINING = "draining"
    """The service is ending: what is under way is answered, and nothing new is taken."""
    STOPPED = "stopped"


SERVING = (BackendState.READY, BackendState.BUSY)
"""The states in which requests are taken."""


class Fault(msgspec.Struct, frozen=True, kw_only=True):
    """Something that went wrong with an engine."""

    message: str
    at: str
    """ISO 8601, UTC, whole seconds."""


class BreakerState(enum.StrEnum):
    """Whether requests are let through to a server."""

    CLOSED = "closed"
    """All are."""
    OPEN = "open"
    """None are: too many have failed."""
    HALF_OPEN = "half-open"
    """One is, to see whether it is well again."""


class MemberHealth(msgspec.Struct, frozen=True, kw_only=True):
    """State of one of the servers behind a role."""

    address: str
    """Host and port."""
    state: BackendState
    """Only a ready one gets requests; an unavailable one has been ejected and is readmitted when it answers."""
    breaker: BreakerState
    outstanding: int
    """Work under way: inputs to embed, choices to write."""
    ejections: int
    last_error: str | None
    """What went wrong last, though it may be long ago; None if nothing did."""


class MemoryPart(msgspec.Struct, frozen=True, kw_only=True):
    """One thing that an engine needs memory for."""

    name: str
    """weights, kv_cache, activations, and cuda_graphs, cuda_context, buffer on a GPU, or processes on the CPU."""
    bytes: int


class EngineMemory(msgspec.Struct, frozen=True, kw_only=True):
    """An engine's memory, planned and as it is: of the card on a GPU, and of the machine on the CPU."""

    planned: list[MemoryPart]
    """Their sum is what the plan gives the engine."""
    measured_bytes: int | None = None
    """What its processes hold, some seconds ago; None while there are none, or where nobody can tell."""
    kv_cache_planned_bytes: int
    """Also among `planned`."""
    kv_cache_bytes: int | None = None
    """The KV cache that vLLM says it has; None until the engine has started."""


class MemoryMeter:
    """A backend that knows what its engine holds."""

    def memory(self) -> EngineMemory | None:
        """Planned and measured now. Asks the operating system or the driver: some ten milliseconds."""
        raise NotImplementedError  # Not abstract: layers are looked for by class, and mypy wants that concrete.


class BackendHealth(msgspec.Struct, frozen=True, kw_only=True):
    """State of one role."""

    state: BackendState
    reason: str | None
    """Why, in one sentence; None while all is well."""
    model: str | None
    since: str
    """When this state began: ISO 8601, UTC, whole seconds."""
    restarts: int = 0
    """How often the engine was lost and started again."""
    last_error: Fault | None = None
    """The latest reason for a state in which requests were not taken; it stays when all is well again."""
    queue: Load | None = None
    members: list[MemberHealth] | None = None
    """The servers behind it, in the order of the setting; None for an engine that is no server."""
    memory: EngineMemory | None = None
    """None for an engine that runs elsewhere, and for a model whose shape could not be read."""


def with_load(health: BackendHealth, load: Load) -> BackendHealth:
    """The state of a role with what it has to do."""
    is_busy = health.state is BackendState.READY and load.waiting > 0
    return msgspec.structs.replace(health, queue=load, state=BackendState.BUSY if is_busy else health.state)


class CacheStats(msgspec.Struct, frozen=True, kw_only=True):
    """What the cache of embeddings has done since the start."""

    hits: int
    """Inputs whose vector was there."""
    shared: int
    """Inputs whose vector was being computed for somebody else."""
    misses: int
    """Inputs that were computed."""
    entries: int
    bytes: int
    max_bytes: int


class GpuMemory(msgspec.Struct, frozen=True, kw_only=True):
    """Memory of the card, whoever uses it."""

    used_gib: float
    total_gib: float


class ServiceHealth(msgspec.Struct, frozen=True, kw_only=True):
    """State of the service: ok only if every role serves."""

    status: Literal["ok", "unavailable"]
    backends: dict[Role, BackendHealth]
    tasks: int
    """Tasks of the service's event loop: some for each request under way, and a few that stay."""
    embedding_cache: CacheStats | None = None
    """None where there is no cache."""
    gpu_memory: GpuMemory | None = None
    """As it was some seconds ago; None without a GPU."""


def service_health(
    backends: dict[Role, BackendHealth],
    *,
    tasks: int,
    embedding_cache: CacheStats | None = None,
    gpu_memory: GpuMemory | None = None,
) -> ServiceHealth:
    """The sum of all roles."""
    ready = all(health.state in SERVING for health in backends.values())
    return ServiceHealth(
        status="ok" if ready else "unavailable",
        backends=backends,
        tasks=tasks,
        embedding_cache=embedding_cache,
        gpu_memory=gpu_memory,
    )
