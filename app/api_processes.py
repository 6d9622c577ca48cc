"""Runs several API processes behind one port, for gateways that one Python process would limit.

Each process is a complete gateway with its own connections, readiness, batching and cache. The kernel distributes
new connections among them (SO_REUSEPORT, socket(7)). uvicorn's supervisor starts them, replaces those that die,
and stops them.
"""

import contextlib
import ctypes
import os
import signal
import socket
import sys
import time
from functools import partial
from pathlib import Path

import psutil
from litestar import Litestar
from uvicorn import Config
from uvicorn.supervisors import Multiprocess

from adapters.resource_tracker import is_resource_tracker
from app.http.server import server_config
from app.settings import HTTP, INPROCESS, Settings
from domain.errors import ConfigurationError
from domain.health import BackendHealth
from domain.roles import ROLES, Role

POLL_S = 0.05
# uvicorn considers a process hung and kills it if it does not answer within this time.
HANG_S = 5
# A starting process answers once its libraries are loaded. When several start at once on a busy machine, that
# takes long, and killing them would only add load.
STARTUP_HANG_S = 60
# Longest wait for the engines before a process accepts connections: other processes may already serve, and a
# client that connects to this one should not get the error that the service is starting.
ENGINES_WAIT_S = 5.0
_PR_SET_PDEATHSIG = 1


class SharedAddress(socket.socket):
    """A bound address; each process that it is pickled to gets its own socket on it.

    The server listens once the application has started, and only then does the kernel send it connections.
    """

    def __reduce__(self) -> tuple[object, ...]:
        return _bind, (self.family, self.getsockname())


def share(listener: socket.socket) -> SharedAddress:
    """Rebind a listener's address for several processes, and close the listener, which would take connections."""
    family, address = listener.family, listener.getsockname()
    listener.close()
    return _bind(family, address)


def require_gateway(settings: Settings) -> None:
    """Reject several API processes if an engine runs in process.

    Raises:
        ConfigurationError: an engine runs in process.
    """
    names = [f"{ROLES[role].prefix}_BACKEND" for role, own in settings.roles.items() if own.backend == INPROCESS]
    if settings.api_processes > 1 and names:
        verb = "is" if len(names) == 1 else "are"
        raise ConfigurationError(
            f"API_PROCESSES is {settings.api_processes}, but {' and '.join(names)} {verb} {INPROCESS}, and an "
            f"engine in process serves only its own process. Set API_PROCESSES=1, or {names[0]}={HTTP}."
        )


def serve(settings: Settings, address: SharedAddress) -> int:
    """Serve in several processes until SIGINT or SIGTERM; return the exit code."""
    with _shared_folder(settings) as folder:
        application = partial(_application, settings, time.monotonic(), folder)
        config = server_config(application, settings)
        group = _Group(config, [address])
        group.run()
    return 0 if group.was_stopped else 1


class _Group(Multiprocess):
    """uvicorn's supervisor, extended in three ways.

    It records whether a signal stopped it, lets a second signal abort the drain, and allows starting processes
    more time to answer.
    """

    was_stopped = False
    """Whether SIGINT or SIGTERM has arrived."""

    def __init__(self, config: Config, sockets: list[socket.socket]) -> None:
        super().__init__(config, sockets)
        self._pids: list[int | None] = []
        self._startup_until = 0.0

    def keep_subprocess_alive(self) -> None:
        """Replace processes that have exited or hang."""
        now, pids = time.monotonic(), [process.pid for process in self.processes]
        if pids != self._pids:
            self._pids, self._startup_until = pids, now + STARTUP_HANG_S
        self.config.timeout_worker_healthcheck = STARTUP_HANG_S if now < self._startup_until else HANG_S
        super().keep_subprocess_alive()

    def handle_signals(self) -> None:
        """Handle the signals that have arrived."""
        self.was_stopped = self.was_stopped or bool({signal.SIGINT, signal.SIGTERM} & set(self.signal_queue))
        super().handle_signals()

    def join_all(self) -> None:
        """Wait until all processes have exited; a signal in the meantime makes them abort running requests."""
        while any(process.process.is_alive() for process in self.processes):
            if self.signal_queue:
                self.signal_queue.clear()
                for process in self.processes:
                    _signal(process.pid)
            time.sleep(POLL_S)
        super().join_all()


def _signal(pid: int | None) -> None:
    if pid is not None and psutil.pid_exists(pid):
        # uvicorn drains on the first signal, and stops draining on a further SIGINT.
        os.kill(pid, signal.SIGINT)


def _shared_folder(settings: Settings) -> contextlib.AbstractContextManager[Path | None]:
    """The folder in which the processes share their metrics; None without metrics."""
    from app.telemetry.setup import has_metrics

    if not has_metrics(settings):
        return contextlib.nullcontext()
    from app.telemetry.several_processes import shared_folder

    return shared_folder()


def _application(settings: Settings, began: float, folder: Path | None) -> Litestar:
    """Build the application of one process, in that process."""
    from app.bootstrap import build_app
    from app.commands.console import console_for
    from app.telemetry import log

    _end_with_parent()
    log.set_up(settings.log_level, log.chosen_format(settings.telemetry.log_format))
    console = console_for(settings.telemetry.log_format, began)

    def report(role: Role, health: BackendHealth) -> None:
        if _is_oldest():
            console.health_changed(role, health)

    return build_app(settings, on_change=report, metrics_folder=folder, wait_s=ENGINES_WAIT_S)


def _is_oldest() -> bool:
    """Whether this is the oldest live API process: only that one reports engine states."""
    siblings = psutil.Process(os.getppid()).children()
    return not any(_is_api_process(each) for each in siblings if each.pid < os.getpid())


def _is_api_process(process: psutil.Process) -> bool:
    """Whether a child of the supervisor is alive and not Python's resource tracker."""
    with contextlib.suppress(psutil.Error):
        return not is_resource_tracker(process)
    return False


def _end_with_parent() -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


def _bind(family: int, address: tuple[object, ...]) -> SharedAddress:
    listener = SharedAddress(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    listener.bind(address)
    return listener
