"""Checks the folder in which the contents of files are kept."""

import contextlib
import os
from pathlib import Path

import psutil

from app.commands.doctor.finding import Finding, failure, ok, warning
from app.commands.doctor.machine import existing
from domain.units import size

CHECK = "files"
ADVICE = "Make it writable, set MEMORIA_DATA_DIR to another folder, or set STATE=off to keep no files"


def no_files() -> Finding:
    """Nothing to check."""
    return ok(CHECK, "none are kept (STATE=off)")


def check_files(folder: Path, *, max_total_bytes: int) -> Finding:
    """Check that files can be kept in a folder, without changing it, and that its disk has space for them.

    Args:
        folder: of the contents of all databases; it need not exist.
        max_total_bytes: largest size of all files of one database.
    """
    parent = existing(folder)
    if not parent.is_dir():
        return failure(CHECK, f"{parent} is not a folder", ADVICE)
    if not os.access(parent, os.R_OK | os.W_OK | os.X_OK):
        what = "is not writable" if parent == folder else f"can't be created in {parent}"
        return failure(CHECK, f"{folder} {what}", ADVICE)
    if parent == folder and os.geteuid() not in (0, folder.stat().st_uid):
        # The service makes it private, which only its owner can do.
        return failure(CHECK, f"{folder} belongs to another user", ADVICE)
    free = psutil.disk_usage(str(parent)).free
    missing = max_total_bytes - _used_bytes(folder) - free
    kept = f"kept in {folder}, up to {size(max_total_bytes)}"
    if missing > 0:
        return warning(
            CHECK,
            f"{kept}, but its disk has only {size(free)} free",
            "Free some space, lower FILES_MAX_TOTAL_SIZE, or set MEMORIA_DATA_DIR to a folder on a larger disk",
        )
    return ok(CHECK, kept)


def _used_bytes(folder: Path) -> int:
    """The size of all contents."""
    used = 0
    for path in folder.glob("*/*"):
        # A service that runs may remove it meanwhile.
        with contextlib.suppress(OSError):
            used += path.stat().st_size
    return used
