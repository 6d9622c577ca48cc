"""What to change when a plan does not fit, in order of least loss."""

from collections.abc import Callable, Iterator

import msgspec

from domain.backend import Role
from domain.memory_plan.types import Card, Change, EngineWish, MemoryPlan

Planner = Callable[[Card, list[EngineWish]], MemoryPlan]
GIB = 2**30
SMALL_BATCH, FEW_SEQUENCES = 512, 16
FP8_CAPABILITY = 8.9
SHORTEST = {Role.EMBED: 512, Role.GENERATE: 2048}
NAMES = {Role.EMBED: "embedding", Role.GENERATE: "generation"}


def changes(plan: MemoryPlan, wishes: list[EngineWish], planner: Planner) -> list[Change]:
    """Changes, each on top of those before it, until the plan fits or nothing is left to change."""
    told: list[Change] = []
    missing, current = plan.missing_bytes, wishes
    for what, changed in _steps(plan, wishes):
        # Each step changes one engine; what was changed of it before stays.
        current = [changed(wish) for wish in current]
        now = planner(plan.card, current)
        if now.missing_bytes < missing:
            told.append(Change(what=what, saves_bytes=missing - now.missing_bytes, fits_then=now.fits))
            missing = now.missing_bytes
        if now.fits:
            return told
    kind = "a card with" if plan.card.is_gpu else "free memory of"
    size = -(-(plan.card.total_bytes + missing * 26 // 25) // GIB)
    models = " or ".join(f"{NAMES[engine.role]}" for engine in plan.engines)
    told.append(
        Change(
            what=f"Take a smaller or more quantised {models} model, or {kind} {size} GiB.",
            saves_bytes=missing,
            fits_then=True,
        )
    )
    return told


Changed = Callable[[EngineWish], EngineWish]


def _steps(plan: MemoryPlan, wishes: list[EngineWish]) -> Iterator[tuple[str, Changed]]:
    """Instructions with what they do to the wishes."""
    for wish in wishes:
        if wish.budget_bytes is not None or wish.cache_bytes is not None:
            yield (
                f"Leave the memory of the {NAMES[wish.role]} engine to the plan.",
                _for(wish.role, budget_bytes=None, cache_bytes=None),
            )
    for wish in wishes:
        if wish.concurrency is not None and wish.concurrency > 1:
            fewer = wish.concurrency
            while fewer > 1:
                fewer = max(1, fewer // 2)
                yield (
                    f"Ask for {fewer} {NAMES[wish.role]} request(s) of full length at a time, not "
                    f"{wish.concurrency}; more will wait.",
                    _for(wish.role, concurrency=fewer),
                )
    for wish in wishes:
        if (wish.sequences or 0) > FEW_SEQUENCES or (wish.batched_tokens or 0) > SMALL_BATCH:
            yield (
                f"Leave the batches of the {NAMES[wish.role]} engine to the plan (max_num_seqs, "
                "max_num_batched_tokens).",
                _for(wish.role, sequences=None, batched_tokens=None),
            )
    for wish in sorted(wishes, key=lambda wish: wish.role is Role.GENERATE):
        length = wish.context
        while length is not None and length > SHORTEST[wish.role]:
            length = max(SHORTEST[wish.role], length // 2)
            yield (
                f"Shorten the context of the {NAMES[wish.role]} engine to {length} tokens.",
                _for(wish.role, context=length),
            )
    yield from _gpu_steps(plan.card, wishes)


def _gpu_steps(card: Card, wishes: list[EngineWish]) -> Iterator[tuple[str, Changed]]:
    if not card.is_gpu:
        return
    if card.capability is None or float(card.capability) >= FP8_CAPABILITY:
        for wish in wishes:
            if wish.cache_dtype == "auto" and not wish.shape.is_encoder:
                yield (
                    f"Keep the cache of the {NAMES[wish.role]} engine in FP8 (--kv-cache-dtype fp8): half the "
                    "size, a little less exact.",
                    _for(wish.role, cache_dtype="fp8"),
                )
    for wish in wishes:
        if not wish.eager:
            yield (
                f"Run the {NAMES[wish.role]} engine without CUDA graphs (--enforce-eager): slower, above all for "
                "few requests.",
                _for(wish.role, eager=True),
            )


def _for(role: Role, **what: object) -> Changed:
    def change(wish: EngineWish) -> EngineWish:
        return msgspec.structs.replace(wish, **what) if wish.role is role else wish

    return change
