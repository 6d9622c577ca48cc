"""The manifests: checked against Kubernetes' own schemas, rendered where a kustomize is at hand."""

import shutil
import subprocess
from collections.abc import Iterator
from functools import cache
from typing import Any

import kubernetes_validate
import pytest
import yaml

from app.settings import VARIABLES, load_settings
from domain.roles import Role
from tests.deployment import DEPLOY

MANIFESTS = DEPLOY / "kubernetes"
OVERLAYS = ["gateway", "inprocess"]
KUBERNETES = "1.37"
# Complete in themselves, so that they are checked where nothing renders.
WHOLE = [
    *sorted((MANIFESTS / "base").glob("[!k]*.yaml")),
    *(MANIFESTS / "overlays" / "inprocess" / name for name in ("cache.yaml", "data.yaml")),
]


def rendering() -> list[str] | None:
    """The command that renders a folder, or None where this machine has none."""
    if shutil.which("kustomize"):
        return ["kustomize", "build"]
    return ["kubectl", "kustomize"] if shutil.which("kubectl") else None


@cache
def rendered(folder: str) -> tuple[dict[str, Any], ...]:
    command = rendering()
    if command is None:
        pytest.skip("neither kustomize nor kubectl is on this machine: overlays are not rendered")
    result = subprocess.run([*command, str(MANIFESTS / folder)], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    return tuple(yaml.safe_load_all(result.stdout))


def one(folder: str, kind: str) -> dict[str, Any]:
    (found,) = (each for each in rendered(folder) if each["kind"] == kind)
    return found


def pod(overlay: str) -> dict[str, Any]:
    spec: dict[str, Any] = one(f"overlays/{overlay}", "Deployment")["spec"]["template"]["spec"]
    return spec


def container(overlay: str) -> dict[str, Any]:
    (own,) = pod(overlay)["containers"]
    return own


def base() -> dict[str, Any]:
    spec: dict[str, Any] = yaml.safe_load((MANIFESTS / "base" / "deployment.yaml").read_text())["spec"]["template"]
    return spec["spec"]


def probes(own: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    for name in ("startupProbe", "livenessProbe", "readinessProbe"):
        yield name, own[name]


@pytest.mark.parametrize("path", WHOLE, ids=lambda path: path.name)
def test_each_manifest_follows_the_schema(path):
    for document in yaml.safe_load_all(path.read_text()):
        kubernetes_validate.validate(document, KUBERNETES, strict=True)


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_what_an_overlay_renders_follows_the_schemas(overlay):
    documents = rendered(f"overlays/{overlay}")
    assert {"Deployment", "Service", "ConfigMap", "PodDisruptionBudget"} <= {each["kind"] for each in documents}
    for document in documents:
        kubernetes_validate.validate(document, KUBERNETES, strict=True)


def test_probes_ask_for_life_and_readiness():
    (own,) = base()["containers"]
    paths = {name: probe["httpGet"]["path"] for name, probe in probes(own)}
    assert paths == {
        "startupProbe": "/health/live",
        "livenessProbe": "/health/live",
        "readinessProbe": "/health/ready",
    }


async def test_what_is_probed_are_routes_of_the_service(api):
    (own,) = base()["containers"]
    (port,) = own["ports"]
    for _, probe in probes(own):
        assert probe["httpGet"]["port"] == port["name"]
        assert (await api.http.get(probe["httpGet"]["path"])).status_code == 200
    assert {"name": "PORT", "value": str(port["containerPort"])} in own["env"]
    assert load_settings({}).port == port["containerPort"]


def test_the_time_to_end_covers_the_drain():
    spec = base()
    (own,) = spec["containers"]
    before = int(own["lifecycle"]["preStop"]["exec"]["command"][-1])
    settings = yaml.safe_load((MANIFESTS / "base" / "kustomization.yaml").read_text())["configMapGenerator"]
    literals = dict(line.split("=", 1) for line in settings[0]["literals"])
    drain = load_settings(literals).drain_timeout_s
    assert before > 0
    # Engines have up to 25 s to end after that (adapters.vllm.inprocess.engine).
    assert spec["terminationGracePeriodSeconds"] >= before + drain + 25


def test_the_pod_is_confined():
    spec = base()
    (own,) = spec["containers"]
    assert spec["automountServiceAccountToken"] is False
    assert spec["securityContext"]["runAsNonRoot"] is True
    assert spec["securityContext"]["runAsUser"] == 10001
    assert spec["securityContext"]["seccompProfile"]["type"] == "RuntimeDefault"
    assert own["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }


def test_without_keys_no_pod_starts():
    (own,) = base()["containers"]
    (keys,) = (each for each in own["env"] if each["name"] == "API_KEYS")
    assert "optional" not in keys["valueFrom"]["secretKeyRef"]


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_settings_are_the_services_own_and_usable(overlay):
    data = one(f"overlays/{overlay}", "ConfigMap")["data"]
    assert set(data) <= {variable.name for variable in VARIABLES}
    loaded = load_settings(data)
    backend = {"gateway": "vllm-http", "inprocess": "vllm-inprocess"}[overlay]
    assert (loaded.role(Role.EMBED).backend, loaded.role(Role.GENERATE).backend) == (backend, backend)
    secret = {each["name"] for each in container(overlay)["env"] if "valueFrom" in each}
    assert secret - {variable.name for variable in VARIABLES} <= {"HF_TOKEN"}


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_the_image_is_pinned(overlay):
    assert container(overlay)["image"].rpartition(":")[2].startswith("0.1.0")


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_the_service_and_the_budget_mean_these_pods(overlay):
    labels = one(f"overlays/{overlay}", "Deployment")["spec"]["template"]["metadata"]["labels"]
    service = one(f"overlays/{overlay}", "Service")["spec"]
    budget = one(f"overlays/{overlay}", "PodDisruptionBudget")["spec"]
    for selector in (service["selector"], budget["selector"]["matchLabels"]):
        assert selector.items() <= labels.items()
    (port,) = service["ports"]
    assert port["targetPort"] == container(overlay)["ports"][0]["name"]
    # A budget that never lets the last pod go would hold up every drain of its node.
    assert budget["maxUnavailable"] == 1


def test_engines_in_process_have_a_card_and_one_pod():
    spec = one("overlays/inprocess", "Deployment")["spec"]
    assert (spec["replicas"], spec["strategy"]["type"]) == (1, "Recreate")
    assert container("inprocess")["resources"]["limits"]["nvidia.com/gpu"] == 1
    mounts = {mount["mountPath"] for mount in container("inprocess")["volumeMounts"]}
    assert mounts == {"/tmp", "/dev/shm", "/home/memoria/.cache", "/home/memoria/data"}


def test_what_is_stored_is_shared_or_kept():
    """Two pods have no file in common; one keeps its file in a volume, where the image puts it."""
    text = (MANIFESTS / "overlays" / "gateway" / "kustomization.yaml").read_text()
    assert "- STATE=off" in text
    image = (DEPLOY / "Dockerfile").read_text()
    mounted = yaml.safe_load((MANIFESTS / "overlays" / "inprocess" / "deployment.yaml").read_text())
    (own,) = mounted["spec"]["template"]["spec"]["containers"]
    (folder,) = (each["mountPath"] for each in own["volumeMounts"] if each["name"] == "data")
    assert f"MEMORIA_DATA_DIR={folder} " in image


def test_a_gateway_needs_no_card_and_is_there_twice():
    assert one("overlays/gateway", "Deployment")["spec"]["replicas"] == 2
    assert "nvidia.com/gpu" not in container("gateway")["resources"]["limits"]


def test_the_monitor_scrapes_the_services_port():
    monitor = yaml.safe_load((MANIFESTS / "components" / "monitoring" / "service-monitor.yaml").read_text())
    service = yaml.safe_load((MANIFESTS / "base" / "service.yaml").read_text())
    (endpoint,) = monitor["spec"]["endpoints"]
    assert (endpoint["port"], endpoint["path"]) == (service["spec"]["ports"][0]["name"], "/metrics")
    settings = yaml.safe_load((MANIFESTS / "base" / "kustomization.yaml").read_text())
    # The monitor chooses services by their labels, and kustomize gives them theirs.
    assert monitor["spec"]["selector"]["matchLabels"] == settings["labels"][0]["pairs"]
