"""The examples of other people's clients are run as they are, in the environment that those clients want."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Generator
from pathlib import Path

import pytest

from tests.processes import ServiceProcess, isolated_environment

pytestmark = pytest.mark.integration

FOLDER = Path(__file__).parent
PYTHON = Path(sys.prefix) / "clients" / "bin" / "python"
NEAREST = "Paris is the capital of France and lies on the river Seine."

Run = Callable[[str], dict[str, str]]


@pytest.fixture
def isolated() -> Generator[dict[str, str], None, None]:
    with isolated_environment() as variables:
        yield variables


@pytest.fixture
def run(real_service: ServiceProcess, isolated: dict[str, str], tmp_path: Path) -> Run:
    """Run an example; what it printed, by the word in front of each line."""
    environment = {
        **os.environ,
        **isolated,
        "OPENAI_BASE_URL": f"{real_service.url}/v1",
        "LITELLM_LOCAL_MODEL_COST_MAP": "True",
        "LANGSMITH_TRACING": "false",
    }

    def run_example(name: str) -> dict[str, str]:
        done = subprocess.run(
            [str(PYTHON), str(FOLDER / name)],
            env=environment,
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=180,
            check=False,
        )
        assert done.returncode == 0, done.stderr[-3000:]
        return dict(re.findall(r"^([a-z ]+): (.+)$", done.stdout, re.M))

    return run_example


def assert_weather(text: str) -> None:
    weather = json.loads(text)
    assert weather.keys() == {"sky", "windy"}
    assert weather["sky"] in {"clear", "cloudy"}
    assert isinstance(weather["windy"], bool)


def test_langchain(run: Run) -> None:
    said = run("langchain_rag.py")
    assert said["found"] == NEAREST
    assert "Paris" in said["answer"]
    assert int(said["tokens"]) > 20
    assert int(said["pieces"]) > 1
    assert said["streamed"] == said["answer"]
    assert_weather(said["structured"])
    assert said["tool"] in {"It is sunny in Paris.", "It is sunny in Rome."}


def test_llamaindex(run: Run) -> None:
    said = run("llamaindex_rag.py")
    assert said["found"] == NEAREST
    assert "Paris" in said["answer"]
    assert int(said["pieces"]) > 1
    assert said["streamed"] == said["answer"]
    assert said["chat"].strip()
    assert said["messages"] == "4"


@pytest.mark.parametrize("name", ["langchain_rerank.py", "llamaindex_rerank.py"])
def test_rerank_clients(run: Run, name: str) -> None:
    said = run(name)
    assert said["best"] == NEAREST
    assert said["count"] == "2"
    first, second = map(float, said["scores"].split())
    assert 1 > first > second > -1


def test_litellm(run: Run) -> None:
    said = run("litellm_client.py")
    assert "Paris" in said["answer"]
    assert int(said["tokens"]) > 20
    assert int(said["pieces"]) > 1
    assert said["streamed"] == said["answer"]
    assert said["streamed tokens"] == said["tokens"]
    assert_weather(said["structured"])
    assert said["nearest"] == "cat"
    assert said["error"] == "404"
