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

NICENESS = "MEMORIA_ENGINE_NICENESS"
"""The niceness (setpriority(2)) of engine processes to come, where they are to give way."""

_PR_SET_PDEATHSIG = 1
_GIVES_WAY_BY = 5
_NICEST = 19


def own_engines() -> None:
    """Make this process the owner of all engine processes that it starts from now on."""
    os.environ[OWNER] = str(os.getpid())


def let_engines_give_way() -> None:
    """Have engine processes to come give way to this one on the processor.

    On the CPU they keep all cores busy, and each wakes in the middle of what the service does for a hundred other
    clients. The service needs little, and whoever asks for its health shall not wait for a turn.
    """
    niceness = os.getpriority(os.PRIO_PROCESS, 0) + _GIVES_WAY_BY
    os.environ[NICENESS] = str(min(niceness, _NICEST))


def give_way() -> None:
    """Take the niceness that the service wants of this engine process, and of the threads that it will have.

    Never a smaller one than it has, which few may take: the service may have been made nicer since it began.
    """
    if NICENESS in os.environ:
        niceness = max(os.getpriority(os.PRIO_PROCESS, 0), int(os.environ[NICENESS]))
        os.setpriority(os.PRIO_PROCESS, 0, niceness)


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
