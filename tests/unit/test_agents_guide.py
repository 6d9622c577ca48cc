"""docs/agents.md agrees with what `memoria launch` configures."""

import json
import re
import tomllib
from typing import Any

import pytest

from app.commands.launch import claude, codex, opencode
from app.commands.launch.agent import SMALL_CONTEXT
from app.commands.launch.claude import SMALL_PROMPT
from app.commands.launch.command import AGENTS
from app.commands.launch.target import Target
from app.settings import VARIABLES
from tests.deployment import ROOT

GUIDE = (ROOT / "docs" / "agents.md").read_text()
TARGET = Target(url="http://localhost:8200", model="Qwen3-8B-FP8", context=32_768)


def example(heading: str, language: str) -> str:
    """The fenced block of a section."""
    section = GUIDE.split(f"\n## {heading}\n")[1].split("\n## ")[0]
    found = re.search(rf"```{language}\n(.*?)```", section, re.DOTALL)
    assert found, heading
    return found[1]


def is_part(part: Any, whole: Any) -> bool:
    """Whether all values of nested mappings are in others."""
    if isinstance(part, dict):
        return isinstance(whole, dict) and all(name in whole and is_part(part[name], whole[name]) for name in part)
    return part == whole


def test_the_example_for_codex_is_what_the_command_prints():
    whole = tomllib.loads(codex.configure(TARGET, {}).shown)
    shown = tomllib.loads(example("Codex", "toml"))
    assert is_part(shown, whole)
    # What is only for short contexts is named below the example.
    added = {"web_search", "goals", "api_key_model_discovery", "enabled", "model_catalog_url"}
    assert added <= set(re.findall(r"`(\w+) = [^`]+`", GUIDE))
    assert set(whole) - set(shown) == {"web_search", "agents"}


def test_the_example_for_claude_is_what_the_command_prints():
    printed = set(re.findall(r"(\w+=\S+)", claude.configure(TARGET, {}).shown))
    shown = set(re.findall(r"([A-Z_]+=\S+)", example("Claude Code", "sh")))
    assert shown == printed | {"ANTHROPIC_AUTH_TOKEN=unused"}
    assert f"claude --tools {claude.SMALL_TOOLS}\n" in example("Claude Code", "sh")


def test_the_example_for_opencode_is_what_the_command_prints():
    assert is_part(json.loads(example("OpenCode", "json")), json.loads(opencode.configure(TARGET, {}).shown))


@pytest.mark.parametrize("agent", AGENTS)
def test_every_agent_and_its_file_are_named(agent):
    assert f"memoria launch {agent}" in GUIDE
    path = AGENTS[agent](TARGET, {"HOME": "/home/user"}).path
    assert f"`~{str(path).removeprefix('/home/user')}`" in GUIDE


def test_the_limits_are_those_of_the_code():
    assert f"below {SMALL_CONTEXT:,} tokens" in GUIDE
    assert f"below {3 * SMALL_PROMPT:,} Claude Code" in GUIDE


def test_the_settings_exist():
    table = GUIDE.split("## Settings that matter")[1].split("\n\nTool calls")[0]
    named = {
        name for row in re.findall(r"^\| (`[A-Z].*?) \|", table, re.MULTILINE) for name in re.findall(r"\w+", row)
    }
    assert {"STATE", "STRICT_TOOLS", "MODEL_GEN_ALIASES"} <= named <= {variable.name for variable in VARIABLES}
