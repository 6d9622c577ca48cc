"""An engine process must not outlive the service that started it, however the service ends.

vLLM's engine processes notice a parent that stops in good order, but not one that is killed: they live on as
orphans and keep their memory. So each of them asks the kernel to be killed when its parent ends. It does so
twice over: as soon as its executor class is unpickled (`executors.py`; before the hand-shake, which would
wait for minutes), and as a vLLM plugin (entry point `memoria_owner` in pyproject.toml), which reaches the
workers too.
"""

import ctypes
import multiprocessing
import os
import signal

OWNED = "MEMORIA_OWNED_ENGINES"
"""Set to 1 by a service for the processes that it starts; without it, binding does nothing, so that a plain
vLLM in the same environment is left alone."""

_PR_SET_PDEATHSIG = 1


def bind_to_owner() -> None:
    """Have the kernel kill this process when the process that started it ends.

    Does nothing outside an engine process of the service. The kernel watches the parent's *thread* that did
    the spawning (prctl(2), PR_SET_PDEATHSIG); `EngineThread` therefore lives as long as its engine.
    """
    parent = multiprocessing.parent_process()
    if os.environ.get(OWNED) != "1" or parent is None:
        return
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent.pid:
        # The parent ended before the kernel knew of our wish.
        os._exit(1)
