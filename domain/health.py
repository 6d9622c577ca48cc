"""How a role is doing, as `GET /health` tells it."""

import enum
from typing import Literal

import msgspec

from domain.backend import Role


class BackendState(enum.StrEnum):
    """Where an engine stands."""

    STARTING = "starting"
    READY = "ready"
    UNAVAILABLE = "unavailable"
    """It was ready and is out of reach, or has not been reached yet; it is tried again."""
    FAILED = "failed"
    """It can't start, or it ended; it will not come back by itself."""
    STOPPED = "stopped"


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


class BackendHealth(msgspec.Struct, frozen=True, kw_only=True):
    """State of one role."""

    state: BackendState
    reason: str | None
    """Why, in one sentence; None while all is well."""
    model: str | None
    since: str
    """When this state began: ISO 8601, UTC, whole seconds."""
    members: list[MemberHealth] | None = None
    """The servers behind it, in the order of the setting; None for an engine that is no server."""


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


class ServiceHealth(msgspec.Struct, frozen=True, kw_only=True):
    """State of the service: ok only if every role serves."""

    status: Literal["ok", "unavailable"]
    backends: dict[Role, BackendHealth]
    tasks: int
    """Tasks of the service's event loop: some for each request under way, and a few that stay."""
    embedding_cache: CacheStats | None = None
    """None where there is no cache."""


def service_health(
    backends: dict[Role, BackendHealth], *, tasks: int, embedding_cache: CacheStats | None = None
) -> ServiceHealth:
    """The sum of all roles."""
    ready = all(health.state is BackendState.READY for health in backends.values())
    return ServiceHealth(
        status="ok" if ready else "unavailable", backends=backends, tasks=tasks, embedding_cache=embedding_cache
    )
