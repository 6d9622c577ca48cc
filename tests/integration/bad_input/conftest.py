"""Provides one service for all tests in this folder."""

from collections.abc import Generator
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from tests.integration.bad_input.cases import ASKED, HELLO, QUIET, TOOL
from tests.integration.bad_input.judge import post
from tests.processes import ServiceProcess, tiny_environment


def reference_results(url: str) -> dict[str, Any]:
    """Results of plain requests, which earlier requests must not change."""
    greedy = ASKED | QUIET | {"messages": HELLO, "temperature": 0, "max_tokens": 80}
    must_call = {"tools": [TOOL], "tool_choice": "required", "parallel_tool_calls": False}
    called = post(url, "/v1/chat/completions", greedy | must_call).json()
    chosen = {"prompt": "x", "temperature": 0, "structured_outputs": {"choice": ["fox", "dog"]}}
    return {
        "text": post(url, "/v1/completions", ASKED | {"prompt": "The quick", "temperature": 0}).json()["choices"],
        "vector": post(url, "/v1/embeddings", {"model": "tiny-embed", "input": "The quick"}).json()["data"],
        "call": called["choices"][0]["message"]["tool_calls"][0]["function"]["name"],
        "choice": post(url, "/v1/completions", ASKED | chosen).json()["choices"],
        "tokens": post(url, "/tokenize", {"prompt": "The quick"}).json()["tokens"],
    }


def processes(service: ServiceProcess) -> set[int]:
    """Process ids of the service and its engines."""
    return {service.pid, *(process.pid for process in service.engine_processes())}


@pytest.fixture(scope="package")
def service(tiny_models: dict[str, Path]) -> Generator[ServiceProcess, None, None]:
    """Both tiny models in one service, which must still work unchanged after all tests."""
    started = ServiceProcess(tiny_environment(tiny_models))
    try:
        started.wait_until_ready()
        # The engine's first constrained request, which must not affect later ones.
        spoil = {"type": "object", "properties": {"a": {"type": "integer", "multipleOf": 5}}}
        post(started.url, "/v1/completions", ASKED | {"prompt": "x", "structured_outputs": {"json": spoil}})
        before, running = reference_results(started.url), processes(started)
        memory = psutil.Process(started.pid).memory_info().rss
        yield started
        assert processes(started) == running, started.output[-3000:]
        assert reference_results(started.url) == before
        assert httpx.get(f"{started.url}/health", trust_env=False).status_code == 200
        assert psutil.Process(started.pid).memory_info().rss < memory + 2**30
        assert "Traceback" not in started.output, started.output[started.output.index("Traceback") :][:5000]
    finally:
        started.end()
