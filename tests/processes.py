"""Real processes for tests: the service as a user starts it, and plain vLLM servers. Each ends by its id."""

import contextlib
import ctypes
import os
import queue
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Generator
from pathlib import Path

import httpx
import psutil

from adapters.resource_tracker import is_resource_tracker
from adapters.vllm.inprocess.owner import OWNER

ROOT = Path(__file__).resolve().parent.parent
MEMORIA = Path(sys.executable).parent / "memoria"
START_TIMEOUT_S = 240
MAX_NUM_SEQS = 64
ENGINE_FLAGS = f"--kv-cache-memory-bytes 67108864 --max-num-seqs {MAX_NUM_SEQS}"
# What vLLM's own server has to be told, and the service finds out by itself.
CHAT_FLAGS = (
    "--enable-auto-tool-choice --tool-call-parser hermes --reasoning-parser qwen3 --enable-prompt-tokens-details "
    '--structured-outputs-config {"backend":"xgrammar","disable_any_whitespace":true}'
)


# Nobody is asked over the network, and what is said can be read by people.
QUIET = {"HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1", "LOG_FORMAT": "text"}
_PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None)


def _end_with_parent() -> None:
    """Ask the kernel to end this child should the test run be killed."""
    _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


def engine_environment() -> dict[str, str]:
    """For an engine outside of the service: it asks no hub, and what runs in it may be sent to it."""
    return {
        **os.environ,
        "HF_HUB_OFFLINE": "1",
        "VLLM_NO_USAGE_STATS": "1",
        "VLLM_LOGGING_LEVEL": "WARNING",
        "VLLM_WORKER_MULTIPROC_METHOD": "spawn",
        "VLLM_ALLOW_INSECURE_SERIALIZATION": "1",
        "GLOO_SOCKET_IFNAME": "lo",
    }


def inherited_environment() -> dict[str, str]:
    """This process's environment for a child, whose engines must not take it for their owner."""
    return {name: value for name, value in os.environ.items() if name != OWNER}


@contextlib.contextmanager
def isolated_environment() -> Generator[dict[str, str], None, None]:
    """Variables for a client that may use loopback only: its proxy must not get any connection."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.setblocking(False)
        proxy = f"http://127.0.0.1:{listener.getsockname()[1]}"
        names = ("HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy")
        # Node.js ignores proxies unless told otherwise.
        yield dict.fromkeys(names, proxy) | {
            "NO_PROXY": "127.0.0.1",
            "no_proxy": "127.0.0.1",
            "NODE_USE_ENV_PROXY": "1",
        }
        try:
            connection, _address = listener.accept()
        except BlockingIOError:
            return
        with connection:
            connection.setblocking(True)
            connection.settimeout(5)
            wanted = connection.recv(1000).decode(errors="replace").splitlines()[0]
        raise AssertionError(f"a client has used its proxy: {wanted}")


class ProcessFailedError(Exception):
    """A process ended, or did not get ready; the message holds the end of what it said."""


class LoggedProcess:
    """A child whose output is read all along, so that it never blocks, and shown when it fails."""

    def __init__(self, command: list[str], environment: dict[str, str], folder: Path = ROOT) -> None:
        self._process = subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            cwd=folder,
            preexec_fn=_end_with_parent,
            env={
                **inherited_environment(),
                "HF_HUB_OFFLINE": "1",
                "VLLM_NO_USAGE_STATS": "1",
                "LOG_FORMAT": "text",
                **environment,
            },
        )
        self.lines: list[str] = []
        self._fresh: queue.Queue[str | None] = queue.Queue()
        threading.Thread(target=self._read, daemon=True).start()

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def output(self) -> str:
        return "".join(self.lines)

    def wait_for_line(self, pattern: str, timeout_s: float = START_TIMEOUT_S) -> re.Match[str]:
        """The first line, from now on, that matches."""
        deadline = time.monotonic() + timeout_s
        while True:
            try:
                line = self._fresh.get(timeout=max(0.0, deadline - time.monotonic()))
            except queue.Empty:
                raise ProcessFailedError(f"no line like {pattern!r} in time:\n{self.output[-3000:]}") from None
            if line is None:
                raise ProcessFailedError(f"ended without a line like {pattern!r}:\n{self.output[-3000:]}")
            if found := re.search(pattern, line):
                return found

    def wait_for_status(self, url: str, status: int = 200, timeout_s: float = START_TIMEOUT_S) -> None:
        """Until a GET of the address answers with a status."""
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline and self._process.poll() is None:
            try:
                if httpx.get(url, trust_env=False).status_code == status:
                    return
            except httpx.HTTPError:
                pass
            time.sleep(0.25)
        raise ProcessFailedError(f"{url} did not answer {status}:\n{self.output[-3000:]}")

    def engine_processes(self) -> list[psutil.Process]:
        """All processes below this one, Python's own resource tracker aside."""
        found = []
        for process in psutil.Process(self.pid).children(recursive=True):
            # Engines also run small programs of a moment, which may be gone when they are looked at.
            with contextlib.suppress(psutil.Error):
                if not is_resource_tracker(process):
                    found.append(process)
        return found

    def signal(self, number: int) -> None:
        self._process.send_signal(number)

    def wait(self, timeout_s: float = 60) -> int:
        return self._process.wait(timeout_s)

    def end(self) -> None:
        """Ask, then insist; what is left below goes too."""
        if self._process.poll() is None:
            below = psutil.Process(self.pid).children(recursive=True)
            self.signal(signal.SIGTERM)
            try:
                self.wait(30)
            except subprocess.TimeoutExpired:
                self._process.kill()
            for process in psutil.wait_procs(below, timeout=10)[1]:
                process.kill()

    def _read(self) -> None:
        assert self._process.stdout is not None
        with self._process.stdout as lines:
            for line in lines:
                self.lines.append(line)
                self._fresh.put(line)
        self._fresh.put(None)


