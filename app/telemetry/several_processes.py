"""One set of metrics for several processes behind one port: prometheus_client's way, values in shared files.

A process that ends leaves its counters, which belong to the sum, and its gauges, which do not and are removed.
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
"""Read by prometheus_client when it is imported, and by nobody else."""
_BEGAN = "began"


@contextmanager
def shared_folder() -> Generator[Path, None, None]:
    """A folder for the values of all processes that are started meanwhile; it is removed in the end."""
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
    """When the folder was made: since then its values have been counted. Unix time in nanoseconds."""
    return int((folder / _BEGAN).read_text())


def collect(folder: Path) -> Iterable[Metric]:
    """The families of all processes together."""
    _forget_the_dead(folder)
    families: Iterable[Metric] = MultiProcessCollector(None, path=str(folder)).collect()  # type: ignore[no-untyped-call]
    return families


def _forget_the_dead(folder: Path) -> None:
    for file in folder.glob("gauge_live*_*.db"):
        pid = file.stem.rpartition("_")[2]
        if pid.isdigit() and not psutil.pid_exists(int(pid)):
            # Another process may have been faster.
            with suppress(FileNotFoundError):
                file.unlink()
