"""What a whole service says: every line of it, from its start to its end, in processes of their own."""

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
PATIENCE_S = 30.0
GATEWAY = {
    "EMBED_BACKEND": "vllm-http",
    "GEN_BACKEND": "vllm-http",
    # Nobody listens on the port for discarding.
    "VLLM_EMBED_URL": "http://127.0.0.1:9",
    "VLLM_GEN_URL": "http://127.0.0.1:9",
    "PORT": "0",
    "PYTHONPATH": str(ROOT),
}
SECRET = "a very secret sentence"
OUR_OWN = ("PATH", "HOME", "LANG", "LC_ALL", "LD_LIBRARY_PATH", "TMPDIR", "VIRTUAL_ENV")
# What is loaded when everything has been made, and what follows from a mistake of .env then.
LOOK = """
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
OF_LITESTAR = {"opentelemetry", "opentelemetry.instrumentation", "opentelemetry.semconv"}
"""Litestar looks whether its own plugin can be had: names of attributes, and nothing that does anything."""


def environment(**more: str) -> dict[str, str]:
    """Nothing of whoever runs the tests."""
    return {name: os.environ[name] for name in OUR_OWN if name in os.environ} | GATEWAY | more


class Running:
    """A service, and all that it has written to standard error."""

    def __init__(self, process: subprocess.Popen, read: Callable[[], str]) -> None:
        self._process = process
        self._read = read
        self.said = ""

    def wait_for(self, pattern: str) -> str:
        deadline = time.monotonic() + PATIENCE_S
        while not (found := re.search(pattern, self.said)):
            assert time.monotonic() < deadline, self.said
            part = self._read()
            assert part, self.said
            self.said += part
        return found[1]

    def end(self, number: int = signal.SIGTERM) -> int:
        self._process.send_signal(number)
        # The end of what it says is the end of it.
        while part := self._read():
            self.said += part
        return self._process.wait(PATIENCE_S)


@contextlib.contextmanager
def service(folder: Path, *, on_terminal: bool = False, **more: str) -> Generator[Running, None, None]:
    reading, writing = pty.openpty() if on_terminal else os.pipe()
    process = subprocess.Popen(
        [sys.executable, "-m", "app.cli", "serve"], cwd=folder, env=environment(**more), stderr=writing
    )
    os.close(writing)

    def read() -> str:
        with contextlib.suppress(OSError):
            # A terminal that nobody writes to any more is an error.
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
    raise AssertionError("it does not answer")


ASKED_ODDLY = [
    ("GET", "/none%0d%0aforged", {}),
    ("POST", "/v1/completions", {"model": "x\n", "prompt": SECRET}),
    ("POST", "/v1/embeddings", None),
]
HEADERS = {"baggage": f"{SECRET}, =,;", "tracestate": f"{SECRET}", "x-request-id": "req/1"}


def ask(url: str) -> None:
    traceparent = {"traceparent": "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"}
    for method, path, body in ASKED_ODDLY:
        httpx.request(method, url + path, json=body, headers=HEADERS | traceparent, trust_env=False)


def parsed(said: str) -> list[dict]:
    lines = [json.loads(line) for line in said.splitlines()]
    assert all({"time", "level", "logger", "message"} <= line.keys() for line in lines)
    return lines


def test_every_line_is_json_from_the_start_to_the_end(tmp_path):
    # The receiver is not there, which its exporter says, too. What is no terminal gets JSON.
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
    lines = parsed(running.said)
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
    assert SECRET not in running.said
    assert any(line["logger"].startswith("opentelemetry.exporter") for line in lines)


def test_on_a_terminal_it_is_text(tmp_path):
    with service(tmp_path, on_terminal=True) as running:
        url = running.wait_for(r"Listening on (http://[0-9.:]+)")
        running.wait_for(r"(generate +.*starting)")
        until_it_answers(url)
        ask(url)
        running.wait_for(r"(POST /v1/embeddings 400)")
        assert running.end(signal.SIGINT) == 0
    assert '{"' not in running.said
    assert "GET unmatched 404" in running.said
    assert re.search(r"embed +.*stopped", running.said)
    assert SECRET not in running.said


def test_what_exports_nothing_loads_nothing_for_it_and_a_mistake_is_a_sentence(tmp_path):
    command = [sys.executable, "-c", LOOK]
    done = subprocess.run(command, cwd=tmp_path, env=environment(), capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    loaded, variables, mistake = done.stdout.splitlines()
    assert {".".join(name.split(".")[:2]) for name in ast.literal_eval(loaded)} <= OF_LITESTAR
    assert variables == "[]"
    assert mistake.startswith("OTEL_PROPAGATORS is 'nobody': ")
    assert "Traceback" not in done.stderr