class ServiceProcess(LoggedProcess):
    """`memoria serve`, on any free port unless told which."""

    def __init__(self, environment: dict[str, str], folder: Path = ROOT, *, port: int = 0) -> None:
        super().__init__([str(MEMORIA), "serve", "--port", str(port)], environment, folder)

    def wait_until_listening(self) -> str:
        """The base address, once the port is open; the engines may still be starting."""
        self.url = self.wait_for_line(r"Listening on (http://\S+)/v1")[1]
        return self.url

    def wait_until_ready(self) -> str:
        """The base address, once both models serve."""
        url = self.wait_until_listening()
        self.wait_until_ready_at(url)
        return url

    def wait_until_ready_at(self, url: str) -> None:
        """Until both models serve at an address that is known already."""
        self.wait_for_status(f"{url}/health/ready")


class VLLMServerProcess(LoggedProcess):
    """vLLM's own OpenAI server, as people run it today."""

    def __init__(self, model: Path, *, port: int, runner: str, flags: str = "") -> None:
        command = [
            sys.executable, "-m", "vllm.entrypoints.openai.api_server",
            "--model", str(model), "--served-model-name", model.name, "--runner", runner,
            "--host", "127.0.0.1", "--port", str(port),
            "--dtype", "float32", "--enforce-eager", *ENGINE_FLAGS.split(), *flags.split(),
        ]  # fmt: skip
        super().__init__(command, {"VLLM_LOGGING_LEVEL": "WARNING"})
        self.url = f"http://127.0.0.1:{port}"

    def wait_until_ready(self) -> str:
        self.wait_for_status(f"{self.url}/health")
        return self.url


def tiny_environment(models: dict[str, Path]) -> dict[str, str]:
    """Settings of a service over the tiny models."""
    return {
        "MODEL_EMBED_NAME": str(models["tiny-embed"]),
        "MODEL_GEN_NAME": str(models["tiny-gen"]),
        "VLLM_EMBED_ARGS": ENGINE_FLAGS,
        "VLLM_GEN_ARGS": ENGINE_FLAGS,
    }
