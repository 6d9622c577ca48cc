"""Questions to `nvidia-smi`, about the card that engines will use."""

import os
import shutil
import subprocess

TIMEOUT_S = 20.0
"""A driver that hangs must not block a start for long."""


def ask(query: str) -> list[list[str]]:
    """The answer, line by line; nothing without the tool, without an answer, or if no card may be used.

    The first line of an answer about cards is about the first one that CUDA shows to this process.
    """
    tool, visible = shutil.which("nvidia-smi"), os.environ.get("CUDA_VISIBLE_DEVICES")
    first = visible.split(",")[0].strip() if visible is not None else None
    if tool is None or first in ("", "-1"):
        return []
    command = [tool, query, "--format=csv,noheader,nounits"]
    # A part of a card has no number of its own there: the whole card has to do.
    if first is not None and not first.startswith("MIG-"):
        command.append(f"--id={first}")
    try:
        answer = subprocess.run(command, capture_output=True, text=True, check=False, timeout=TIMEOUT_S)
    except (OSError, subprocess.TimeoutExpired):
        return []
    if answer.returncode != 0:
        return []
    return [[part.strip() for part in line.split(",")] for line in answer.stdout.splitlines() if line.strip()]
