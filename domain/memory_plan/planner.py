"""The plan: how much memory each engine gets.

How vLLM 0.32.0 sizes an engine (`vllm.v1.worker.gpu_worker`, `vllm.v1.worker.utils.request_memory`), and what
follows for several of them on one card:

* It refuses to start unless `gpu_memory_utilization` of the whole card is free, whatever else is set. So each
  engine gets its own share here, rounded down.
* Left alone, it measures what the whole card lost while it started, other engines' allocations included. With
  `kv_cache_memory_bytes` it measures nothing. So each engine gets its cache in bytes.
* It refuses to start unless the cache holds one request of `max_model_len`
  (`vllm.v1.core.kv_cache_utils.check_enough_kv_cache_memory`). So that is the least that a plan gives.

A pooling engine gets what its requests need, because more cache makes nothing faster. Engines that generate
share the rest.
"""

import msgspec

from domain.errors import ConfigurationError
from domain.health import MemoryPart
from domain.memory_plan.advice import changes
from domain.memory_plan.kv_cache import CacheShape, cache_shape
from domain.memory_plan.parts import (
    BUFFER,
    CPU_PROCESSES,
    CUDA_CONTEXT,
    activation_bytes,
    graph_bytes,
    reserve_bytes,
)
from domain.memory_plan.sizes import CPU_BATCH, Sizes, cpu_contexts, gpu_sizes, sizes
from domain.memory_plan.types import Card, EnginePlan, EngineRequirements, Fitting, MemoryPlan
from domain.roles import ROLES
from domain.units import GIB

USUAL_REQUESTS = 2
"""Requests of the full length that fit at a time, if no setting says how many. Most are much shorter."""
CPU_CACHE = GIB
SHOWN_CONTEXTS = (512, 2048, 8192, 16384, 32768, 65536, 131072)
TOGETHER_RESERVE = GIB
"""Engines that start together reach their peaks together; so much has to be left for estimates that were wrong."""


def make_plan(card: Card, engines: list[EngineRequirements]) -> MemoryPlan:
    """The plan for engines on a card, or in a machine's memory.

    Args:
        card: the memory that they share.
        engines: one or more; what is None in them is decided here.

    Returns:
        A plan, its engines in the order of `ROLES`. If it does not fit, it says what is missing and what to
        change.

    Raises:
        ConfigurationError: a requirement can't be met on any card.
        UnknownCacheError: a cache is of a kind that the plan does not know.
    """
    for engine in engines:
        _require_possible(engine)
    engines = sorted(engines, key=lambda engine: list(ROLES).index(engine.role))
    planner = _gpu_plan if card.is_gpu else _cpu_plan
    plan = planner(card, engines)
    return plan if plan.fits else msgspec.structs.replace(plan, changes=changes(plan, engines, planner))


def _require_possible(engine: EngineRequirements) -> None:
    if engine.context is not None and engine.context > engine.shape.allowed_context:
        raise ConfigurationError(
            f"A context of {engine.context} tokens is more than the {engine.role} model '{engine.shape.name}' was "
            f"made for, which is {engine.shape.allowed_context}."
        )


def _gpu_plan(card: Card, engines: list[EngineRequirements]) -> MemoryPlan:
    """The first sizes with which everything fits, or, if none do, the smallest."""
    enough = least = last = None
    for tried in gpu_sizes(card, engines):
        last = _gpu_plan_of(card, engines, tried, USUAL_REQUESTS)
        if last.fits:
            enough = last
            break
        if least is None:
            # Better one long request at a time than two short ones, if it is one or the other at the very end.
            single = _gpu_plan_of(card, engines, tried, 1)
            least = single if single.fits else None
    plan = enough or least or last
    assert plan is not None
    return plan


