"""What `memoria plan` is asked; what is None comes from the settings, the machine or the plan."""

import shlex
from collections.abc import Mapping

import msgspec

from app.settings import GIB_RULE, parse_gib
from domain.errors import ConfigurationError
from domain.memory_plan import MemoryPlan
from domain.roles import Role
from domain.units import GIB


class EngineQuestion(msgspec.Struct, frozen=True, kw_only=True):
    """What is asked of one engine."""

    model: str | None = None
    context: int | None = None
    """Tokens of the longest request."""
    concurrency: int | None = None
    """Requests of that length at a time."""
    kv_cache_dtype: str | None = None

    @property
    def flags(self) -> str:
        """What can be said by vLLM's flags, as such."""
        context = f" --max-model-len {self.context}" if self.context is not None else ""
        cache = f" --kv-cache-dtype {shlex.quote(self.kv_cache_dtype)}" if self.kv_cache_dtype else ""
        return f"{context}{cache}".strip()


class PlanQuestion(msgspec.Struct, frozen=True, kw_only=True):
    """The options of the command."""

    gpu_bytes: int | None = None
    """Memory of a card to plan for; None for this machine."""
    gpu_name: str | None = None
    engines: Mapping[Role, EngineQuestion] = {}

    def of(self, role: Role) -> EngineQuestion:
        """The part for one engine."""
        return self.engines.get(role, EngineQuestion())


class AnsweredPlan(msgspec.Struct, frozen=True, kw_only=True):
    """A plan, and the flags that make it so."""

    plan: MemoryPlan
    models: dict[Role, str]
    """For each engine, its model as a setting names it: packaged, a folder's whole path, or on the hub."""
    memory_flags: dict[Role, str]
    """For each engine, what follows from the plan."""
    other_flags: dict[Role, str]
    """For each engine, what the settings say besides."""


def card_bytes(written: str | None) -> int | None:
    """The size of a card as it is written: 24GiB.

    Raises:
        ConfigurationError: it is no size.
    """
    if written is None:
        return None
    gib = parse_gib(written)
    if gib is None:
        raise ConfigurationError(f"--gpu-memory is '{written}'; it {GIB_RULE}.")
    return int(gib * GIB)
