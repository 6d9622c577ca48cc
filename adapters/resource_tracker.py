"""Recognizes multiprocessing's resource tracker, a child process that is neither an engine nor a worker."""

import psutil


def is_resource_tracker(process: psutil.Process) -> bool:
    """Whether a process is the resource tracker, judged by the code it runs: Python options may name it as well.

    Source: `ResourceTracker.ensure_running` of multiprocessing.

    Raises:
        psutil.Error: the process no longer exists.
    """
    return any("resource_tracker import main" in argument for argument in process.cmdline())
