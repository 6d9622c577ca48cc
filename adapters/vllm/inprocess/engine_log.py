"""Collects the output of engine processes, logs it with the engine's name, and keeps the last lines.

An engine that can't start prints the reason somewhere in a hundred lines of tracebacks from two processes. Engine
processes therefore send their output here instead of to the terminal: it is logged if the log level allows, and if
an engine fails, the line with the reason is extracted.
"""

import contextlib
import logging
import os
import re
import socket
import struct
import sys
import threading
import uuid
from collections import Counter, deque
from collections.abc import Callable, Iterator

ADDRESS = "MEMORIA_ENGINE_LOG"
"""Name of the socket that receives the output of new engine processes: a Linux abstract socket, which leaves no
file behind, however the service ends."""

KEPT_LINES = 500
MAX_REASON_CHARACTERS = 400
log = logging.getLogger("memoria.engine")
_PEER = struct.Struct("3i")
"""Linux's struct ucred: process, user and group of the peer."""
# "(EngineCore pid=7) ERROR 11-23 17:51:59 [core.py:1510] ValueError: …", or the plain last line of a traceback.
_LEVEL = re.compile(r"\b(DEBUG|INFO|WARNING|ERROR|CRITICAL) \d\d-\d\d ")
_EXCEPTION = re.compile(r"(?:^|\] )(?:\w+\.)*\w*(?:Error|Exception): (?P<reason>.+)$")


def send_output_to_owner() -> None:
    """Redirect the output of this engine process and its children to the service's engine log.

    Called in the engine process. Does nothing if there is no log or it can't be reached.
    """
    address = os.environ.pop(ADDRESS, None)
    if address is None:
        return
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.connect(f"\0{address}")
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
            os.dup2(connection.fileno(), stream.fileno())


class EngineLog:
    """Receives the output of all engine processes of this service."""

    def __init__(
        self,
        *,
        echo: bool,
        find_name: Callable[[int], str | None],
        on_connected: Callable[[str], None] = lambda _name: None,
    ) -> None:
        """Open the log for engine processes that start from now on.

        Args:
            echo: whether to log the lines to `memoria.engine`, with the engine's name in each record.
            find_name: returns the name of the engine of a process id.
            on_connected: called with the engine's name, in a thread of the log, when one of its processes
                connects.
        """
        self._echo = echo
        self._find_name = find_name
        self._on_connected = on_connected
        self._lines: dict[str, deque[str]] = {}
        self._condition = threading.Condition()
        self._open_streams: Counter[str] = Counter()
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        address = f"memoria-{uuid.uuid4().hex}"
        self._listener.bind(f"\0{address}")
        self._listener.listen()
        os.environ[ADDRESS] = address
        threading.Thread(target=self._accept, name="engine-log", daemon=True).start()

    def reason(self, name: str) -> str | None:
        """The message of the first exception in an engine's output; later ones follow from it."""
        for line in list(self._lines.get(name, ())):
            if found := _EXCEPTION.search(line):
                return found["reason"].strip()[:MAX_REASON_CHARACTERS]
        return None

    def wait_for_end(self, name: str, timeout_s: float) -> None:
        """Wait until all output of an engine's ended processes has arrived, or until the timeout."""
        with self._condition:
            self._condition.wait_for(lambda: not self._open_streams[name], timeout_s)

    def forget(self, name: str) -> None:
        """Discard an engine's output."""
        self._lines.pop(name, None)

    def _accept(self) -> None:
        while True:
            connection, _ = self._listener.accept()
            threading.Thread(target=self._read, args=(connection,), name="engine-log", daemon=True).start()

    def _read(self, connection: socket.socket) -> None:
        pid, user, _ = _PEER.unpack(connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _PEER.size))
        with connection, connection.makefile("r", errors="replace", newline="\n") as lines:
            if user != os.getuid():
                # Abstract sockets are accessible to all users of the machine.
                return
            found = self._find_name(pid)
            if found is not None:
                self._on_connected(found)
            name = found or "engine"
            with self._stream_open(name):
                kept = self._lines.setdefault(name, deque(maxlen=KEPT_LINES))
                for line in _whole_lines(lines):
                    kept.append(line)
                    if self._echo:
                        log.log(_level(line), "%s", line, extra={"engine": name})

    @contextlib.contextmanager
    def _stream_open(self, name: str) -> Iterator[None]:
        with self._condition:
            self._open_streams[name] += 1
        try:
            yield
        finally:
            with self._condition:
                self._open_streams[name] -= 1
                self._condition.notify_all()


def _level(line: str) -> int:
    """The log level of a line of vLLM's log; INFO for other lines."""
    found = _LEVEL.search(line)
    return getattr(logging, found[1]) if found else logging.INFO


def _whole_lines(lines: Iterator[str]) -> Iterator[str]:
    """Lines without line ends; of a progress bar, which redraws itself, only the last state."""
    for line in lines:
        text = line.rstrip("\n").rpartition("\r")[2].rstrip()
        if text:
            yield text
