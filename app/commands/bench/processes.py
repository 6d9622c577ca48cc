"""The servers that a comparison starts, each in processes of its own, and ends by their ids."""

import contextlib
import os
import re
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Generator, Mapping
from pathlib import Path

import psutil

from app.commands.bench.workloads import Side
from domain.errors import ConfigurationError
from domain.roles import ROLES, Role

READY_TIMEOUT_S = 400.0
STOP_TIMEOUT_S = 30.0
POLL_S = 0.1
CANNED_MODEL = "canned"
ENGINE_FLAGS = "--kv-cache-memory-bytes 134217728"
"""The same for both sides of a comparison, with those that the service gives its engines by itself."""
PLAIN_FLAGS = "--dtype float32 --enforce-eager"
"""What the service's engines have by themselves on the CPU."""
Models = Mapping[Role, Path]
_LITELLM_CONFIG = """\
model_list:
  - model_name: {model}
    litellm_params:
      model: text-completion-openai/{model}
      api_base: {url}/v1
      api_key: none
"""


class Server:
    """One process that serves HTTP on the loopback address."""

    def __init__(self, command: list[str], environment: Mapping[str, str], *, port: int, log: Path) -> None:
        """Start it.

        Args:
            command: what to run.
            environment: added to this process's own.
            port: where it will listen.
            log: file for what it prints.
        """
        self.url = f"http://127.0.0.1:{port}"
        self._log = log
        self._began = time.monotonic()
        with log.open("wb") as output:
            self._process = subprocess.Popen(
                command, env={**os.environ, **environment}, stdout=output, stderr=subprocess.STDOUT
            )

    @property
    def pid(self) -> int:
        """Its process's id."""
        return self._process.pid

    @property
    def is_running(self) -> bool:
        """Whether its process has not ended."""
        return self._process.poll() is None

    @property
    def log(self) -> str:
        """What it has printed."""
        return self._log.read_text(errors="replace")

    def wait_until(self, path: str, timeout_s: float = READY_TIMEOUT_S) -> float:
        """Seconds from the start until a path was answered with 200.

        Args:
            path: what to ask for.
            timeout_s: from the start of the process.

        Raises:
            ConfigurationError: the process ended before, or took too long.
        """
        while time.monotonic() - self._began < timeout_s:
            if self._process.poll() is not None:
                break
            if _answers(self.url + path):
                return time.monotonic() - self._began
            time.sleep(POLL_S)
        last = " ".join(self._log.read_text(errors="replace").split())[-400:]
        status = self._process.poll()
        ended = "is not ready yet" if status is None else f"ended with status {status}"
        raise ConfigurationError(f"A server for the comparison did not start: it {ended}. It said: {last}")

    def stop(self) -> None:
        """End it, and whatever it has left behind."""
        family = [self._process.pid]
        with contextlib.suppress(psutil.Error):
            family += [child.pid for child in psutil.Process(self._process.pid).children(recursive=True)]
        self._process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(STOP_TIMEOUT_S)
        for pid in family:
            with contextlib.suppress(psutil.Error):
                psutil.Process(pid).kill()
        self._process.wait()


