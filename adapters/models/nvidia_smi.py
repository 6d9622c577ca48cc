"""Queries `nvidia-smi` about the GPU that engines use."""

import os
import shutil
import subprocess

TIMEOUT_S = 20.0
"""A hung driver must not block a start for long."""


def ask(query: str) -> list[list[str]]:
    """The fields of each output line; empty if the tool is missing or fails, or if no GPU may be used.

    For queries about GPUs, the first line is about the first GPU that CUDA shows to this process.
    """
    tool, visible = shutil.which("nvidia-smi"), os.environ.get("CUDA_VISIBLE_DEVICES")
    first = visible.split(",")[0].strip() if visible is not None else None
    if tool is None or first in ("", "-1"):
        return []
    command = [tool, query, "--format=csv,noheader,nounits"]
    # `nvidia-smi` can't query a MIG instance by its id, so query the whole GPU.
    if first is not None and not first.startswith("MIG-"):
        command.append(f"--id={first}")
    try:
        answer = subprocess.run(command, capture_output=True, text=True, check=False, timeout=TIMEOUT_S)
    except (OSError, subprocess.TimeoutExpired):
        return []
    if answer.returncode != 0:
        return []
    return [[part.strip() for part in line.split(",")] for line in answer.stdout.splitlines() if line.strip()]
