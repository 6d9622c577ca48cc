"""From what somebody has chosen for each engine to a plan: the model's shape, and what the flags say."""

import os

import msgspec

from adapters.models.shape import UnknownShapeError, read_shape
from adapters.vllm.dialect.memory_flags import memory_flags
from domain.memory_plan import Card, EngineWish, MemoryPlan, UnknownCacheError, make_plan
from domain.roles import Role

CPU_ELEMENT_BYTES = 4
"""Engines on the CPU compute in float32 unless told otherwise (`adapters.vllm.inprocess.engine_args`)."""


class EngineChoice(msgspec.Struct, frozen=True, kw_only=True):
    """One engine as it was chosen. What is None the plan decides."""

    role: Role
    name: str
    source: str
    """Local folder or hub name."""
    flags: str = ""
    """The user's own, for vLLM; they win over everything else."""
    context: int | None = None
    concurrency: int | None = None
    cache_dtype: str | None = None
    budget_bytes: int | None = None
    budget_change: str | None = None
    """What to do if that is too little, as a sentence."""


def plan_engines(card: Card, choices: list[EngineChoice]) -> MemoryPlan:
    """The plan for engines that share a card, or a machine's memory.

    Raises:
        UnknownShapeError: a model, or a flag, is of a kind that no plan can be made for.
        ConfigurationError: a choice can't be had on any card.
    """
    try:
        return make_plan(card, [_wish(choice, card) for choice in choices])
    except UnknownCacheError as error:
        raise UnknownShapeError(str(error)) from error


def _wish(choice: EngineChoice, card: Card) -> EngineWish:
    flags = memory_flags(choice.flags)
    if flags.unplanned is not None:
        raise UnknownShapeError(f"The memory plan does not know what {flags.unplanned} does to an engine.")
    context, shape = flags.context or choice.context, read_shape(choice.name, choice.source)
    if context and os.environ.get("VLLM_ALLOW_LONG_MAX_MODEL_LEN", "").strip().lower() in ("1", "true"):
        shape = msgspec.structs.replace(shape, longest_context=max(context, shape.allowed_context))
    cache_dtype = flags.cache_dtype or choice.cache_dtype or "auto"
    share = int(flags.share * card.total_bytes) if flags.share is not None and card.is_gpu else None
    return EngineWish(
        role=choice.role,
        shape=shape,
        context=context,
        concurrency=choice.concurrency,
        batched_tokens=flags.batched_tokens,
        sequences=flags.sequences,
        cache_dtype=shape.cache_dtype if cache_dtype == "auto" else cache_dtype,
        element_bytes=flags.element_bytes or (None if card.is_gpu else CPU_ELEMENT_BYTES),
        cache_bytes=flags.cache_bytes,
        budget_bytes=share or choice.budget_bytes,
        budget_change=None if share or flags.cache_bytes else choice.budget_change,
        eager=flags.eager,
    )
