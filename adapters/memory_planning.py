"""Plans engine memory from each engine's settings, its vLLM flags and the shape of its model."""

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
    """Settings of one engine. If None, the model is chosen for this machine and the rest by the plan."""

    model: str | None = None
    flags: str = ""
    """The user's vLLM flags, which override everything else."""
    context: int | None = None
    """Maximum tokens of a request."""
    concurrency: int | None = None
    """Concurrent requests of that length."""
    budget: GpuBudget | None = None


def plan_engines(
    card: Card, models: Mapping[Role, LocatedModel], options: Mapping[Role, EngineOptions]
) -> MemoryPlan:
    """Plan engines that share a GPU or a machine's memory.

    Raises:
        UnknownShapeError: the planner does not support a model or a flag.
        ConfigurationError: no GPU can satisfy an option.
    """
    return plan_requirements(card, [requirements(role, models[role], options[role], card) for role in models])


def plan_requirements(card: Card, engines: list[EngineRequirements]) -> MemoryPlan:
    """Plan engines of known requirements; raises the same errors as `plan_engines`."""
    try:
        return make_plan(card, engines)
    except UnknownCacheError as error:
        raise UnknownShapeError(str(error)) from error


def requirements(role: Role, model: LocatedModel, options: EngineOptions, card: Card) -> EngineRequirements:
    """The requirements of one engine, from its flags first, then its options, then its model.

    Raises:
        UnknownShapeError: the planner does not support the model or a flag.
    """
    flags = memory_flags(options.flags)
    if flags.unsupported is not None:
        raise UnknownShapeError(f"The memory planner does not support the flag {flags.unsupported}.")
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
