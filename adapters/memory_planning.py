"""From what was set for each engine to a memory plan: reads the shapes of models and the flags of engines."""

import os
from collections.abc import Mapping

import msgspec

from adapters.models.locate import LocatedModel
from adapters.models.shape import UnknownShapeError, read_shape
from adapters.vllm.dialect.memory_flags import memory_flags
from domain.memory_plan import Card, EngineRequirements, GpuBudget, MemoryPlan, UnknownCacheError, make_plan
from domain.roles import Role

CPU_ELEMENT_BYTES = 4
"""Engines on the CPU compute in float32 unless a flag says otherwise (`adapters.vllm.inprocess.engine_args`)."""


class EngineOptions(msgspec.Struct, frozen=True, kw_only=True):
    """What was set for one engine. What is None is chosen: the model for the machine, the rest by the plan."""

    model: str | None = None
    flags: str = ""
    """The user's own, for vLLM; they win over everything else."""
    context: int | None = None
    """Tokens of the longest request."""
    concurrency: int | None = None
    """Requests of that length at a time."""
    budget: GpuBudget | None = None


def plan_engines(
    card: Card, models: Mapping[Role, LocatedModel], options: Mapping[Role, EngineOptions]
) -> MemoryPlan:
    """The plan for engines that share a card, or a machine's memory.

    Raises:
        UnknownShapeError: a model, or a flag, is of a kind that no plan can be made for.
        ConfigurationError: an option can't be had on any card.
    """
    return plan_requirements(card, [requirements(role, models[role], options[role], card) for role in models])


def plan_requirements(card: Card, engines: list[EngineRequirements]) -> MemoryPlan:
    """The plan for requirements that are known; raises as `plan_engines` does."""
    try:
        return make_plan(card, engines)
    except UnknownCacheError as error:
        raise UnknownShapeError(str(error)) from error


def requirements(role: Role, model: LocatedModel, options: EngineOptions, card: Card) -> EngineRequirements:
    """What one engine requires, by its flags, then its options, then its model.

    Raises:
        UnknownShapeError: the model, or a flag, is of a kind that no plan can be made for.
    """
    flags = memory_flags(options.flags)
    if flags.unplanned is not None:
        raise UnknownShapeError(f"The memory plan does not know what {flags.unplanned} does to an engine.")
    context, shape = flags.context or options.context, read_shape(model.name, model.source)
    if context and os.environ.get("VLLM_ALLOW_LONG_MAX_MODEL_LEN", "").strip().lower() in ("1", "true"):
        shape = msgspec.structs.replace(shape, longest_context=max(context, shape.allowed_context))
    cache_dtype = flags.cache_dtype or "auto"
    budget = None
    if card.is_gpu:
        share = int(flags.share * card.total_bytes) if flags.share is not None else None
        budget = share or (options.budget.bytes_on(card) if options.budget is not None else None)
    return EngineRequirements(
        role=role,
        shape=shape,
        context=context,
        concurrency=options.concurrency,
        batched_tokens=flags.batched_tokens,
        sequences=flags.sequences,
        cache_dtype=shape.cache_dtype if cache_dtype == "auto" else cache_dtype,
        element_bytes=flags.element_bytes or (None if card.is_gpu else CPU_ELEMENT_BYTES),
        cache_bytes=flags.cache_bytes,
        budget_bytes=budget,
        eager=flags.eager,
    )
