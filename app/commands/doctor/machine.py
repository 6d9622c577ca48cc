"""Memory beside a GPU's, shared memory and disk."""

import os
from collections.abc import Mapping
from pathlib import Path

import psutil

from app.commands.doctor.finding import Finding, failure, ok, warning
from domain.units import GIB, MIB, size

# What vLLM's largest queue between an engine and its worker must find free: 10 chunks of 24 MiB. On one GPU there
# is no worker and no queue. Source: vllm.distributed.device_communicators.shm_broadcast (0.32.0).
SHM_NEEDED = 240 * MIB
SHM_GOOD = GIB
# An engine on a GPU keeps its weights there, and takes so much of the machine while it loads.
GPU_HOST_GIB = 4


def check_host_memory(available: int, *, engines: int) -> Finding:
    """Whether engines on a GPU can load."""
    needed = engines * GPU_HOST_GIB
    if available < needed * GIB:
        return warning(
            "memory",
            f"{size(available)} available beside the GPU's, and {engines} engine(s) take up to {needed} GiB to "
            "load",
            "Close other programs, or watch the start",
        )
    return ok("memory", f"{size(available)} available beside the GPU's")


def check_shared_memory(free: int | None, *, on_gpu: bool) -> Finding:
    """Whether engine processes can share memory.

    Args:
        free: bytes free in /dev/shm; None if there is none.
        on_gpu: whether engines compute on a GPU.
    """
    advice = "In a container: --shm-size=2g or --ipc=host; else mount -o remount,size=2G /dev/shm"
    if free is None:
        return warning("/dev/shm", "there is none, and engine processes may need it", advice)
    if free < SHM_NEEDED and not on_gpu:
        return failure("/dev/shm", f"{size(free)} free, and an engine on the CPU needs {size(SHM_NEEDED)}", advice)
    if free < SHM_GOOD:
        return warning("/dev/shm", f"{size(free)} free; engines over several cards need more", advice)
    return ok("/dev/shm", f"{size(free)} free")


def check_disk(needs: Mapping[Path, int], setting: Mapping[Path, str]) -> list[Finding]:
    """Whether what has to be fetched finds room, and its folders can be written.

    Args:
        needs: bytes to come, by folder; the folders need not exist.
        setting: the variable that names another folder, by folder.
    """
    found: list[Finding] = []
    by_device: dict[int, list[Path]] = {}
    for folder in needs:
        there = existing(folder)
        if not os.access(there, os.W_OK | os.X_OK) or not there.is_dir():
            found.append(
                failure("disk", f"{folder} can't be written", f"Name another folder with {setting[folder]}")
            )
        else:
            by_device.setdefault(there.stat().st_dev, []).append(folder)
    found += [_check_device(folders, needs, setting) for folders in by_device.values()]
    return found or [ok("disk", "nothing has to be fetched")]


def _check_device(folders: list[Path], needs: Mapping[Path, int], setting: Mapping[Path, str]) -> Finding:
    """Folders on one disk, whose needs add up."""
    free = psutil.disk_usage(str(existing(folders[0]))).free
    needed = sum(needs[folder] for folder in folders)
    where = " and ".join(str(folder) for folder in folders)
    if free < needed:
        variables = " or ".join(dict.fromkeys(setting[folder] for folder in folders))
        return failure(
            "disk",
            f"{size(free)} free under {where}, and {size(needed)} have to be fetched and unpacked",
            f"Make room, or name a folder on a larger disk with {variables}",
        )
    what = f"{size(needed)} to fetch and unpack" if needed else "nothing has to be fetched"
    return ok("disk", f"{what}, {size(free)} free under {where}")


def existing(folder: Path) -> Path:
    """The folder, or the nearest above it that exists."""
    return next(path for path in (folder, *folder.absolute().parents) if path.exists())
