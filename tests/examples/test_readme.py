"""What the README shows is run, and what it says comes out is what comes out."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.processes import ROOT, ServiceProcess

README = (ROOT / "README.md").read_text()


def block(marker: str) -> str:
    """The fenced block after an HTML comment."""
    found = re.search(rf"<!-- {marker} -->\n```\w*\n(.*?)```", README, re.S)
    assert found, f"the README has a block after <!-- {marker} -->"
    return found[1]


@pytest.mark.integration
@pytest.mark.parametrize(("code", "output"), [("example", "output"), ("rerank", "rerank output")])
def test_an_example_prints_what_the_readme_says(
    real_service: ServiceProcess, tmp_path: Path, code: str, output: str
) -> None:
    example = block(code)
    assert "http://localhost:8200/v1" in example
    script = tmp_path / "example.py"
    script.write_text(example.replace("http://localhost:8200/v1", f"{real_service.url}/v1"))
    run = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, timeout=120, check=False)
    assert run.returncode == 0, run.stderr
    assert run.stdout == block(output)


def test_every_make_target_of_the_readme_exists() -> None:
    makefile = (ROOT / "Makefile").read_text()
    for target in set(re.findall(r"\bmake (\w+)", README)):
        assert re.search(rf"^{target}:", makefile, re.M), target
