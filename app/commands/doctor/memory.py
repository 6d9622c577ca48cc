"""Memory, by the plan that a start would make."""

from collections.abc import Sequence

from app.commands.doctor.finding import Finding, failure, ok, warning
from domain.memory_plan import MemoryPlan, shortage
from domain.units import size


def check_plan(check: str, plan: MemoryPlan) -> Finding:
    """Whether the engines fit, and what to change first if they do not."""
    if not plan.fits:
        return failure(check, shortage(plan), f"{plan.changes[0].what} `memoria plan` shows it all")
    planned = sum(engine.total_bytes for engine in plan.engines)
    return ok(check, f"the memory plan takes {size(planned)} of the {size(plan.card.free_bytes)} that are free")


def plan_comes_later(check: str, free: int, models: Sequence[str]) -> Finding:
    """What can be said while models are not here.

    Args:
        check: what to call it.
        free: bytes.
        models: those that have to be fetched first.
    """
    return ok(check, f"{size(free)} free; the memory plan is made when {' and '.join(models)} can be looked at")


def no_plan(check: str, reason: str) -> Finding:
    """The warning that no plan can be made, and why, as a sentence."""
    return warning(check, f"no memory plan can be made: {reason.rstrip('.')}", "Watch the memory during the start")
