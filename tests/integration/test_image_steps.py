"""The build steps of the gateway image, from its Dockerfile, run without Docker."""

import re
import shutil
import subprocess
import sys
from collections.abc import Generator
from pathlib import Path

import pytest

from tests.conftest import free_port
from tests.deployment import DEPLOY, ROOT, tool
from tests.processes import LoggedProcess
from tests.unit.test_deploy_images import STAGES

VENV = "/opt/memoria"
UNREACHABLE = ("name resolution", "NewConnectionError", "Connection refused", "timed out")


def commands(stage: str) -> list[str]:
    """The RUN and COPY steps of a stage, in order."""
    text = STAGES[stage].replace("\\\n", " ")
    return re.findall(r"^((?:RUN|COPY) .+)$", text, re.MULTILINE)


def environment(stage: str) -> dict[str, str]:
    """The environment variables of a stage."""
    text = STAGES[stage].replace("\\\n", " ")
    return dict(re.findall(r"(\w+)=(\S+)", " ".join(re.findall(r"^ENV (.+)$", text, re.MULTILINE))))


def sent(context: Path) -> Path:
    """Copy the files that .dockerignore includes to the context folder."""
    rules = (ROOT / ".dockerignore").read_text().splitlines()
    for name in (rule[1:] for rule in rules if rule.startswith("!")):
        source, target = ROOT / name, context / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if source.is_dir():
            shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, target)
    return context


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The virtual environment as the build stages leave it."""
    context = sent(tmp_path_factory.mktemp("context"))
    workdir, venv = tmp_path_factory.mktemp("build"), tmp_path_factory.mktemp("opt") / "memoria"
    for step in commands("build") + commands("build-gateway"):
        if step.startswith("COPY "):
            source = step.split()[1]
            copied = context if source == "." else context / source
            command = ["cp", "-r", *(map(str, copied.iterdir()) if source == "." else [str(copied)]), str(workdir)]
        else:
            python = shutil.which("python3", path=str(Path(sys.base_prefix) / "bin")) or sys.executable
            line = step.removeprefix("RUN ").replace(VENV, str(venv))
            command = ["sh", "-c", re.sub(r"^python ", f"{python} ", line)]
        result = subprocess.run(command, cwd=workdir, capture_output=True, text=True, timeout=600, check=False)
        if result.returncode != 0 and any(sign in result.stdout + result.stderr for sign in UNREACHABLE):
            pytest.skip("pip's package index can't be reached: the image's steps are not run")
        assert result.returncode == 0, f"{step}\n{result.stdout[-2000:]}{result.stderr[-2000:]}"
    return venv


@pytest.fixture(scope="module")
def service(image: Path, tmp_path_factory: pytest.TempPathFactory) -> Generator[tuple[LoggedProcess, str]]:
    """The service as the image starts it, with servers that do not exist."""
    port = free_port()
    settings = environment("runtime") | environment("gateway")
    # On loopback: a test must not open a port to the network.
    settings |= {"PORT": str(port), "HOST": "127.0.0.1", "HOME": "/nonexistent", "PYTHONPATH": ""}
    settings |= {"VLLM_EMBED_URL": "http://embed.invalid:8100", "VLLM_GEN_URL": f"http://127.0.0.1:{free_port()}"}
    settings["PATH"] = f"{image}/bin:/usr/bin:/bin"
    process = LoggedProcess(
        [str(image / "bin" / "memoria"), "serve"], settings, tmp_path_factory.mktemp("workdir")
    )
    try:
        process.wait_for_status(f"http://127.0.0.1:{port}/health/live")
        yield process, f"http://127.0.0.1:{port}"
    finally:
        process.end()


def checked(url: str) -> int:
    """The exit code of the image's health check."""
    command = [sys.executable, str(DEPLOY / "health_check.py"), url]
    return subprocess.run(command, capture_output=True, timeout=60, check=False).returncode


def test_the_image_contains_the_pinned_packages_and_no_engine(image):
    listed = [tool("python"), "-m", "pip", "--python", str(image / "bin" / "python"), "list", "--format=freeze"]
    result = subprocess.run(listed, capture_output=True, text=True, timeout=120, check=True)
    there = dict(line.lower().replace("_", "-").split("==") for line in result.stdout.splitlines() if "==" in line)
    pins = re.findall(
        r"^([\w.-]+)==([^\s;]+)$", (DEPLOY / "requirements" / "gateway.txt").read_text(), re.MULTILINE
    )
    assert len(pins) > 30
    assert [f"{name}=={version}" for name, version in pins if there.get(name) != version] == []
    assert not {"vllm", "torch", "pytest"} & set(there)


def test_the_image_reports_its_version(image):
    command = [str(image / "bin" / "memoria"), "--version"]
    result = subprocess.run(command, env={}, capture_output=True, text=True, timeout=60, check=False)
    assert (result.returncode, result.stdout.strip().endswith("0.1.0")) == (0, True)


def test_without_servers_it_is_live_but_not_ready(service):
    _, url = service
    assert checked(f"{url}/health/live") == 0
    assert checked(f"{url}/health/ready") == 1


def test_it_shuts_down_cleanly(service):
    process, _ = service
    process.signal(15)
    assert process.wait() == 0, process.output
