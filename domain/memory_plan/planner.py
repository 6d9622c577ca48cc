"""The plan: who gets how much.

How vLLM 0.32.0 sizes an engine (`vllm.v1.worker.gpu_worker`, `vllm.v1.worker.utils.request_memory`), and what
follows for two of them on one card:

* It refuses to start unless `gpu_memory_utilization` of the whole card is free, whatever else is set. So each
  engine gets its own share here, rounded down.
* Left alone, it measures what the whole card lost while it started, its neighbour's allocations included. With
  `kv_cache_memory_bytes` it measures nothing. So each engine gets its cache in bytes.
* It refuses to start unless the cache holds one request of `max_model_len`
  (`vllm.v1.core.kv_cache_utils.check_enough_kv_cache_memory`). So that is the least that a plan gives.

The embedder gets what it was asked to do, because more cache makes nothing faster; the generator gets the rest.
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
    GIB,
    activation_bytes,
    graph_bytes,
    reserve_bytes,
)
from domain.memory_plan.sizes import CPU_BATCH, Sizes, cpu_contexts, gpu_sizes, sizes
from domain.memory_plan.types import Card, EnginePlan, EngineWish, Fitting, MemoryPlan
from domain.roles import Role

USUAL_REQUESTS = 2
"""Requests of the full length that fit at a time, if nobody says how many. Most are much shorter."""
CPU_CACHE = GIB
SHOWN_CONTEXTS = (512, 2048, 8192, 16384, 32768, 65536, 131072)
TOGETHER_RESERVE = GIB
"""Engines that start together reach their peaks together; so much has to be left for estimates that were wrong."""


def make_plan(card: Card, wishes: list[EngineWish]) -> MemoryPlan:
    """The plan for engines on a card, or in a machine's memory.

    Args:
        card: what is there.
        wishes: one for each engine; what is None in them is decided here.

    Returns:
        A plan, which may not fit: then it says what is missing and what to change.

    Raises:
        ConfigurationError: a wish can't be had on any card.
        UnknownCacheError: a cache is of a kind that the plan does not know.
    """
    for wish in wishes:
        _require_possible(wish)
    plan = _gpu_plan(card, wishes) if card.is_gpu else _cpu_plan(card, wishes)
    if plan.fits:
        return plan
    return msgspec.structs.replace(plan, changes=changes(plan, wishes, _gpu_plan if card.is_gpu else _cpu_plan))


def _require_possible(wish: EngineWish) -> None:
    if wish.context is not None and wish.context > wish.shape.allowed_context:
        raise ConfigurationError(
            f"A context of {wish.context} tokens is more than the {wish.role} model '{wish.shape.name}' was made "
            f"for, which is {wish.shape.allowed_context}."
        )


def _gpu_plan(card: Card, wishes: list[EngineWish]) -> MemoryPlan:
    """The first sizes with which everything fits, or, if none do, the smallest."""
    enough = least = last = None
    for tried in gpu_sizes(card, wishes):
        last = _gpu_plan_of(card, wishes, tried, USUAL_REQUESTS)
        if last.fits:
            enough = last
            break
        if least is None:
            # Better one long request at a time than two short ones, if it is one or the other at the very end.
            single = _gpu_plan_of(card, wishes, tried, 1)
            least = single if single.fits else None
    plan = enough or least or last
    assert plan is not None
    return plan


def _gpu_plan_of(card: Card, wishes: list[EngineWish], tried: dict[Role, Sizes], usual: int) -> MemoryPlan:
    reserve = reserve_bytes(card.total_bytes, on_gpu=True)
    left = card.total_bytes - card.used_bytes - reserve
    drafts = [_Draft(wish, tried[wish.role], usual, on_gpu=True) for wish in wishes]
    # Who has a budget or wants only what it needs comes first; the rest is for whoever can use it.
    drafts.sort(key=lambda draft: draft.takes_the_rest)
    engines = []
    for draft in drafts:
        given = draft.given(left)
        left -= given
        engines.append(draft.plan(card, given))
    # What was decided for an engine may be too little for it; what others need may be too much for the card.
    missing = max(0, -left) + sum(engine.missing_bytes for engine in engines)
    engines.sort(key=lambda engine: list(Role).index(engine.role))
    together = not missing and reserve >= TOGETHER_RESERVE
    return MemoryPlan(
        fits=missing == 0,
        card=card,
        reserve_bytes=reserve,
        engines=engines,
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
    """One engine with its sizes fixed, before it is known how much there is for it."""

    def __init__(self, wish: EngineWish, size: Sizes, usual: int, *, on_gpu: bool) -> None:
        self.wish = wish
        self.size = size
        self.on_gpu = on_gpu
        element = wish.element_bytes or (min(wish.shape.dtype_bytes, 2) if on_gpu else wish.shape.dtype_bytes)
        self.cache: CacheShape = cache_shape(wish.shape, wish.cache_dtype, element, on_gpu=on_gpu)
        requests = wish.concurrency or usual
        self.needed = self.cache.bytes_for(requests, size.context, size.batched_tokens)
        weights = wish.shape.weight_bytes(element, with_output_head=wish.role is Role.GENERATE)
        activations = activation_bytes(
            wish.shape,
            wish.role,
            batched_tokens=size.batched_tokens,
            sequences=size.sequences,
            element_bytes=element,
        )
        self.fixed = [("weights", weights), ("activations", activations)]
        if on_gpu:
            self.fixed += [
                ("cuda_graphs", graph_bytes(wish.shape, sequences=size.sequences, eager=wish.eager)),
                ("cuda_context", CUDA_CONTEXT),
                ("buffer", BUFFER),
            ]
        else:
            self.fixed.append(("processes", CPU_PROCESSES))
        self.fixed_bytes = sum(amount for _name, amount in self.fixed)

    @property
    def takes_the_rest(self) -> bool:
        """Whether more memory makes it better, and nobody has said how much it may have."""
        wish = self.wish
        is_open = wish.budget_bytes is None and wish.cache_bytes is None
        return is_open and wish.role is Role.GENERATE and self.cache.block_bytes > 0

    def given(self, left: int) -> int:
        """All bytes of the engine, out of those that are left; more than these if it can't do with them."""
        if self.wish.cache_bytes is not None and self.cache.block_bytes:
            return self.fixed_bytes + self.wish.cache_bytes
        if self.wish.budget_bytes is not None:
            return self.wish.budget_bytes
        if self.takes_the_rest:
            return max(left, self.fixed_bytes + self.needed)
        return self.fixed_bytes + self.needed

    def plan(self, card: Card, given: int) -> EnginePlan:
        """The engine's plan with so many bytes."""
        size, cache, block = self.size, self.cache, self.cache.block_bytes
        bytes_left = max(0, given - self.fixed_bytes)
        # Whole blocks, unless a number was asked for: vLLM rounds down as well.
        cache_bytes = self.wish.cache_bytes or bytes_left // block * block if block else 0
        parts = [self.fixed[0], ("kv_cache", cache_bytes), *self.fixed[1:]]
        total = sum(amount for _name, amount in parts)
        share = min(max(given, total), card.total_bytes) * 10_000 // card.total_bytes / 10_000
        lengths = sorted({*(c for c in SHOWN_CONTEXTS if c < size.context), size.context})
        return EnginePlan(
            role=self.wish.role,
            model=self.wish.shape.name,
            parts=[MemoryPart(name=name, bytes=amount) for name, amount in parts if amount],
            total_bytes=total,
            max_model_len=size.context,
            limits_context=size.context < self.wish.shape.allowed_context or self.wish.context is not None,
            max_num_batched_tokens=size.batched_tokens,
            max_num_seqs=size.sequences,
            kv_cache_dtype=self.wish.cache_dtype,
            kv_cache_memory_bytes=cache_bytes,
            kv_cache_needed_bytes=self.needed,
            kv_bytes_per_token=cache.bytes_per_token,
            kv_block_bytes=block,
            gpu_memory_utilization=max(share, 0.0001) if self.on_gpu else None,
            enforce_eager=self.wish.eager,
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


def _cpu_plan(card: Card, wishes: list[EngineWish]) -> MemoryPlan:
    """Engines on the CPU: a cache of one size unless more is asked for, and vLLM's own batches."""
    drafts = [_cpu_draft(wish) for wish in wishes]
    engines = [
        draft.plan(card, draft.fixed_bytes + (_cpu_cache(draft) if draft.cache.block_bytes else 0))
        for draft in drafts
    ]
    reserve = reserve_bytes(card.total_bytes, on_gpu=False)
    left = card.total_bytes - card.used_bytes - reserve - sum(engine.total_bytes for engine in engines)
    missing = max(0, -left) + sum(engine.missing_bytes for engine in engines)
    return MemoryPlan(
        fits=missing == 0,
        card=card,
        reserve_bytes=reserve,
        engines=engines,
        free_bytes=max(0, left),
        missing_bytes=missing,
        may_start_together=not missing,
        start="At once: engines on the CPU measure nothing." if not missing else "Not at all, as it is.",
        changes=[],
    )


def _cpu_draft(wish: EngineWish) -> _Draft:
    """The longest context of which one request fits into the usual cache, or the shortest."""
    drafts = [_Draft(wish, sizes(wish, context, *CPU_BATCH), 1, on_gpu=False) for context in cpu_contexts(wish)]
    room = wish.cache_bytes or CPU_CACHE
    return next((draft for draft in drafts if draft.needed <= room), drafts[-1])


def _cpu_cache(draft: _Draft) -> int:
    return draft.wish.cache_bytes or max(CPU_CACHE, draft.needed)
