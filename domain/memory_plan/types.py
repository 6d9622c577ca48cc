"""Input and output of the planner."""

import msgspec

from domain.health import MemoryPart
from domain.memory_plan.shapes import ModelShape
from domain.roles import Role
from domain.units import GIB


class Card(msgspec.Struct, frozen=True, kw_only=True):
    """The memory that engines share: GPU memory, or system memory for engines on the CPU."""

    name: str
    total_bytes: int
    used_bytes: int = 0
    """Memory that other programs hold now."""
    capability: str | None = None
    """CUDA compute capability, such as 8.9; None if unknown."""
    is_gpu: bool = True

    @property
    def free_bytes(self) -> int:
        """Memory that no program holds now."""
        return self.total_bytes - self.used_bytes

    @property
    def capability_number(self) -> tuple[int, int] | None:
        """The compute capability as two comparable numbers; None if unknown."""
        major, _, minor = (self.capability or "").partition(".")
        return (int(major), int(minor)) if major.isdigit() and minor.isdigit() else None


class GpuBudget(msgspec.Struct, frozen=True):
    """GPU memory budget of one engine: a fraction or a size. Exactly one of the two is set."""

    fraction: float | None = None
    gib: float | None = None

    def bytes_on(self, card: Card) -> int:
        """The budget in bytes on a card."""
        if self.fraction is not None:
            return int(self.fraction * card.total_bytes)
        return int((self.gib or 0) * GIB)


class EngineRequirements(msgspec.Struct, frozen=True, kw_only=True):
    """One engine: its model and settings. The plan chooses values that are None."""

    role: Role
    shape: ModelShape
    context: int | None = None
    """Context length in tokens."""
    concurrency: int | None = None
    """Concurrent requests of that length."""
    batched_tokens: int | None = None
    sequences: int | None = None
    cache_dtype: str = "auto"
    element_bytes: int | None = None
    """Size of the compute type; None for the model's own, or 16 bits on a GPU if that is 32 bits."""
    cache_bytes: int | None = None
    """Exact size of the KV cache."""
    budget_bytes: int | None = None
    """Total memory of the engine."""
    budget_change: str | None = None
    """What to do if the budget is too small, as a sentence; None for the default advice."""
    eager: bool = False
    """Whether it runs without CUDA graphs."""


class Fitting(msgspec.Struct, frozen=True, kw_only=True):
    """Number of concurrent requests of one length that fit."""

    context: int
    requests: int


class EnginePlan(msgspec.Struct, frozen=True, kw_only=True):
    """Planned memory and flags of one engine."""

    role: Role
    model: str
    parts: list[MemoryPart]
    """Their sum is the engine's memory."""
    total_bytes: int
    """The sum of the parts."""
    max_model_len: int
    limits_context: bool
    """Whether `max_model_len` was set, or is less than the model's maximum."""
    max_num_batched_tokens: int
    max_num_seqs: int
    kv_cache_dtype: str
    kv_cache_memory_bytes: int
    kv_cache_needed_bytes: int
    """The smallest cache that meets the requirements."""
    kv_bytes_per_token: int
    kv_block_bytes: int
    gpu_memory_utilization: float | None
    """Share of the card, rounded down: vLLM starts only if it is free. None on the CPU."""
    enforce_eager: bool
    fitting: list[Fitting]
    """Concurrent requests for several lengths; empty for a model without a cache."""
    missing_bytes: int = 0
    """How much more memory the engine needs."""


class Change(msgspec.Struct, frozen=True, kw_only=True):
    """A suggested change, in addition to those before it in the list."""

    what: str
    """An instruction."""
    saves_bytes: int
    """By how much it reduces the missing memory."""
    fits_then: bool


class MemoryPlan(msgspec.Struct, frozen=True, kw_only=True):
    """The plan for all engines on one card, or in system memory."""

    fits: bool
    card: Card
    reserve_bytes: int
    """Reserved for the driver, or for other programs."""
    engines: list[EnginePlan]
    free_bytes: int
    """Memory that is neither given to an engine nor reserved."""
    missing_bytes: int
    """How much more memory is needed; 0 if the plan fits."""
    may_start_together: bool
    """Whether the engines may start in parallel."""
    start: str
    """How they may start and why, in one sentence."""
    changes: list[Change]
    """If the plan does not fit: changes that make it fit, least costly first."""

    def engine(self, role: Role) -> EnginePlan | None:
        """The plan of one role, if there is one."""
        return next((engine for engine in self.engines if engine.role is role), None)
