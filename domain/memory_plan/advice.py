"""Suggests changes that make a plan fit, least costly first."""

from collections.abc import Callable, Iterator
from typing import Any

import msgspec

from domain.memory_plan.types import Card, Change, EngineRequirements, MemoryPlan
from domain.roles import ROLES
from domain.units import GIB

Planner = Callable[[Card, list[EngineRequirements]], MemoryPlan]
SMALL_BATCH, FEW_SEQUENCES = 512, 16
FP8_CAPABILITY = (8, 9)


class Step(msgspec.Struct, frozen=True, kw_only=True):
    """A possible change of one engine's requirements."""

    kind: str
    """A later step of the same kind for the same engine replaces the earlier one."""
    what: str
    values: dict[str, Any]
    """New values of fields of the requirements."""


def changes(plan: MemoryPlan, engines: list[EngineRequirements], planner: Planner) -> list[Change]:
    """Changes, each in addition to those before it, until the plan fits or no further change is possible."""
    found: list[Change] = []
    last_kind: tuple[int, str] | None = None
    missing, current = plan.missing_bytes, list(engines)
    for index, step in _steps(plan.card, engines):
        current[index] = msgspec.structs.replace(current[index], **step.values)
        now = planner(plan.card, current)
        saved = missing - now.missing_bytes
        if saved > 0:
            before = found.pop().saves_bytes if (index, step.kind) == last_kind else 0
            found.append(Change(what=step.what, saves_bytes=before + saved, fits_then=now.fits))
            missing, last_kind = now.missing_bytes, (index, step.kind)
        if now.fits:
            return found
    return [*found, _last_resort(plan, missing)]


def _last_resort(plan: MemoryPlan, missing: int) -> Change:
    # A larger card has a larger reserve.
    size = -(-(plan.card.total_bytes + missing * 26 // 25) // GIB)
    more = f"a card with {size} GiB" if plan.card.is_gpu else f"a machine with {-(-missing // GIB)} GiB more"
    models = " or ".join(ROLES[engine.role].noun for engine in plan.engines)
    return Change(
        what=f"Use a smaller or more quantized {models} model, or {more}.", saves_bytes=missing, fits_then=True
    )


def _steps(card: Card, engines: list[EngineRequirements]) -> Iterator[tuple[int, Step]]:
    """Possible steps, least costly first, with the index of the engine that each one changes."""
    # For each step pooling engines come first, because it costs them less.
    order = sorted(range(len(engines)), key=lambda index: ROLES[engines[index].role].generates)
    for steps in (_budget, _concurrency, _batches, _context, _quantized_cache, _eager):
        for index in order:
            for step in steps(engines[index], card):
                yield index, step


def _budget(engine: EngineRequirements, _card: Card) -> Iterator[Step]:
    if engine.budget_bytes is not None or engine.cache_bytes is not None:
        yield Step(
            kind="budget",
            what=engine.budget_change
            or f"Let the plan choose the memory of the {ROLES[engine.role].noun} engine.",
            values={"budget_bytes": None, "cache_bytes": None},
        )


def _concurrency(engine: EngineRequirements, _card: Card) -> Iterator[Step]:
    fewer = engine.concurrency or 1
    while fewer > 1:
        fewer = fewer * 3 // 4
        yield Step(
            kind="concurrency",
            what=f"Plan for {fewer} full-length {ROLES[engine.role].noun} request(s) at a time; more will wait.",
            values={"concurrency": fewer},
        )


def _batches(engine: EngineRequirements, _card: Card) -> Iterator[Step]:
    if (engine.sequences or 0) > FEW_SEQUENCES or (engine.batched_tokens or 0) > SMALL_BATCH:
        yield Step(
            kind="batches",
            what=f"Let the plan choose the batch sizes of the {ROLES[engine.role].noun} engine (max_num_seqs, "
            "max_num_batched_tokens).",
            values={"sequences": None, "batched_tokens": None},
        )


def _context(engine: EngineRequirements, _card: Card) -> Iterator[Step]:
    length = engine.context or 0
    shortest = ROLES[engine.role].context_lengths[-1]
    while length > shortest:
        length = max(shortest, length // 2)
        yield Step(
            kind="context",
            what=f"Shorten the context of the {ROLES[engine.role].noun} engine to {length} tokens.",
            values={"context": length},
        )


def _quantized_cache(engine: EngineRequirements, card: Card) -> Iterator[Step]:
    supports_fp8 = card.capability_number is None or card.capability_number >= FP8_CAPABILITY
    if card.is_gpu and supports_fp8 and engine.cache_dtype == "auto" and not engine.shape.is_encoder:
        yield Step(
            kind="cache",
            what=f"Store the KV cache of the {ROLES[engine.role].noun} engine in FP8 (--kv-cache-dtype fp8): half "
            "the size, slightly less accurate.",
            values={"cache_dtype": "fp8"},
        )


def _eager(engine: EngineRequirements, card: Card) -> Iterator[Step]:
    if card.is_gpu and not engine.eager:
        yield Step(
            kind="eager",
            what=f"Run the {ROLES[engine.role].noun} engine without CUDA graphs (--enforce-eager): slower, "
            "especially with few concurrent requests.",
            values={"eager": True},
        )