class Servers:
    """Starts servers, and ends all of them when it is left."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._running: list[Server] = []

    def memoria(self, settings: Mapping[str, str]) -> Server:
        """This service with some settings; what it stores is in the folder of this benchmark."""
        port = _free_port()
        own = {"PORT": str(port), "MEMORIA_DATA_DIR": str(self._folder / f"data-{port}")}
        return self._start([sys.executable, "-m", "app.cli", "serve"], {**settings, **own}, port)

    def vllm(self, model: Path, role: Role, flags: str) -> Server:
        """vLLM's own server for one role, with all flags of its engine."""
        port = _free_port()
        command = [
            sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", str(model),
            "--served-model-name", model.name, "--runner", ROLES[role].runner,
            "--host", "127.0.0.1", "--port", str(port), "--enable-prompt-tokens-details", *flags.split(),
        ]  # fmt: skip
        environment = {"VLLM_LOGGING_LEVEL": "WARNING", "VLLM_NO_USAGE_STATS": "1", "HF_HUB_OFFLINE": "1"}
        return self._start(command, environment, port)

    def canned(self) -> Server:
        """A server that answers at once, whether it is asked as an engine or told as a collector of telemetry."""
        port = _free_port()
        return self._start([sys.executable, "-m", "app.commands.bench.canned", str(port), CANNED_MODEL], {}, port)

    def litellm(self, program: str, upstream: Server) -> Server:
        """LiteLLM's proxy in front of the canned server."""
        port = _free_port()
        config = self._folder / f"litellm-{port}.yaml"
        config.write_text(_LITELLM_CONFIG.format(model=CANNED_MODEL, url=upstream.url))
        command = [
            program,
            "--config",
            str(config),
            "--host",
            "127.0.0.1",
            "--port",
            str(port),
            "--num_workers",
            "1",
        ]
        # It refuses to start without a key otherwise; it listens on loopback for this benchmark alone.
        environment = {"LITELLM_DANGEROUSLY_PERMIT_WEAK_OR_UNSET_MASTER_KEY": "true"}
        return self._start(command, environment, port)

    def vllm_router(self, program: str, upstream: Server) -> Server:
        """vLLM's router, which is written in Rust, in front of a server."""
        port = _free_port()
        command = [
            program, "--worker-urls", upstream.url, "--host", "127.0.0.1", "--port", str(port),
            "--policy", "round_robin", "--prometheus-port", str(_free_port()),
        ]  # fmt: skip
        return self._start(command, {}, port)

    def end(self, *servers: Server) -> None:
        """End some of them."""
        for server in servers:
            server.stop()
            self._running.remove(server)

    def close(self) -> None:
        """End all of them."""
        self.end(*reversed(self._running))

    def _start(self, command: list[str], environment: Mapping[str, str], port: int) -> Server:
        server = Server(command, environment, port=port, log=self._folder / f"server-{port}.log")
        self._running.append(server)
        return server


@contextlib.contextmanager
def servers(folder: Path) -> Generator[Servers, None, None]:
    """Servers that end with the block, however it ends."""
    running = Servers(folder)
    try:
        yield running
    finally:
        running.close()


def inprocess_settings(models: Models) -> dict[str, str]:
    """Settings of a service with both engines in process."""
    return {
        "EMBED_BACKEND": "vllm-inprocess",
        "GEN_BACKEND": "vllm-inprocess",
        "MODEL_EMBED_NAME": str(models[Role.EMBED]),
        "MODEL_GEN_NAME": str(models[Role.GENERATE]),
        "VLLM_EMBED_ARGS": ENGINE_FLAGS,
        "VLLM_GEN_ARGS": ENGINE_FLAGS,
    }


def gateway_settings(embed_url: str, gen_url: str) -> dict[str, str]:
    """Settings of a service in front of other servers."""
    return {
        "EMBED_BACKEND": "vllm-http",
        "GEN_BACKEND": "vllm-http",
        "VLLM_EMBED_URL": embed_url,
        "VLLM_GEN_URL": gen_url,
        "MODEL_EMBED_NAME": "",
        "MODEL_GEN_NAME": "",
    }


def side(name: str, embed: Server, generate: Server, embed_model: str, gen_model: str) -> Side:
    """The side that one or two servers make."""
    return Side(
        name=name,
        embed_url=embed.url,
        gen_url=generate.url,
        embed_model=embed_model,
        gen_model=gen_model,
        processes=tuple(dict.fromkeys((embed.pid, generate.pid))),
    )


def alone(name: str, gateway: Server) -> Side:
    """A gateway in front of the canned server, or that one itself."""
    return side(name, gateway, gateway, CANNED_MODEL, CANNED_MODEL)


def rival(program: str) -> str | None:
    """Where a rival's program is, beside this Python or on the path; None if it is not installed."""
    beside = Path(sys.executable).with_name(program)
    return str(beside) if beside.exists() else shutil.which(program)


def version_of(program: str) -> str:
    """The version of a program, or of its package if it was installed by pip."""
    name = Path(program).name
    code = f"import importlib.metadata as m; print(m.version({name!r}))"
    python = Path(program).with_name("python")
    command = [str(python), "-c", code] if python.exists() else [program, "--version"]
    said = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False).stdout
    found = re.search(r"\d+\.\d+[\w.+-]*", said)
    return found[0] if found else "of unknown version"


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=5):
            return True
    except (OSError, urllib.error.URLError):
        return False


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
