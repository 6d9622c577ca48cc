"""Codex and Claude Code, as users start them, run a command that a scripted model asks for."""

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.agents.conftest import NODE_MODULES, ScriptedService
from tests.agents.scripted_agent import NAME

pytestmark = pytest.mark.integration

KEY = "sk-not-a-real-key"
COMMAND = "echo made by an agent > created.txt && tr a-z A-Z < created.txt"
PRINTED = "MADE BY AN AGENT"
TIMEOUT_S = 120

# Plugins would be looked up at github.com and chatgpt.com.
CODEX_CONFIGURATION = """
model = "{model}"
model_provider = "memoria"
approval_policy = "never"
sandbox_mode = "danger-full-access"
check_for_update_on_startup = false

[model_providers.memoria]
name = "memoria"
base_url = "{url}/v1"
env_key = "MEMORIA_API_KEY"
wire_api = "responses"
supports_websockets = {over_websocket}
model_catalog_url = "{url}/v1/models"

[features]
plugins = false

[analytics]
enabled = false
"""

Run = Callable[..., "subprocess.CompletedProcess[str]"]


def program(pattern: str) -> str:
    """The program of an agent for this platform; its package's wrapper would need a script to be run first."""
    found = list(NODE_MODULES.glob(pattern))
    assert len(found) == 1, f"{pattern}: {found}"
    return str(found[0])


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The folder that an agent works in."""
    folder = tmp_path / "work"
    folder.mkdir()
    return folder


@pytest.fixture
def run(tmp_path: Path, folder: Path, isolated: dict[str, str]) -> Run:
    """Run an agent in an empty home, with none of the developer's own variables."""

    def run_agent(*command: str, **variables: str) -> "subprocess.CompletedProcess[str]":
        home = tmp_path / "home"
        home.mkdir(exist_ok=True)
        return subprocess.run(
            command,
            cwd=folder,
            env={"PATH": os.environ["PATH"], "HOME": str(home), **isolated, **variables},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=TIMEOUT_S,
            check=False,
        )

    return run_agent


def assert_that_it_ran(done: "subprocess.CompletedProcess[str]", service: ScriptedService, folder: Path) -> None:
    assert done.returncode == 0, done.stdout + done.stderr
    assert (folder / "created.txt").read_text() == "made by an agent\n"
    asked, continued = service.take_conversations()
    roles = [message["role"] for message in continued["messages"]]
    assert roles[-2:] == ["assistant", "tool"]
    assert continued["messages"][: len(asked["messages"])] == asked["messages"]
    assert PRINTED in continued["messages"][-1]["content"]
    assert "The command printed: " in done.stdout
    assert PRINTED in done.stdout


@pytest.mark.parametrize(
    ("over_websocket", "requests"),
    [
        pytest.param("false", 2, id="sse"),
        # The first message makes the prompt known; the others send what is new.
        pytest.param("true", 3, id="websocket"),
    ],
)
def test_codex(
    scripted_service: ScriptedService, run: Run, tmp_path: Path, folder: Path, over_websocket: str, requests: int
) -> None:
    configuration = tmp_path / "home" / ".codex" / "config.toml"
    configuration.parent.mkdir(parents=True)
    url = scripted_service.url
    configuration.write_text(CODEX_CONFIGURATION.format(model=NAME, url=url, over_websocket=over_websocket))
    before = scripted_service.requests()
    codex = program("@openai/codex-*/vendor/*/bin/codex")
    done = run(codex, "exec", "--skip-git-repo-check", f"Run: {COMMAND}", MEMORIA_API_KEY=KEY)
    assert_that_it_ran(done, scripted_service, folder)
    answered = scripted_service.requests() - before
    assert answered.pop("GET /v1/models 200") >= 1
    assert answered == {"POST /v1/responses 200": requests}
    # What it would say if it did not understand the list of models.
    assert "metadata" not in done.stderr


@pytest.fixture
def claude(scripted_service: ScriptedService, run: Run) -> Run:
    """Run Claude Code without requests to Anthropic."""
    program_name = program("@anthropic-ai/claude-code-*/claude")

    def run_claude(*arguments: str) -> "subprocess.CompletedProcess[str]":
        return run(
            program_name,
            *arguments,
            ANTHROPIC_BASE_URL=scripted_service.url,
            ANTHROPIC_AUTH_TOKEN=KEY,
            ANTHROPIC_MODEL=NAME,
            DISABLE_TELEMETRY="1",
            CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC="1",
        )

    return run_claude


def test_claude_code(scripted_service: ScriptedService, claude: Run, folder: Path) -> None:
    before = scripted_service.requests()
    done = claude("-p", f"Run: {COMMAND}", "--allowedTools", "Bash")
    assert_that_it_ran(done, scripted_service, folder)
    assert done.stdout == f"The command printed: {PRINTED}\n"
    assert scripted_service.requests() - before == {"POST /v1/messages 200": 2}


def test_claude_code_counts_what_its_context_holds(scripted_service: ScriptedService, claude: Run) -> None:
    before = scripted_service.requests()
    done = claude("-p", "/context")
    assert done.returncode == 0, done.stdout + done.stderr
    answered = scripted_service.requests() - before
    assert answered.keys() == {"POST /v1/messages/count_tokens 200"}
    assert "Context Usage" in done.stdout
