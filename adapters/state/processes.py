"""Identifies the processes that work on responses, and says which of them have ended.

On one machine the process id and the start of the process decide. Of other machines and containers only a
heartbeat is known, which each process writes every `HEARTBEAT_S`.
"""

import os
import socket
from pathlib import Path

import msgspec
import psutil

HEARTBEAT_S = 8.0
"""Seconds between two heartbeats."""
DEAD_AFTER_S = 30
"""Seconds without a heartbeat after which a process elsewhere counts as ended."""
SAME_START_S = 1.5
"""The system counts the start of a process and the boot in different units; both are rounded."""


class ProcessInfo(msgspec.Struct, frozen=True, kw_only=True):
    """One process, as the table `processes` describes it."""

    host: str
    """Where `pid` has a meaning: host name, boot and PID namespace."""
    pid: int
    started: float
    """Seconds between the boot of the machine and the start of the process; unlike times of day, no clock that is
    set changes them."""


def this_process() -> ProcessInfo:
    """This process."""
    return ProcessInfo(host=_host(), pid=os.getpid(), started=_started(psutil.Process()))


def has_ended(process: ProcessInfo, *, heartbeat_age_s: float, here: ProcessInfo, trusts_heartbeats: bool) -> bool:
    """Whether a process has ended.

    Args:
        process: the process.
        heartbeat_age_s: seconds since its last heartbeat.
        here: this process.
        trusts_heartbeats: False soon after an outage of the database, when heartbeats are old because they could
            not be written.
    """
    if process.host != here.host:
        return trusts_heartbeats and heartbeat_age_s > DEAD_AFTER_S
    try:
        found = psutil.Process(process.pid)
        # A zombie has ended; its parent has not read its exit code yet.
        return found.status() == psutil.STATUS_ZOMBIE or abs(_started(found) - process.started) > SAME_START_S
    except psutil.NoSuchProcess:
        return True
    except psutil.AccessDenied:
        return False


def _started(process: psutil.Process) -> float:
    return float(process.create_time() - psutil.boot_time())


def _host() -> str:
    parts = [socket.gethostname()]
    try:
        # Linux: containers may share a host name, but not the numbers of their processes.
        parts.append(Path("/proc/sys/kernel/random/boot_id").read_text().strip())
        parts.append(str(Path("/proc/self/ns/pid").stat().st_ino))
    except OSError:
        pass
    return " ".join(parts)
