"""What goes into a plan and what comes out."""

import msgspec

from domain.health import MemoryPart
from domain.memory_plan.shapes import ModelShape
from domain.roles import Role
from domain.units import GIB


class Card(msgspec.Struct, frozen=True, kw_only=True):
    """The memory that engines share: a GPU's, or the machine's for engines on the CPU."""

    name: str
    total_bytes: int
    used_bytes: int = 0
    """Memory that other programs hold now."""
    capability: str | None = None
    """CUDA compute capability, such as 8.9; None if it is not known."""
    is_gpu: bool = True

    @property
    def free_bytes(self) -> int:
        """Memory that no program holds now."""
        return self.total_bytes - self.used_bytes

    @property
    def capability_number(self) -> tuple[int, int] | None:
        """The compute capability as two numbers that can be compared; None if it is not known."""
        major, _, minor = (self.capability or "").partition(".")
        return (int(major), int(minor)) if major.isdigit() and minor.isdigit() else None


class GpuBudget(msgspec.Struct, frozen=True):
    """Memory of the GPU that was set for one engine: a share of it, or a size. One of the two is set."""

    fraction: float | None = None
    gib: float | None = None

    def bytes_on(self, card: Card) -> int:
        """The same in bytes of a card."""
        if self.fraction is not None:
            return int(self.fraction * card.total_bytes)
        return int((self.gib or 0) * GIB)


class EngineRequirements(msgspec.Struct, frozen=True, kw_only=True):
    """One engine: its model, and what was set for it. What is None the plan decides."""

    role: Role
    shape: ModelShape
    context: int | None = None
    """Tokens of the longest request."""
    concurrency: int | None = None
    """Requests of that length at a time."""
    batched_tokens: int | None = None
    sequences: int | None = None
    cache_dtype: str = "auto"
    element_bytes: int | None = None
    """Size of the type to compute in; None for the model's own, or 16 bits where that is 32 and on a GPU."""
    cache_bytes: int | None = None
    """The key/value cache, exactly."""
    budget_bytes: int | None = None
    """All that the engine may take together."""
    budget_change: str | None = None
    """What to do if that is too little, as a sentence; None to leave it to the plan."""
    eager: bool = False
    """Whether it runs without CUDA graphs."""


class Fitting(msgspec.Struct, frozen=True, kw_only=True):
    """How many requests of one length fit at a time."""

    context: int
    requests: int


class EnginePlan(msgspec.Struct, frozen=True, kw_only=True):
    """One engine's memory and the settings that make it so."""

    role: Role
    model: str
    parts: list[MemoryPart]
    """Their sum is what the engine is given."""
    total_bytes: int
    """The sum of the parts."""
    max_model_len: int
    limits_context: bool
    """Whether that is less than the model can, or was set."""
    max_num_batched_tokens: int
    max_num_seqs: int
    kv_cache_dtype: str
    kv_cache_memory_bytes: int
    kv_cache_needed_bytes: int
    """The smallest cache that does what was asked for."""
    kv_bytes_per_token: int
    kv_block_bytes: int
    gpu_memory_utilization: float | None
    """Share of the card, rounded down: vLLM starts only if so much is free. None on the CPU."""
    enforce_eager: bool
    fitting: list[Fitting]
    """Of some lengths, how many at a time; empty for a model that keeps no cache."""
    missing_bytes: int = 0
    """What its cache lacks."""


class Change(msgspec.Struct, frozen=True, kw_only=True):
    """Something to change, after everything before it in the list."""

    what: str
    """An instruction."""
    saves_bytes: int
    """Of what is missing."""
    fits_then: bool


class MemoryPlan(msgspec.Struct, frozen=True, kw_only=True):
    """All engines on one card, or in one machine's memory."""

    fits: bool
    card: Card
    reserve_bytes: int
    """Left to the driver, or to other programs."""
    engines: list[EnginePlan]
    free_bytes: int
    """Given to no engine, and not reserved either."""
    missing_bytes: int
    """How much more it would take; 0 if it fits."""
    may_start_together: bool
    """Whether the engines may start at the same time, and not only one after the other."""
    start: str
    """Why, in one sentence."""
    changes: list[Change]
    """If it does not fit: what to change, in order of least loss, until it does."""

    def engine(self, role: Role) -> EnginePlan | None:
        """The plan of one role, if there is one."""
        return next((engine for engine in self.engines if engine.role is role), None)
