"""Python's own process beside those that multiprocessing starts: nobody's engine, and nobody's worker."""

import psutil


def is_resource_tracker(process: psutil.Process) -> bool:
    """Whether it is the resource tracker, told by what it runs: options of Python may name it as well.

    Source: `ResourceTracker.ensure_running` of multiprocessing.

    Raises:
        psutil.Error: the process is gone.
    """
    return any("resource_tracker import main" in argument for argument in process.cmdline())
