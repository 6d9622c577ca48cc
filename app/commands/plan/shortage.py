"""What a plan that does not fit lacks, in one sentence."""

from app.commands.sizes import GIB, size
from domain.memory_plan import MemoryPlan


def shortage(plan: MemoryPlan) -> str:
    """Who lacks how much of what; without a full stop."""
    card = plan.card
    short = [engine for engine in plan.engines if engine.missing_bytes]
    if short and sum(engine.missing_bytes for engine in short) == plan.missing_bytes:
        # The card would do: what somebody decided for an engine does not.
        lacks = " and ".join(f"'{engine.model}' was given {size(engine.missing_bytes)}" for engine in short)
        return f"{lacks} too little for its weights and a request of its context on {card.name}"
    names = " and ".join(f"'{engine.model}'" for engine in plan.engines)
    verb = "do not fit" if len(plan.engines) > 1 else "does not fit"
    free, total = (card.total_bytes - card.used_bytes) / GIB, card.total_bytes / GIB
    return (
        f"{names} {verb} on {card.name}, which has {free:.1f} of {total:.1f} GiB free: "
        f"{size(plan.missing_bytes)} are missing"
    )
