"""The set-up itself: what is installed is what is pinned, and a second call has nothing to do."""

import importlib.metadata
import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.processes import ROOT


def test_a_second_install_has_nothing_to_do() -> None:
    command = [sys.executable, "deploy/install.py", "--with", "tests"]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert (run.returncode, run.stdout, run.stderr) == (0, "", "")


@pytest.mark.parametrize("pins", ["cpu", "test"])
def test_what_is_installed_is_what_is_pinned(pins: str) -> None:
    if importlib.util.find_spec("vllm") and "cpu" not in importlib.metadata.version("torch"):
        pins = {"cpu": "gpu"}.get(pins, pins)
    lines = (ROOT / "deploy" / "requirements" / f"{pins}.txt").read_text().split("\n")
    for requirement in map(Requirement, filter(None, lines)):
        if requirement.marker is None or requirement.marker.evaluate():
            assert requirement.specifier.contains(importlib.metadata.version(requirement.name), prereleases=True)


@pytest.mark.parametrize("name", ["clients", "agents"])
def test_clients_are_installed_as_pinned_in_an_environment_of_their_own(name: str) -> None:
    environment = Path(sys.prefix) / name
    libraries = [str(path) for path in environment.glob("lib/python*/site-packages")]
    found = importlib.metadata.distributions(path=libraries)
    installed = {canonicalize_name(distribution.metadata["Name"]): distribution.version for distribution in found}
    lines = (ROOT / "deploy" / "requirements" / f"{name}.txt").read_text().splitlines()
    for requirement in map(Requirement, lines):
        if requirement.marker is None or requirement.marker.evaluate():
            assert requirement.specifier.contains(installed[canonicalize_name(requirement.name)], prereleases=True)


def test_what_breaks_vllm_on_the_cpu_is_not_installed() -> None:
    if "cpu" in importlib.metadata.version("torch"):
        names = {distribution.metadata["Name"].lower() for distribution in importlib.metadata.distributions()}
        assert not names & {"torchvision", "torchaudio", "torchcodec", "triton"}


def test_the_pinned_versions_of_vllm_agree() -> None:
    found = {
        pins: re.search(r"^vllm(?:-cpu)?==(\S+)", (ROOT / "deploy/requirements" / f"{pins}.txt").read_text(), re.M)
        for pins in ("cpu", "gpu")
    }
    assert found["cpu"]
    assert found["gpu"]
    assert found["cpu"][1] == found["gpu"][1]


def test_the_gateway_needs_no_engine() -> None:
    gateway = (ROOT / "deploy/requirements/gateway.txt").read_text()
    assert not re.search(r"^(vllm|torch|transformers|numpy)", gateway, re.M)
