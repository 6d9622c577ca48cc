"""The question and answer of `memoria plan`; None means that the settings, the machine or the plan decide."""

import shlex
from collections.abc import Mapping

import msgspec

from app.settings import GIB_RULE, parse_gib
from domain.errors import ConfigurationError
from domain.memory_plan import MemoryPlan
from domain.roles import Role
from domain.units import GIB


class EngineQuestion(msgspec.Struct, frozen=True, kw_only=True):
    """The command's options for one engine."""

    model: str | None = None
    context: int | None = None
    """Context length in tokens."""
    concurrency: int | None = None
    """Concurrent requests of that length."""
    kv_cache_dtype: str | None = None

    @property
    def flags(self) -> str:
        """The options that correspond to vLLM's flags, as flags."""
        context = f" --max-model-len {self.context}" if self.context is not None else ""
        cache = f" --kv-cache-dtype {shlex.quote(self.kv_cache_dtype)}" if self.kv_cache_dtype else ""
        return f"{context}{cache}".strip()


class PlanQuestion(msgspec.Struct, frozen=True, kw_only=True):
    """The command's options."""

    gpu_bytes: int | None = None
    """Memory of the card to plan for; None for this machine."""
    gpu_name: str | None = None
    engines: Mapping[Role, EngineQuestion] = {}

    def of(self, role: Role) -> EngineQuestion:
        """The options for one engine."""
        return self.engines.get(role, EngineQuestion())


class AnsweredPlan(msgspec.Struct, frozen=True, kw_only=True):
    """A plan, and the flags that apply it."""

    plan: MemoryPlan
    models: dict[Role, str]
    """For each engine, its model as a setting names it: a packaged model, an absolute path, or a hub name."""
    memory_flags: dict[Role, str]
    """For each engine, the flags that apply the plan."""
    other_flags: dict[Role, str]
    """For each engine, the other flags from the settings."""


def card_bytes(written: str | None) -> int | None:
    """Parse the size of a card, such as 24GiB.

    Raises:
        ConfigurationError: it is not a size.
    """
    if written is None:
        return None
    gib = parse_gib(written)
    if gib is None:
        raise ConfigurationError(f"--gpu-memory is '{written}'; it {GIB_RULE}.")
    return int(gib * GIB)
