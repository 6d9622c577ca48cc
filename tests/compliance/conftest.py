"""The suite uses a running service over loopback, through the unmodified SDK or plain HTTP."""

from collections.abc import Generator

import httpx
import openai
import pytest
from openai import OpenAI

EMBED, GENERATE = "all-MiniLM-L6-v2", "SmolLM2-135M-Instruct"


@pytest.fixture(scope="session")
def base_url(request: pytest.FixtureRequest) -> str:
    given = request.config.getoption("--base-url")
    return given or f"{request.getfixturevalue('real_service').url}/v1"


@pytest.fixture(scope="session")
def client(base_url: str) -> OpenAI:
    return OpenAI(base_url=base_url, api_key="unused", max_retries=0)


@pytest.fixture(scope="session")
def http(base_url: str) -> Generator[httpx.Client, None, None]:
    root = base_url.removesuffix("/v1")
    with httpx.Client(base_url=root, trust_env=False, timeout=60) as client:
        yield client


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Skip tests without an SDK when the suite runs with another SDK."""
    if config.getoption("--base-url") and openai.__version__.startswith("2."):
        items[:] = [item for item in items if "client" in getattr(item, "fixturenames", ())]


def pytest_report_header() -> str:
    return f"openai SDK {openai.__version__}"
