"""Checks the database of stored responses and conversations."""

from pathlib import Path

import psutil

from app.commands.doctor.finding import Finding, ok, warning
from app.commands.doctor.machine import existing
from domain.units import size

CHECK = "responses"


def nothing_stored() -> Finding:
    """Nothing to check."""
    return ok(CHECK, "none are stored (STATE=off)")


def check_state(
    where: str, path: Path | None, size_bytes: int | None, *, max_age_days: int, max_bytes: int
) -> Finding:
    """Say where responses are stored, and check that the disk has space for them.

    Args:
        where: the database, which can be used, in words.
        path: of its SQLite file; None for a server.
        size_bytes: of the file; None if there is none yet.
        max_age_days: days for which a response is kept; 0 for no limit.
        max_bytes: largest size of the database; 0 for no limit.
    """
    days = f"{max_age_days} {'day' if max_age_days == 1 else 'days'}"
    age = f"for {days}" if max_age_days else "with no age limit"

    stored = f"stored in {where}, {age}"
    if path is None:
        return ok(CHECK, stored)
    free = psutil.disk_usage(str(existing(path.parent))).free
    missing = max_bytes - (size_bytes or 0) - free
    if missing > 0:
        return warning(
            CHECK,
            f"{stored}: up to {size(max_bytes)}, but its disk has only {size(free)} free",
            "Free some space, lower STATE_MAX_SIZE, or set MEMORIA_DATA_DIR to a folder on a larger disk",
        )
    return ok(CHECK, f"{stored}, up to {size(max_bytes)}" if max_bytes else stored)
