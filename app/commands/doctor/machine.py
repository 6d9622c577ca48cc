"""Checks the host's memory, shared memory and disk space."""

import os
from collections.abc import Mapping
from pathlib import Path

import psutil

from app.commands.doctor.finding import Finding, failure, ok, warning
from domain.units import GIB, MIB, size

# Size of vLLM's largest queue between an engine and its worker: 10 chunks of 24 MiB. On one GPU there is no worker
# and no queue. Source: vllm.distributed.device_communicators.shm_broadcast (0.32.0).
SHM_NEEDED = 240 * MIB
SHM_RECOMMENDED = GIB
# Host memory that an engine on a GPU takes while it loads; the weights are kept on the GPU.
GPU_HOST_GIB = 4


def check_host_memory(available: int, *, engines: int) -> Finding:
    """Check whether the host has enough memory for engines on a GPU to load."""
    needed = engines * GPU_HOST_GIB
    if available < needed * GIB:
        return warning(
            "memory",
            f"{size(available)} of host memory available, but {engines} engine(s) take up to {needed} GiB to load",
            "Close other programs, or watch the memory during the start",
        )
    return ok("memory", f"{size(available)} of host memory available")


def check_shared_memory(free: int | None, *, on_gpu: bool) -> Finding:
    """Check the size of /dev/shm.

    Args:
        free: bytes free in /dev/shm; None if it does not exist.
        on_gpu: whether engines run on a GPU.
    """
    advice = "In a container: --shm-size=2g or --ipc=host; else mount -o remount,size=2G /dev/shm"
    if free is None:
        return warning("/dev/shm", "does not exist, but engine processes may need it", advice)
    if free < SHM_NEEDED and not on_gpu:
        return failure("/dev/shm", f"{size(free)} free, but an engine on the CPU needs {size(SHM_NEEDED)}", advice)
    if free < SHM_RECOMMENDED:
        return warning("/dev/shm", f"{size(free)} free; engines on several GPUs need more", advice)
    return ok("/dev/shm", f"{size(free)} free")


def check_disk(needs: Mapping[Path, int], setting: Mapping[Path, str]) -> list[Finding]:
    """Check that there is space for models to fetch, and that their folders are writable.

    Args:
        needs: bytes to fetch, by folder; the folders need not exist.
        setting: the variable that sets the folder, by folder.
    """
    found: list[Finding] = []
    by_device: dict[int, list[Path]] = {}
    for folder in needs:
        parent = existing(folder)
        if not os.access(parent, os.W_OK | os.X_OK) or not parent.is_dir():
            found.append(failure("disk", f"{folder} is not writable", f"Set another folder in {setting[folder]}"))
        else:
            by_device.setdefault(parent.stat().st_dev, []).append(folder)
    found += [_check_device(folders, needs, setting) for folders in by_device.values()]
    return found or [ok("disk", "nothing has to be fetched")]


def _check_device(folders: list[Path], needs: Mapping[Path, int], setting: Mapping[Path, str]) -> Finding:
    """Check folders on the same disk together."""
    free = psutil.disk_usage(str(existing(folders[0]))).free
    needed = sum(needs[folder] for folder in folders)
    where = " and ".join(str(folder) for folder in folders)
    if free < needed:
        variables = " or ".join(dict.fromkeys(setting[folder] for folder in folders))
        return failure(
            "disk",
            f"{size(free)} free under {where}, but {size(needed)} have to be fetched and unpacked",
            f"Free some space, or set a folder on a larger disk in {variables}",
        )
    need = f"{size(needed)} to fetch and unpack" if needed else "nothing has to be fetched"
    return ok("disk", f"{need}, {size(free)} free under {where}")


def existing(folder: Path) -> Path:
    """The folder, or its nearest parent that exists."""
    return next(path for path in (folder, *folder.absolute().parents) if path.exists())
