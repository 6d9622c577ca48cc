"""The complete output of a service, from start to end, in its own process."""

import ast
import contextlib
import json
import os
import pty
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Generator
from pathlib import Path

import httpx

ROOT = Path(__file__).parents[2]
TIMEOUT_S = 30.0
GATEWAY = {
    "EMBED_BACKEND": "vllm-http",
    "GEN_BACKEND": "vllm-http",
    # No server listens on the discard port.
    "VLLM_EMBED_URL": "http://127.0.0.1:9",
    "VLLM_GEN_URL": "http://127.0.0.1:9",
    "PORT": "0",
    "PYTHONPATH": str(ROOT),
}
SECRET = "a very secret sentence"
INHERITED = ("PATH", "HOME", "LANG", "LC_ALL", "LD_LIBRARY_PATH", "TMPDIR", "VIRTUAL_ENV", "MEMORIA_DATA_DIR")
# Lists the loaded modules after the service has been built, and the error of an invalid setting.
LIST_MODULES = """
import os, sys
from app import bootstrap, cli
from app.telemetry import setup
from app.http import server
from app.settings import load_settings
from domain.errors import ConfigurationError

def look(app, listener, settings, *, on_drain):
    print(sorted(name for name in sys.modules if name.split(".")[0] in {"opentelemetry", "grpc", "requests"}))
    print(sorted(name for name in os.environ if name.startswith("OTEL_")))
    given = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9", "OTEL_PROPAGATORS": "nobody"}
    try:
        setup.build_tracing(load_settings(given))
    except ConfigurationError as error:
        print(error)
    return 0

server.serve = look
cli.main(["serve"])
"""
LOADED_BY_LITESTAR = {"opentelemetry", "opentelemetry.instrumentation", "opentelemetry.semconv"}
"""Litestar checks whether its plugin is available, which loads only attribute names."""


def environment(**more: str) -> dict[str, str]:
    """An environment without the user's settings."""
    return {name: os.environ[name] for name in INHERITED if name in os.environ} | GATEWAY | more


class Running:
    """A service, and its output on standard error."""

    def __init__(self, process: subprocess.Popen, read: Callable[[], str]) -> None:
        self._process = process
        self._read = read
        self.output = ""

    def wait_for(self, pattern: str) -> str:
        deadline = time.monotonic() + TIMEOUT_S
        while not (found := re.search(pattern, self.output)):
            assert time.monotonic() < deadline, self.output
            part = self._read()
            assert part, self.output
            self.output += part
        return found[1]

    def end(self, number: int = signal.SIGTERM) -> int:
        self._process.send_signal(number)
        # Its output ends when it exits.
        while part := self._read():
            self.output += part
        return self._process.wait(TIMEOUT_S)


@contextlib.contextmanager
def service(folder: Path, *, on_terminal: bool = False, **more: str) -> Generator[Running, None, None]:
    reading, writing = pty.openpty() if on_terminal else os.pipe()
    process = subprocess.Popen(
        [sys.executable, "-m", "app.cli", "serve"], cwd=folder, env=environment(**more), stderr=writing
    )
    os.close(writing)

    def read() -> str:
        with contextlib.suppress(OSError):
            # Reading a terminal without a writer raises an error.
            return os.read(reading, 65536).decode()
        return ""

    try:
        yield Running(process, read)
    finally:
        process.kill()
        process.wait()
        os.close(reading)


def until_it_answers(url: str) -> None:
    for _ in range(300):
        with contextlib.suppress(httpx.TransportError):
            httpx.get(f"{url}/health/live", trust_env=False)
            return
        time.sleep(0.02)
    raise AssertionError("the service does not respond")


ODD_REQUESTS = [
    ("GET", "/none%0d%0aforged", {}),
    ("POST", "/v1/completions", {"model": "x\n", "prompt": SECRET}),
    ("POST", "/v1/embeddings", None),
]
HEADERS = {"baggage": f"{SECRET}, =,;", "tracestate": f"{SECRET}", "x-request-id": "req/1"}


def ask(url: str) -> None:
    traceparent = {"traceparent": "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"}
    for method, path, body in ODD_REQUESTS:
        httpx.request(method, url + path, json=body, headers=HEADERS | traceparent, trust_env=False)


def parsed(output: str) -> list[dict]:
    lines = [json.loads(line) for line in output.splitlines()]
    assert all({"time", "level", "logger", "message"} <= line.keys() for line in lines)
    return lines


def test_every_log_line_is_json(tmp_path):
    # There is no receiver, so the exporter logs errors too. The log is JSON unless it goes to a terminal.
    (tmp_path / ".env").write_text(
        "MODEL_EMBD_NAME=x\nOTEL_EXPORTER_OTLP_ENDPOINT=http://127.0.0.1:9\nOTEL_EXPORTER_OTLP_TIMEOUT=0.2\n"
        "OTEL_BSP_SCHEDULE_DELAY=100\n"
    )
    with service(tmp_path) as running:
        url = running.wait_for(r"Listening on (http://[0-9.:]+)")
        running.wait_for(r'("role":"generate")')
        until_it_answers(url)
        ask(url)
        running.wait_for(r"(POST /v1/embeddings)")
        assert running.end() == 0
    lines = parsed(running.output)
    messages = [line["message"] for line in lines]
    assert any("Did you mean MODEL_EMBED_NAME?" in message for message in messages)
    requests = [line for line in lines if line["logger"] == "memoria.request"]
    assert [(line["status"], line["route"]) for line in requests] == [
        (404, "unmatched"),
        (503, "/v1/completions"),
        (400, "/v1/embeddings"),
    ]
    assert {line["request_id"] for line in requests} == {"req/1"}
    assert {line["trace_id"] for line in requests} == {"4bf92f3577b34da6a3ce929d0e0e4736"}
    assert {line["role"] for line in lines if line.get("state") == "stopped"} == {"embed", "generate"}
    assert SECRET not in running.output
    assert any(line["logger"].startswith("opentelemetry.exporter") for line in lines)


def test_the_log_is_text_on_a_terminal(tmp_path):
    with service(tmp_path, on_terminal=True) as running:
        url = running.wait_for(r"Listening on (http://[0-9.:]+)")
        running.wait_for(r"(generate +.*starting)")
        until_it_answers(url)
        ask(url)
        running.wait_for(r"(POST /v1/embeddings 400)")
        assert running.end(signal.SIGINT) == 0
    assert '{"' not in running.output
    assert "GET unmatched 404" in running.output
    assert re.search(r"embed +.*stopped", running.output)
    assert SECRET not in running.output


def test_without_export_no_exporter_is_loaded_and_mistakes_are_reported(tmp_path):
    command = [sys.executable, "-c", LIST_MODULES]
    done = subprocess.run(command, cwd=tmp_path, env=environment(), capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    loaded, variables, mistake = done.stdout.splitlines()
    assert {".".join(name.split(".")[:2]) for name in ast.literal_eval(loaded)} <= LOADED_BY_LITESTAR
    assert variables == "[]"
    assert mistake.startswith("OTEL_PROPAGATORS is 'nobody': ")
    assert "Traceback" not in done.stderr
