"""Reports the memory plan that a start would make."""

from collections.abc import Sequence

from app.commands.doctor.finding import Finding, failure, ok, warning
from domain.memory_plan import MemoryPlan, shortage
from domain.units import size


def check_plan(check: str, plan: MemoryPlan) -> Finding:
    """Report whether the engines fit, and the first suggested change if they don't."""
    if not plan.fits:
        return failure(check, shortage(plan), f"{plan.changes[0].what} See `memoria plan` for details")
    planned = sum(engine.total_bytes for engine in plan.engines)
    return ok(check, f"the memory plan takes {size(planned)} of the {size(plan.card.free_bytes)} that are free")


def plan_comes_later(check: str, free: int, models: Sequence[str]) -> Finding:
    """Report that models must be fetched before a plan can be made.

    Args:
        check: name of the check.
        free: free memory in bytes.
        models: models to fetch.
    """
    return ok(check, f"{size(free)} free; the memory plan is made once {' and '.join(models)} can be inspected")


def no_plan(check: str, reason: str) -> Finding:
    """Report that no plan can be made, and why."""
    return warning(check, f"no memory plan can be made: {reason.rstrip('.')}", "Watch the memory during the start")
