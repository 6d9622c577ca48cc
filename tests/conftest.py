"""Fixtures that several suites share. Engines are slow to start, so each kind is started once."""

import atexit
import os
import shutil
import socket
import tempfile
from collections.abc import Generator
from contextlib import ExitStack
from pathlib import Path

import pytest

from domain.roles import Role
from tests.processes import CHAT_FLAGS, ServiceProcess, VLLMServerProcess
from tests.tiny_rerankers import make_all_tiny_models

# The telemetry tests use gRPC in this process; without this it would warn at each fork.
os.environ["GRPC_ENABLE_FORK_SUPPORT"] = "0"
# Services store responses by default: not in the data folder of the user who runs the tests.
if "MEMORIA_DATA_DIR" not in os.environ:
    os.environ["MEMORIA_DATA_DIR"] = tempfile.mkdtemp(prefix="memoria-tests-")
    atexit.register(shutil.rmtree, os.environ["MEMORIA_DATA_DIR"], ignore_errors=True)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--base-url", help="run the compliance suite against this running service")


@pytest.fixture(scope="session")
def tiny_models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return make_all_tiny_models(tmp_path_factory.mktemp("models"))


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture(scope="session")
def vllm_servers(tiny_models: dict[str, Path]) -> Generator[dict[Role, str], None, None]:
    """Plain vLLM servers with the tiny models, one for each role."""
    with ExitStack() as stack:
        servers = {
            Role.EMBED: VLLMServerProcess(tiny_models["tiny-embed"], port=free_port(), runner="pooling"),
            Role.GENERATE: VLLMServerProcess(
                tiny_models["tiny-gen"], port=free_port(), runner="generate", flags=CHAT_FLAGS
            ),
            Role.RERANK: VLLMServerProcess(tiny_models["tiny-rerank"], port=free_port(), runner="pooling"),
        }
        for server in servers.values():
            stack.callback(server.end)
        yield {role: server.wait_until_ready() for role, server in servers.items()}


@pytest.fixture(scope="session")
def real_service() -> Generator[ServiceProcess, None, None]:
    """The service with default settings: the two small packaged models, engines in process."""
    service = ServiceProcess({})
    try:
        service.wait_until_ready()
        yield service
    finally:
        service.end()


@pytest.fixture(scope="session")
def gateway_service(
    vllm_servers: dict[Role, str], tiny_models: dict[str, Path]
) -> Generator[ServiceProcess, None, None]:
    """The service in front of the plain vLLM servers."""
    service = ServiceProcess(
        {
            "EMBED_BACKEND": "vllm-http",
            "GEN_BACKEND": "vllm-http",
            "VLLM_EMBED_URL": vllm_servers[Role.EMBED],
            "VLLM_GEN_URL": vllm_servers[Role.GENERATE],
            "RERANK_BACKEND": "vllm-http",
            "VLLM_RERANK_URL": vllm_servers[Role.RERANK],
        }
    )
    try:
        service.wait_until_ready()
        yield service
    finally:
        service.end()
