"""What engine processes print: one stream, each line under its engine's name, the last lines kept.

An engine that can't start says why in the middle of a hundred lines of traceback, out of two processes at
once. So engine processes send their output here instead of to the terminal: it is shown from the level at
which a person asks for it, and when an engine fails the one line that tells the reason is found.
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
"""Name of the socket that takes the output of the engine processes to come: one of Linux's abstract names,
which leave no file behind, whatever ends the service."""

KEPT_LINES = 500
LONGEST_REASON = 400
log = logging.getLogger("memoria.engine")
_PEER = struct.Struct("3i")
"""Linux's struct ucred: process, user and group at the other end."""
# "(EngineCore pid=7) ERROR 11-23 17:51:59 [core.py:1510] ValueError: …", or the bare end of a traceback.
_LEVEL = re.compile(r"\b(DEBUG|INFO|WARNING|ERROR|CRITICAL) \d\d-\d\d ")
_EXCEPTION = re.compile(r"(?:^|\] )(?:\w+\.)*\w*(?:Error|Exception): (?P<reason>.+)$")


def send_output_to_owner() -> None:
    """Let this engine process, and those that it starts, print to the service's engine log.

    Called in the engine process. Without a log, or when it can't be reached, output stays where it goes.
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
    """Takes the output of all engine processes of this service."""

    def __init__(
        self,
        *,
        echo: bool,
        find_name: Callable[[int], str | None],
        on_connected: Callable[[str], None] = lambda _name: None,
    ) -> None:
        """Open the log for engine processes that start from now on.

        Args:
            echo: whether to pass the lines on to the log `memoria.engine`, whose records say which engine.
            find_name: the engine that a process belongs to, by the process's id.
            on_connected: told the engine's name when one of its processes begins to speak, in a thread of the log.
        """
        self._echo = echo
        self._find_name = find_name
        self._on_connected = on_connected
        self._lines: dict[str, deque[str]] = {}
        self._heard = threading.Condition()
        self._speaking: Counter[str] = Counter()
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        address = f"memoria-{uuid.uuid4().hex}"
        self._listener.bind(f"\0{address}")
        self._listener.listen()
        os.environ[ADDRESS] = address
        threading.Thread(target=self._accept, name="engine-log", daemon=True).start()

    def reason(self, name: str) -> str | None:
        """What the first exception in an engine's output says: later ones follow from it."""
        for line in list(self._lines.get(name, ())):
            if found := _EXCEPTION.search(line):
                return found["reason"].strip()[:LONGEST_REASON]
        return None

    def wait_for_end(self, name: str, timeout_s: float) -> None:
        """Return when all that an engine's ended processes have printed has arrived, or the time is over."""
        with self._heard:
            self._heard.wait_for(lambda: not self._speaking[name], timeout_s)

    def forget(self, name: str) -> None:
        """Start an engine's output anew."""
        self._lines.pop(name, None)

    def _accept(self) -> None:
        while True:
            connection, _ = self._listener.accept()
            threading.Thread(target=self._read, args=(connection,), name="engine-log", daemon=True).start()

    def _read(self, connection: socket.socket) -> None:
        pid, user, _ = _PEER.unpack(connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _PEER.size))
        with connection, connection.makefile("r", errors="replace", newline="\n") as lines:
            if user != os.getuid():
                # Abstract names are open to all users of the machine.
                return
            found = self._find_name(pid)
            if found is not None:
                self._on_connected(found)
            name = found or "engine"
            with self._speaker(name):
                kept = self._lines.setdefault(name, deque(maxlen=KEPT_LINES))
                for line in _whole_lines(lines):
                    kept.append(line)
                    if self._echo:
                        log.log(_level(line), "%s", line, extra={"engine": name})

    @contextlib.contextmanager
    def _speaker(self, name: str) -> Iterator[None]:
        with self._heard:
            self._speaking[name] += 1
        try:
            yield
        finally:
            with self._heard:
                self._speaking[name] -= 1
                self._heard.notify_all()


def _level(line: str) -> int:
    """The level that vLLM gave a line; what has none is told as information."""
    found = _LEVEL.search(line)
    return getattr(logging, found[1]) if found else logging.INFO


def _whole_lines(lines: Iterator[str]) -> Iterator[str]:
    """Lines without their ends; of a progress bar, which redraws itself, only the last state."""
    for line in lines:
        text = line.rstrip("\n").rpartition("\r")[2].rstrip()
        if text:
            yield text
