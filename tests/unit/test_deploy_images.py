"""The Dockerfile: linted by hadolint, and held against the installer and the application."""

import re
import subprocess
import tomllib

import pytest

from tests.deployment import DEPLOY, ROOT, compose, tool
from tests.unit.test_install_script import install

DOCKERFILE = (DEPLOY / "Dockerfile").read_text()
STAGES = dict(re.findall(r"^FROM \S+ AS (\S+)\n(.*?)(?=^FROM |\Z)", DOCKERFILE, re.MULTILINE | re.DOTALL))
VERSION = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]


def test_hadolint_finds_nothing():
    result = subprocess.run(
        [tool("hadolint"), "--no-color", str(DEPLOY / "Dockerfile")], capture_output=True, text=True, check=False
    )
    assert (result.returncode, result.stdout) == (0, "")


def test_the_base_image_is_pinned_and_of_a_supported_python():
    (base,) = re.findall(r"^ARG PYTHON_IMAGE=(\S+)$", DOCKERFILE, re.MULTILINE)
    name, version = re.fullmatch(r"(python):(\d+\.\d+)\.\d+-slim-\w+", base).groups()
    assert name == "python"
    assert install.OLDEST_PYTHON <= tuple(map(int, version.split("."))) <= install.NEWEST_PYTHON
    foreign = set(re.findall(r"^FROM (\S+)", DOCKERFILE, re.MULTILINE)) - set(STAGES)
    assert foreign == {"${PYTHON_IMAGE}"}


@pytest.mark.parametrize("target", ["gateway", "inprocess"])
def test_the_service_is_nobody_special(target):
    (user,) = re.findall(r"^USER (\S+)$", STAGES[target], re.MULTILINE)
    assert user == "10001:10001"
    assert "--gid 10001" in STAGES["runtime"]
    assert "--uid 10001" in STAGES["runtime"]


@pytest.mark.parametrize(("target", "flavour"), [("gateway", "gateway"), ("inprocess", "gpu")])
def test_an_image_is_made_of_what_the_installer_installs(target, flavour):
    steps = STAGES[f"build-{target}"]
    (path,) = install.requirement_lists(flavour, extra=install.NOTHING)
    assert f"COPY deploy/requirements/{flavour}.txt ./" in steps
    assert path.endswith(f"deploy/requirements/{flavour}.txt")
    assert f"--no-deps -r {flavour}.txt" in steps
    assert f"COPY --from=build-{target} /opt/memoria /opt/memoria" in STAGES[target]


def test_pip_and_uv_are_the_installers():
    assert f"pip install {install.PIP} {install.UV}\n" in STAGES["build"]


def test_the_plain_image_has_no_engine_and_is_the_default():
    assert list(STAGES)[-1] == "gateway"
    assert not re.search(r"^vllm", (DEPLOY / "requirements" / "gateway.txt").read_text(), re.MULTILINE)
    assert "gpu.txt" not in STAGES["gateway"] + STAGES["build-gateway"]


async def test_the_health_check_asks_a_route_of_the_service(api):
    (address,) = re.findall(r'"(http://127\.0\.0\.1:8200/[^"]+)"', STAGES["runtime"])
    assert (await api.http.get(address.removeprefix("http://127.0.0.1:8200"))).status_code == 200


@pytest.mark.parametrize("folder", ["app", "adapters", "domain", "deploy/requirements"])
def test_what_is_built_from_is_sent_to_the_builder(folder):
    assert f"\n!{folder}\n" in (ROOT / ".dockerignore").read_text()


def test_nothing_else_is_sent_to_the_builder():
    rules = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if not line.startswith("#")]
    assert rules[0] == "*"
    assert not {"!.env", "!.git", "!.venv", "!."} & set(rules)
    for wanted in re.findall(r"^COPY (?!--from)(\S+)", DOCKERFILE, re.MULTILINE):
        assert wanted == "." or any(wanted.startswith(rule[1:]) for rule in rules if rule[0] == "!")


@pytest.mark.parametrize(("file", "suffix"), [("compose.yaml", ""), ("compose.inprocess.yaml", "-gpu")])
def test_compose_builds_these_images_under_the_version(file, suffix):
    own = compose(file)["services"]["memoria"]
    assert own["image"] == f"memoria-vllm:{VERSION}{suffix}"
    assert own["build"]["dockerfile"] == "deploy/Dockerfile"
    assert own["build"]["target"] in STAGES
    assert own["build"]["context"] == str(ROOT)
