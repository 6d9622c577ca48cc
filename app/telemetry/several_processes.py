"""Combines the metrics of several API processes, with prometheus_client's multiprocess mode (values in files).

The counters of a process that has exited still count; its gauges do not, and are removed.
"""

import os
import tempfile
import time
from collections.abc import Generator, Iterable
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil
from prometheus_client.metrics_core import Metric
from prometheus_client.multiprocess import MultiProcessCollector

VARIABLE = "PROMETHEUS_MULTIPROC_DIR"
"""Read by prometheus_client when it is imported."""
_BEGAN = "began"


@contextmanager
def shared_folder() -> Generator[Path, None, None]:
    """Create a folder for the values of all processes that start meanwhile; it is removed on exit."""
    with tempfile.TemporaryDirectory(prefix="memoria-metrics-") as name:
        folder = Path(name)
        (folder / _BEGAN).write_text(str(time.time_ns()))
        before = os.environ.get(VARIABLE)
        os.environ[VARIABLE] = name
        try:
            yield folder
        finally:
            if before is None:
                del os.environ[VARIABLE]
            else:
                os.environ[VARIABLE] = before


def began_ns(folder: Path) -> int:
    """When the folder was created and counting began, as Unix time in nanoseconds."""
    return int((folder / _BEGAN).read_text())


def collect(folder: Path) -> Iterable[Metric]:
    """The combined families of all processes."""
    _remove_gauges_of_dead_processes(folder)
    families: Iterable[Metric] = MultiProcessCollector(None, path=str(folder)).collect()  # type: ignore[no-untyped-call]
    return families


def _remove_gauges_of_dead_processes(folder: Path) -> None:
    for file in folder.glob("gauge_live*_*.db"):
        pid = file.stem.rpartition("_")[2]
        if pid.isdigit() and not psutil.pid_exists(int(pid)):
            # Another process may have removed it already.
            with suppress(FileNotFoundError):
                file.unlink()
