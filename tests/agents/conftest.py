"""Fixtures: a service whose model is scripted, and an environment in which agents reach nothing but loopback."""

import re
import sys
from collections import Counter
from collections.abc import Generator
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest

from tests.agents.scripted_agent import CONVERSATIONS_FILE
from tests.processes import ROOT, ServiceProcess, isolated_environment

NODE_MODULES = Path(sys.prefix) / "node-agents" / "node_modules"
_COUNT = re.compile(
    r'^http_server_request_duration_seconds_count\{.*http_request_method="(\w+)",http_response_status_code="(\d+)",'
    r'http_route="([^"]+)".*\} ([\d.]+)$',
    re.M,
)


class ScriptedService(ServiceProcess):
    """`memoria serve` with a scripted model, which stores responses in a folder of its own."""

    def __init__(self, folder: Path) -> None:
        self._conversations = folder / "conversations"
        self._conversations.touch()
        super().__init__(
            {
                "PYTHONPATH": str(ROOT),
                "EMBED_BACKEND": "off",
                "GEN_BACKEND": "tests.agents.scripted_agent.factory",
                "MEMORIA_DATA_DIR": str(folder / "state"),
                CONVERSATIONS_FILE: str(self._conversations),
            }
        )

    def take_conversations(self) -> list[dict[str, Any]]:
        """The conversations that the model has answered since the last call."""
        lines = self._conversations.read_bytes().splitlines()
        self._conversations.write_bytes(b"")
        return [msgspec.json.decode(line) for line in lines]

    def requests(self) -> Counter[str]:
        """All answered requests below /v1, as `POST /v1/responses 200`; messages of WebSockets count as such."""
        metrics = httpx.get(f"{self.url}/metrics", trust_env=False).text
        found = {
            f"{method} {route} {status}": int(float(count))
            for method, status, route, count in _COUNT.findall(metrics)
        }
        return Counter({request: count for request, count in found.items() if " /v1/" in request})


@pytest.fixture(scope="package")
def scripted_service(tmp_path_factory: pytest.TempPathFactory) -> Generator[ScriptedService, None, None]:
    service = ScriptedService(tmp_path_factory.mktemp("scripted"))
    try:
        service.wait_until_ready()
        yield service
    finally:
        service.end()


@pytest.fixture(scope="module")
def isolated() -> Generator[dict[str, str], None, None]:
    """Variables of an agent that must contact nothing but loopback."""
    with isolated_environment() as variables:
        yield variables
