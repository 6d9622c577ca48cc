"""Error message for a plan that does not fit."""

from domain.memory_plan.types import MemoryPlan
from domain.units import GIB, size


def shortage(plan: MemoryPlan) -> str:
    """Which engines need how much more memory; without a full stop."""
    card = plan.card
    short = [engine for engine in plan.engines if engine.missing_bytes]
    if short and sum(engine.missing_bytes for engine in short) == plan.missing_bytes:
        # The card is large enough, but an engine's own budget is too small.
        needs = " and ".join(f"'{engine.model}' needs {size(engine.missing_bytes)}" for engine in short)
        return f"{needs} more than it was given, for its weights and one request of full context on {card.name}"
    names = " and ".join(f"'{engine.model}'" for engine in plan.engines)
    verb = "do not fit" if len(plan.engines) > 1 else "does not fit"
    free, total = card.free_bytes / GIB, card.total_bytes / GIB
    return (
        f"{names} {verb} on {card.name}, which has {free:.1f} of {total:.1f} GiB free: "
        f"{size(plan.missing_bytes)} are missing"
    )
