"""What to change when a plan does not fit, in order of least loss."""

from collections.abc import Callable, Iterator
from typing import Any

import msgspec

from domain.memory_plan.types import Card, Change, EngineWish, MemoryPlan
from domain.roles import Role

Planner = Callable[[Card, list[EngineWish]], MemoryPlan]
GIB = 2**30
SMALL_BATCH, FEW_SEQUENCES = 512, 16
FP8_CAPABILITY = 8.9
SHORTEST = {Role.EMBED: 512, Role.GENERATE: 2048}
NAMES = {Role.EMBED: "embedding", Role.GENERATE: "generation"}


class Step(msgspec.Struct, frozen=True, kw_only=True):
    """Something that could be changed."""

    kind: str
    """Of two steps of one kind, the later one contains the earlier one."""
    what: str
    role: Role
    wish: dict[str, Any]
    """What becomes of the engine's wish."""

    def applied(self, wishes: list[EngineWish]) -> list[EngineWish]:
        """The wishes, one of them changed."""
        return [msgspec.structs.replace(wish, **self.wish) if wish.role is self.role else wish for wish in wishes]


def changes(plan: MemoryPlan, wishes: list[EngineWish], planner: Planner) -> list[Change]:
    """Changes, each on top of those before it, until the plan fits or nothing is left to change."""
    told: list[Change] = []
    told_kind = ""
    missing, current = plan.missing_bytes, wishes
    for step in _steps(plan.card, wishes):
        current = step.applied(current)
        now = planner(plan.card, current)
        saved = missing - now.missing_bytes
        if saved > 0:
            before = told.pop().saves_bytes if step.kind == told_kind else 0
            told.append(Change(what=step.what, saves_bytes=before + saved, fits_then=now.fits))
            missing, told_kind = now.missing_bytes, step.kind
        if now.fits:
            return told
    return [*told, _last_resort(plan, missing)]


def _last_resort(plan: MemoryPlan, missing: int) -> Change:
    # A larger card has a larger reserve, too.
    size = -(-(plan.card.total_bytes + missing * 26 // 25) // GIB)
    more = f"a card with {size} GiB" if plan.card.is_gpu else f"a machine with {-(-missing // GIB)} GiB more"
    models = " or ".join(NAMES[engine.role] for engine in plan.engines)
    return Change(
        what=f"Take a smaller or more quantised {models} model, or {more}.", saves_bytes=missing, fits_then=True
    )


def _steps(card: Card, wishes: list[EngineWish]) -> Iterator[Step]:
    """What could be changed, in order of least loss."""
    # The embedder first, whatever it is about: it has less to lose.
    wishes = sorted(wishes, key=lambda wish: wish.role is Role.GENERATE)
    for steps in (_budget, _concurrency, _batches, _context):
        for wish in wishes:
            yield from steps(wish)
    if card.is_gpu:
        for wish in wishes:
            yield from _quantised_cache(wish, card)
        for wish in wishes:
            yield from _eager(wish)


def _budget(wish: EngineWish) -> Iterator[Step]:
    if wish.budget_bytes is not None or wish.cache_bytes is not None:
        yield Step(
            kind=f"budget {wish.role}",
            what=wish.budget_change or f"Leave the memory of the {NAMES[wish.role]} engine to the plan.",
            role=wish.role,
            wish={"budget_bytes": None, "cache_bytes": None},
        )


def _concurrency(wish: EngineWish) -> Iterator[Step]:
    fewer = wish.concurrency or 1
    while fewer > 1:
        fewer = fewer * 3 // 4
        yield Step(
            kind=f"concurrency {wish.role}",
            what=f"Ask for {fewer} {NAMES[wish.role]} request(s) of full length at a time; more will wait.",
            role=wish.role,
            wish={"concurrency": fewer},
        )


def _batches(wish: EngineWish) -> Iterator[Step]:
    if (wish.sequences or 0) > FEW_SEQUENCES or (wish.batched_tokens or 0) > SMALL_BATCH:
        yield Step(
            kind=f"batches {wish.role}",
            what=f"Leave the batches of the {NAMES[wish.role]} engine to the plan (max_num_seqs, "
            "max_num_batched_tokens).",
            role=wish.role,
            wish={"sequences": None, "batched_tokens": None},
        )


def _context(wish: EngineWish) -> Iterator[Step]:
    length = wish.context or 0
    while length > SHORTEST[wish.role]:
        length = max(SHORTEST[wish.role], length // 2)
        yield Step(
            kind=f"context {wish.role}",
            what=f"Shorten the context of the {NAMES[wish.role]} engine to {length} tokens.",
            role=wish.role,
            wish={"context": length},
        )


def _quantised_cache(wish: EngineWish, card: Card) -> Iterator[Step]:
    can = card.capability is None or float(card.capability) >= FP8_CAPABILITY
    if can and wish.cache_dtype == "auto" and not wish.shape.is_encoder:
        yield Step(
            kind=f"cache {wish.role}",
            what=f"Keep the cache of the {NAMES[wish.role]} engine in FP8 (--kv-cache-dtype fp8): half the size, "
            "a little less exact.",
            role=wish.role,
            wish={"cache_dtype": "fp8"},
        )


def _eager(wish: EngineWish) -> Iterator[Step]:
    if not wish.eager:
        yield Step(
            kind=f"eager {wish.role}",
            what=f"Run the {NAMES[wish.role]} engine without CUDA graphs (--enforce-eager): slower, above all for "
            "few requests.",
            role=wish.role,
            wish={"eager": True},
        )
