"""Plans how much memory each engine gets.

How vLLM 0.32.0 sizes an engine (`vllm.v1.worker.gpu_worker`, `vllm.v1.worker.utils.request_memory`), and the
consequences for several engines on one card:

* It does not start unless `gpu_memory_utilization` of the whole card is free, regardless of other flags. So the
  plan gives each engine its own share, rounded down.
* By default, it measures the memory use of the whole card during its start, including other engines' allocations.
  With `kv_cache_memory_bytes` it does not measure. So the plan sets each engine's cache in bytes.
* It does not start unless the cache holds one request of `max_model_len`
  (`vllm.v1.core.kv_cache_utils.check_enough_kv_cache_memory`). So that is the minimum that a plan gives.

A pooling engine gets the memory that its requests need, because more cache does not make it faster. Generating
engines share the rest.
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
"""Default number of concurrent requests of full length. Most requests are much shorter."""
CPU_CACHE = GIB
SHOWN_CONTEXTS = (512, 2048, 8192, 16384, 32768, 65536, 131072)
NO_START = "Not possible with this plan."
TOGETHER_RESERVE = GIB
"""Minimum reserve for starting engines together: their peaks coincide, and estimates may be too low."""


def make_plan(card: Card, engines: list[EngineRequirements]) -> MemoryPlan:
    """Plan the memory of engines on a card, or in system memory.

    Args:
        card: the memory that they share.
        engines: one or more; the plan chooses values that are None.

    Returns:
        A plan with its engines in the order of `ROLES`. If it does not fit, it says how much memory is missing and
        what to change.

    Raises:
        ConfigurationError: a requirement can't be met on any card.
        UnknownCacheError: the planner does not support a cache type.
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
            f"A context of {engine.context} tokens exceeds the maximum of the {engine.role} model "
            f"'{engine.shape.name}', which is {engine.shape.allowed_context}."
        )


def _gpu_plan(card: Card, engines: list[EngineRequirements]) -> MemoryPlan:
    """The plan with the largest sizes that fit, or with the smallest sizes if none fit."""
    enough = least = last = None
    for tried in gpu_sizes(card, engines):
        last = _gpu_plan_of(card, engines, tried, USUAL_REQUESTS)
        if last.fits:
            enough = last
            break
        if least is None:
            # As a fallback, prefer one long request at a time to two short ones.
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
    # An engine's own budget may be too small for it, and the total of all engines too large for the card.
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
        return NO_START
    if together:
        return "In parallel or one after the other: each KV cache has a fixed size, so no engine measures memory."
    return "One after the other: too little memory is left for the engines to peak at the same time."


class _Draft:
    """One engine with fixed sizes, before its cache is sized."""

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
        """Whether more memory makes the engine faster, and no setting limits its memory."""
        engine = self.engine
        is_open = engine.budget_bytes is None and engine.cache_bytes is None
        return is_open and self.generates and self.cache.block_bytes > 0

    @property
    def least_bytes(self) -> int:
        """The engine's memory as set, or the minimum that meets its requirements."""
        if self.engine.cache_bytes is not None and self.cache.block_bytes:
            return self.fixed_bytes + self.engine.cache_bytes
        if self.engine.budget_bytes is not None:
            return self.engine.budget_bytes
        return self.fixed_bytes + self.needed

    def plan(self, card: Card, given: int) -> EnginePlan:
        """The engine's plan with the given bytes."""
        size, cache, block = self.size, self.cache, self.cache.block_bytes
        bytes_left = max(0, given - self.fixed_bytes)
        # Whole blocks, unless the size was set: vLLM rounds down as well.
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
    """The plan for engines on the CPU: a fixed cache size unless more is required, and vLLM's default batches."""
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
        start="In parallel: engines on the CPU do not measure memory." if not missing else NO_START,
        changes=[],
    )


def _cpu_draft(engine: EngineRequirements) -> _Draft:
    """A draft with the longest context of which one request fits into the cache, or else the shortest."""
    drafts = [
        _Draft(engine, sizes(engine, context, *CPU_BATCH), 1, on_gpu=False) for context in cpu_contexts(engine)
    ]
    room = engine.cache_bytes or CPU_CACHE
    return next((draft for draft in drafts if draft.needed <= room), drafts[-1])


def _cpu_cache(draft: _Draft) -> int:
    return draft.engine.cache_bytes or max(CPU_CACHE, draft.needed)