def _gpu_plan_of(card: Card, engines: list[EngineRequirements], tried: list[Sizes], usual: int) -> MemoryPlan:
    reserve = reserve_bytes(card.total_bytes, on_gpu=True)
    room = card.free_bytes - reserve
    drafts = [_Draft(engine, size, usual, on_gpu=True) for engine, size in zip(engines, tried, strict=True)]
    spare = max(0, room - sum(draft.least_bytes for draft in drafts))
    takers = sum(draft.takes_spare for draft in drafts)
    given = [draft.least_bytes + (spare // takers if draft.takes_spare else 0) for draft in drafts]
    plans = [draft.plan(card, amount) for draft, amount in zip(drafts, given, strict=True)]
    left = room - sum(given)
    # What was set for an engine may be too little for it; what the others need may be too much for the card.
    missing = max(0, -left) + sum(plan.missing_bytes for plan in plans)
    together = not missing and reserve >= TOGETHER_RESERVE
    return MemoryPlan(
        fits=missing == 0,
        card=card,
        reserve_bytes=reserve,
        engines=plans,
        free_bytes=max(0, left),
        missing_bytes=missing,
        may_start_together=together,
        start=_start_sentence(together, fits=not missing),
        changes=[],
    )


def _start_sentence(together: bool, *, fits: bool) -> str:
    if not fits:
        return "Not at all, as it is."
    if together:
        return "At once or one after the other: the cache of each is a fixed number of bytes, so none measures."
    return "One after the other: too little is left over for two that reach their peaks at the same moment."


class _Draft:
    """One engine with its sizes fixed, before its cache is."""

    def __init__(self, engine: EngineRequirements, size: Sizes, usual: int, *, on_gpu: bool) -> None:
        self.engine = engine
        self.generates = ROLES[engine.role].generates
        self.size = size
        self.on_gpu = on_gpu
        shape = engine.shape
        element = engine.element_bytes or (min(shape.dtype_bytes, 2) if on_gpu else shape.dtype_bytes)
        self.cache: CacheShape = cache_shape(shape, engine.cache_dtype, element, on_gpu=on_gpu)
        requests = engine.concurrency or usual
        self.needed = self.cache.bytes_for(requests, size.context, size.batched_tokens)
        weights = shape.weight_bytes(element, with_output_head=self.generates)
        activations = activation_bytes(
            shape,
            generates=self.generates,
            batched_tokens=size.batched_tokens,
            sequences=size.sequences,
            element_bytes=element,
        )
        self.fixed = [("weights", weights), ("activations", activations)]
        if on_gpu:
            self.fixed += [
                ("cuda_graphs", graph_bytes(shape, sequences=size.sequences, eager=engine.eager)),
                ("cuda_context", CUDA_CONTEXT),
                ("buffer", BUFFER),
            ]
        else:
            self.fixed.append(("processes", CPU_PROCESSES))
        self.fixed_bytes = sum(amount for _name, amount in self.fixed)

    @property
    def takes_spare(self) -> bool:
        """Whether more memory makes the engine faster, and no setting says how much it has."""
        engine = self.engine
        is_open = engine.budget_bytes is None and engine.cache_bytes is None
        return is_open and self.generates and self.cache.block_bytes > 0

    @property
    def least_bytes(self) -> int:
        """All bytes of the engine that were set, or else those with which it does what it has to."""
        if self.engine.cache_bytes is not None and self.cache.block_bytes:
            return self.fixed_bytes + self.engine.cache_bytes
        if self.engine.budget_bytes is not None:
            return self.engine.budget_bytes
        return self.fixed_bytes + self.needed

    def plan(self, card: Card, given: int) -> EnginePlan:
        """The engine's plan with so many bytes."""
        size, cache, block = self.size, self.cache, self.cache.block_bytes
        bytes_left = max(0, given - self.fixed_bytes)
        # Whole blocks, unless a number was asked for: vLLM rounds down as well.
        cache_bytes = self.engine.cache_bytes or bytes_left // block * block if block else 0
        parts = [self.fixed[0], ("kv_cache", cache_bytes), *self.fixed[1:]]
        total = sum(amount for _name, amount in parts)
        share = min(max(given, total), card.total_bytes) * 10_000 // card.total_bytes / 10_000
        lengths = sorted({*(c for c in SHOWN_CONTEXTS if c < size.context), size.context})
        return EnginePlan(
            role=self.engine.role,
            model=self.engine.shape.name,
            parts=[MemoryPart(name=name, bytes=amount) for name, amount in parts if amount],
            total_bytes=total,
            max_model_len=size.context,
            limits_context=size.context < self.engine.shape.allowed_context or self.engine.context is not None,
            max_num_batched_tokens=size.batched_tokens,
            max_num_seqs=size.sequences,
            kv_cache_dtype=self.engine.cache_dtype,
            kv_cache_memory_bytes=cache_bytes,
            kv_cache_needed_bytes=self.needed,
            kv_bytes_per_token=cache.bytes_per_token,
            kv_block_bytes=block,
            gpu_memory_utilization=max(share, 0.0001) if self.on_gpu else None,
            enforce_eager=self.engine.eager,
            fitting=[
                Fitting(
                    context=length,
                    requests=min(size.sequences, cache.requests_in(cache_bytes, length, size.batched_tokens)),
                )
                for length in lengths
                if block
            ],
            missing_bytes=max(0, self.needed - cache_bytes) + max(0, self.fixed_bytes - given),
        )


def _cpu_plan(card: Card, engines: list[EngineRequirements]) -> MemoryPlan:
    """Engines on the CPU: a cache of one size unless more is asked for, and vLLM's own batches."""
    drafts = [_cpu_draft(engine) for engine in engines]
    plans = [
        draft.plan(card, draft.fixed_bytes + (_cpu_cache(draft) if draft.cache.block_bytes else 0))
        for draft in drafts
    ]
    reserve = reserve_bytes(card.total_bytes, on_gpu=False)
    left = card.free_bytes - reserve - sum(plan.total_bytes for plan in plans)
    missing = max(0, -left) + sum(plan.missing_bytes for plan in plans)
    return MemoryPlan(
        fits=missing == 0,
        card=card,
        reserve_bytes=reserve,
        engines=plans,
        free_bytes=max(0, left),
        missing_bytes=missing,
        may_start_together=not missing,
        start="At once: engines on the CPU measure nothing." if not missing else "Not at all, as it is.",
        changes=[],
    )


def _cpu_draft(engine: EngineRequirements) -> _Draft:
    """The longest context of which one request fits into the usual cache, or the shortest."""
    drafts = [
        _Draft(engine, sizes(engine, context, *CPU_BATCH), 1, on_gpu=False) for context in cpu_contexts(engine)
    ]
    room = engine.cache_bytes or CPU_CACHE
    return next((draft for draft in drafts if draft.needed <= room), drafts[-1])


def _cpu_cache(draft: _Draft) -> int:
    return draft.engine.cache_bytes or max(CPU_CACHE, draft.needed)
