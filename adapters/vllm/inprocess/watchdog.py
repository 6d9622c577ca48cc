"""Whether an engine that should work does: a heartbeat of what it answers, and of what its processes do.

An engine can be alive and hang: its process was stopped, or waits for something that never comes. It can also be
busy for long with one step, a long prompt on a slow machine, and must then be left alone. What tells them apart
is whether its processes use processor time; an engine on a GPU does too, for it spins while it waits for the card.
"""

import contextlib
import time
from collections.abc import Callable

import psutil

PATIENCE = 10
"""So many times the limit an engine may be silent that works; one that spins for ever shall not do so for ever."""
IDLE_CPU_S = 0.01
"""Processor time between two looks that is no work yet: a process that only waits wakes up now and then."""


class Watchdog:
    """Judges one engine, from its answers and its processes."""

    def __init__(
        self,
        processes: Callable[[], list[psutil.Process]],
        *,
        hang_s: float,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        """Make it.

        Args:
            processes: the engine's processes at this moment.
            hang_s: seconds without a sign of work after which an engine hangs that has work.
            now: a steady clock, in seconds.
        """
        self._processes = processes
        self._hang_s = hang_s
        self._now = now
        self.last_progress = now()
        """When the engine last answered something, or had nothing to do."""
        self._last_work = self.last_progress
        self._cpu_s = 0.0

    def progress(self) -> None:
        """The engine has answered something."""
        self.last_progress = self._now()

    def hangs(self, *, has_work: bool) -> str | None:
        """Why the engine has to be given up, in the middle of a sentence; None while all is well.

        Args:
            has_work: whether it has been given anything that it has not answered.
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
            return f"it has work and has done nothing for {silent_s:.0f} seconds"
        if silent_s > PATIENCE * self._hang_s:
            return f"it has work and has answered nothing for {silent_s:.0f} seconds"
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
