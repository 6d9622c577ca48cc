"""Detects hung engines, from their outputs and the CPU time of their processes.

An engine can be alive and hang: its process was stopped, or waits for an event that never occurs. It can also be
busy with one step for long, such as a long prompt on a slow machine, and must then not be interrupted. CPU time
distinguishes the two; an engine on a GPU uses CPU time too, because it spins while it waits for the GPU.
"""

import contextlib
import time
from collections.abc import Callable

import psutil

BUSY_FACTOR = 10
"""A busy engine may be silent for this many times the limit, so that endless spinning is detected eventually."""
IDLE_CPU_S = 0.01
"""CPU time between two checks that does not count as work: an idle process wakes up now and then."""


class Watchdog:
    """Watches one engine."""

    def __init__(
        self,
        processes: Callable[[], list[psutil.Process]],
        *,
        hang_s: float,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        """Create the watchdog.

        Args:
            processes: returns the engine's current processes.
            hang_s: seconds without output or CPU time after which an engine with unfinished requests is hung.
            now: a monotonic clock, in seconds.
        """
        self._processes = processes
        self._hang_s = hang_s
        self._now = now
        self.last_progress = now()
        """When the engine last produced output or was idle."""
        self._last_work = self.last_progress
        self._cpu_s = 0.0

    def progress(self) -> None:
        """Record that the engine has produced output."""
        self.last_progress = self._now()

    def hangs(self, *, has_work: bool) -> str | None:
        """Why the engine is considered hung, as part of a sentence; None if it is not.

        Args:
            has_work: whether it has unfinished requests.
        """
        processes = self._processes()
        if any(_is_stopped(process) for process in processes):
            return "its process has been stopped"
        now, cpu_s = self._now(), sum(_cpu_s(process) for process in processes)
        if not has_work:
            self.last_progress = now
        if not has_work or abs(cpu_s - self._cpu_s) > IDLE_CPU_S:
            self._last_work = now
        self._cpu_s = cpu_s
        silent_s = now - self.last_progress
        if silent_s > self._hang_s and now - max(self._last_work, self.last_progress) > self._hang_s:
            return f"it has unfinished requests and has been idle for {silent_s:.0f} seconds"
        if silent_s > BUSY_FACTOR * self._hang_s:
            return f"it has unfinished requests and has produced no output for {silent_s:.0f} seconds"
        return None


def _is_stopped(process: psutil.Process) -> bool:
    with contextlib.suppress(psutil.Error):
        return bool(process.status() == psutil.STATUS_STOPPED)
    return False


def _cpu_s(process: psutil.Process) -> float:
    with contextlib.suppress(psutil.Error):
        times = process.cpu_times()
        return float(times.user + times.system)
    return 0.0
