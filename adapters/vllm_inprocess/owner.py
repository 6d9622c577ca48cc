"""An engine process must not outlive the service that started it, however the service ends.

vLLM's engine processes notice a parent that stops in good order, but not one that is killed: they live on as
orphans and keep their memory. So each of them asks the kernel to be killed when its parent ends. It does so
twice over: as soon as its executor class is unpickled (`executors.py`; before the hand-shake, which would
wait for minutes), and as a vLLM plugin (entry point `memoria_owner` in pyproject.toml), which reaches the
workers too.
"""

import ctypes
import os
import signal

OWNER = "MEMORIA_OWNER_PID"
"""The process id of whoever starts the engine processes to come: the service, then each engine process for
those below it. Without it binding does nothing, so that a plain vLLM in this environment is left alone."""

_PR_SET_PDEATHSIG = 1


def own_engines() -> None:
    """Make this process the owner of all engine processes that it starts from now on."""
    os.environ[OWNER] = str(os.getpid())


def is_owned() -> bool:
    """Whether this is an engine process that is not bound yet."""
    owner = os.environ.get(OWNER)
    return owner is not None and int(owner) != os.getpid()


def bind_to_owner() -> None:
    """Have the kernel kill this process when the process that started it ends; harmless when repeated.

    Does nothing in the service itself, nor outside of it. The kernel watches the parent's *thread* that did
    the spawning (prctl(2), PR_SET_PDEATHSIG); `EngineThread` therefore lives as long as its engine.
    """
    if not is_owned():
        return
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != int(os.environ[OWNER]):
        # The owner ended before the kernel knew of our wish.
        os._exit(1)
    own_engines()
