"""Several processes behind one port, for gateways on machines where one Python process is the limit.

Each process is a whole gateway: connections, readiness, joining and cache are its own. The kernel deals new
connections out among them (SO_REUSEPORT, socket(7)). uvicorn's supervisor starts them, replaces one that dies,
and ends them.
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
# uvicorn takes a process that does not answer it within so long for a hung one, and kills it.
HANG_S = 5
# One that starts answers when its libraries are loaded. On a busy machine that takes several of them long at once,
# and killing them would only make it busier.
START_PATIENCE_S = 60
# How long one waits for its engines before it takes connections: others may be serving already, and a client
# dealt out to this one shall not be told that the service is starting.
ENGINES_PATIENCE_S = 5.0
_PR_SET_PDEATHSIG = 1


class SharedAddress(socket.socket):
    """An address that is taken; each process to which it is sent gets a socket of its own there.

    The server listens on it when the application has started, and only then are connections dealt out to it.
    """

    def __reduce__(self) -> tuple[object, ...]:
        return _bind, (self.family, self.getsockname())


def share(listener: socket.socket) -> SharedAddress:
    """The same address for several processes. The listener is closed: it would keep connections to itself."""
    family, address = listener.family, listener.getsockname()
    listener.close()
    return _bind(family, address)


def require_gateway(settings: Settings) -> None:
    """Refuse several processes in front of engines that are inside one.

    Raises:
        ConfigurationError: an engine runs in process.
    """
    inside = [f"{ROLES[role].prefix}_BACKEND" for role, own in settings.roles.items() if own.backend == INPROCESS]
    if settings.api_processes > 1 and inside:
        raise ConfigurationError(
            f"API_PROCESSES is {settings.api_processes}, but {' and '.join(inside)} says {INPROCESS}, and an "
            f"engine in process serves that process alone. Set API_PROCESSES=1, or {inside[0]}={HTTP}."
        )


def serve(settings: Settings, address: SharedAddress) -> int:
    """Serve in several processes until SIGINT or SIGTERM; return the exit code."""
    with _shared_folder(settings) as folder:
        application = partial(_application, settings, time.monotonic(), folder)
        config = server_config(application, settings)
        group = _Group(config, [address])
        group.run()
    return 0 if group.was_told else 1


class _Group(Multiprocess):
    """uvicorn's supervisor, which a second signal hurries, and which knows whether it was told to end.

    It has more patience while a process is young.
    """

    was_told = False

    def __init__(self, config: Config, sockets: list[socket.socket]) -> None:
        super().__init__(config, sockets)
        self._known: list[int | None] = []
        self._grown_up_at = 0.0

    def keep_subprocess_alive(self) -> None:
        """Replace processes that have ended or hang."""
        now, known = time.monotonic(), [process.pid for process in self.processes]
        if known != self._known:
            self._known, self._grown_up_at = known, now + START_PATIENCE_S
        self.config.timeout_worker_healthcheck = START_PATIENCE_S if now < self._grown_up_at else HANG_S
        super().keep_subprocess_alive()

    def handle_signals(self) -> None:
        """Act on signals that have arrived."""
        self.was_told = self.was_told or bool({signal.SIGINT, signal.SIGTERM} & set(self.signal_queue))
        super().handle_signals()

    def join_all(self) -> None:
        """Wait for all processes to end; let them drop what is under way when a signal comes meanwhile."""
        while any(process.process.is_alive() for process in self.processes):
            if self.signal_queue:
                self.signal_queue.clear()
                for process in self.processes:
                    _signal(process.pid)
            time.sleep(POLL_S)
        super().join_all()


def _signal(pid: int | None) -> None:
    if pid is not None and psutil.pid_exists(pid):
        # uvicorn drains on the first signal, and on SIGINT again gives up draining.
        os.kill(pid, signal.SIGINT)


def _shared_folder(settings: Settings) -> contextlib.AbstractContextManager[Path | None]:
    """Where the processes share their metrics, if there are any."""
    from app.telemetry.setup import has_metrics

    if not has_metrics(settings):
        return contextlib.nullcontext()
    from app.telemetry.several_processes import shared_folder

    return shared_folder()


def _application(settings: Settings, began: float, folder: Path | None) -> Litestar:
    """What one of the processes serves; made in that process."""
    from app.bootstrap import build_app
    from app.commands.console import console_for
    from app.telemetry import log

    _end_with_parent()
    log.set_up(settings.log_level, log.chosen_format(settings.telemetry.log_format))
    console = console_for(settings.telemetry.log_format, began)

    def tell(role: Role, health: BackendHealth) -> None:
        if _speaks():
            console.health_changed(role, health)

    return build_app(settings, on_change=tell, metrics_folder=folder, wait_s=ENGINES_PATIENCE_S)


def _speaks() -> bool:
    """Whether this process tells how the engines are: one does for all, the oldest that lives."""
    siblings = psutil.Process(os.getppid()).children()
    return not any(_works(each) for each in siblings if each.pid < os.getpid())


def _works(process: psutil.Process) -> bool:
    """Whether a process below the supervisor lives and is one of ours, not Python's own."""
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
