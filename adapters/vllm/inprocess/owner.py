"""Binds engine processes to the service, so that they end whenever it ends, and lowers their priority.

vLLM's engine processes notice when their parent shuts down, but not when it is killed: they become orphans and
keep their memory. Each engine process therefore asks the kernel to kill it when its parent ends. It does so twice:
when its executor class is unpickled (`executors.py`; before the handshake, which would wait for minutes), and as a
vLLM plugin (entry point `memoria_owner` in pyproject.toml), which reaches the workers too.
"""

import ctypes
import os
import signal

OWNER = "MEMORIA_OWNER_PID"
"""Process id of the parent of new engine processes: the service, or an engine process for its children. If unset,
binding does nothing, so that a standalone vLLM in this environment is not affected."""

NICENESS = "MEMORIA_ENGINE_NICENESS"
"""Niceness (setpriority(2)) of new engine processes, if their priority is lowered."""

_PR_SET_PDEATHSIG = 1
_NICENESS_INCREMENT = 5
_MAX_NICENESS = 19


def own_engines() -> None:
    """Make this process the owner of the engine processes that it starts from now on."""
    os.environ[OWNER] = str(os.getpid())


def lower_engine_priority() -> None:
    """Give new engine processes a lower CPU priority than this process.

    Engines on the CPU keep all cores busy and would delay the service, which needs little CPU time but serves all
    clients, health checks included.
    """
    niceness = os.getpriority(os.PRIO_PROCESS, 0) + _NICENESS_INCREMENT
    os.environ[NICENESS] = str(min(niceness, _MAX_NICENESS))


def lower_priority() -> None:
    """Set the niceness of this engine process and its future threads to the value from the service.

    It is never decreased, which needs privileges: the niceness of the service may have been raised after its
    start.
    """
    if NICENESS in os.environ:
        niceness = max(os.getpriority(os.PRIO_PROCESS, 0), int(os.environ[NICENESS]))
        os.setpriority(os.PRIO_PROCESS, 0, niceness)


def is_owned() -> bool:
    """Whether this is an engine process that has not been bound yet."""
    owner = os.environ.get(OWNER)
    return owner is not None and int(owner) != os.getpid()


def bind_to_owner() -> None:
    """Make the kernel kill this process when its parent ends. Idempotent.

    Does nothing in the service itself and in unrelated processes. The kernel watches the parent's *thread* that
    spawned the process (prctl(2), PR_SET_PDEATHSIG); `EngineThread` therefore lives as long as its engine.
    """
    if not is_owned():
        return
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != int(os.environ[OWNER]):
        # The owner ended before prctl was called.
        os._exit(1)
    own_engines()
