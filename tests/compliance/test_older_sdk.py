"""Runs the same suite with the previous major version of the SDK."""

import os
import subprocess
import sys
from pathlib import Path

import openai
import pytest

from tests.processes import ROOT

pytestmark = pytest.mark.integration

OLDER_SDK = Path(sys.prefix) / "openai-2"
IS_OLDER_RUN = openai.__version__.startswith("2.")


def test_the_suite_passes_with_the_sdk_of_the_previous_major_version(base_url: str) -> None:
    if IS_OLDER_RUN:
        assert Path(openai.__file__).is_relative_to(OLDER_SDK)
        return
    assert openai.__version__.startswith("3.")
    run = subprocess.run(
        [
            sys.executable,
            "-m",
            "pytest",
            "tests/compliance",
            # It has its own SDK.
            "--ignore=tests/compliance/test_node_sdk.py",
            "-p",
            "no:cacheprovider",
            f"--base-url={base_url}",
        ],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(OLDER_SDK)},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert run.returncode == 0, run.stdout[-3000:]
    assert "openai SDK 2." in run.stdout
