"""The doctor reports the memory plan that a start would make."""

import json
import re
from pathlib import Path

import msgspec
import pytest

from adapters.models.locate import LocatedModel
from adapters.vllm.inprocess.provider import InProcessProvider
from app.commands.doctor.composition import run_check
from app.commands.doctor.finding import Finding, Verdict
from app.commands.doctor.inspection import Inspection
from app.commands.doctor.memory import check_plan
from app.engines import inprocess_provider, inprocess_roles
from app.settings import Settings, load_settings
from domain.errors import ConfigurationError
from domain.memory_plan import Card
from domain.roles import DEFAULT_ROLES
from domain.units import GIB, size
from tests.unit.test_shape import BERT, QWEN3, write

ROOT = Path(__file__).parents[3]
L4 = Card(name="NVIDIA L4", capability="8.9", total_bytes=24 * GIB, used_bytes=2 * GIB)


@pytest.fixture(autouse=True)
def machine(monkeypatch):
    """A machine without a GPU; call the fixture to change its GPU or memory."""

    def has(*, gib: float = 32, card: Card | None = None) -> None:
        ram = Card(name="this machine", total_bytes=int(gib * GIB), used_bytes=GIB, is_gpu=False)
        monkeypatch.setattr("adapters.models.hardware.ram", lambda: ram)
        monkeypatch.setattr("adapters.models.hardware.usable_gpu", lambda: card)

    has()
    return has


@pytest.fixture
def settings(tmp_path):
    """Settings that name only two small local models."""
    for name, config in (("embed", BERT), ("gen", QWEN3)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text(json.dumps(config))
        write(tmp_path / name / "model.safetensors", {"x.weight": ("BF16", [50_000_000], 100_000_000)})
    names = {f"MODEL_{prefix}_NAME": str(tmp_path / prefix.lower()) for prefix in ("EMBED", "GEN")}

    def load(**environ: str) -> Settings:
        return load_settings({**names, "MEMORIA_CACHE_DIR": str(tmp_path / "cache"), **environ})

    return load


def provider(settings: Settings) -> InProcessProvider:
    return inprocess_provider(settings, inprocess_roles(settings))


def memory_findings(settings: Settings) -> dict[str, list[Finding]]:
    """The doctor's findings about memory, by check."""
    inspection = Inspection(provider(settings))
    for role in inprocess_roles(settings):
        run_check(f"{role} model", lambda role=role: inspection.check_model(role))
    found: dict[str, list[Finding]] = {}
    for finding in run_check("memory", inspection.check_memory):
        found.setdefault(finding.check, []).append(finding)
    return found


def planned(settings: Settings, *, make=InProcessProvider.plan):
    names = {role: Path(settings.role(role).model) for role in DEFAULT_ROLES}
    models = {role: LocatedModel(name=at.name, source=str(at), is_local=True) for role, at in names.items()}
    return make(provider(settings), models)


@pytest.mark.parametrize(("card", "free"), [(None, "31.0 GiB"), (L4, "22.0 GiB")])
def test_engines_that_fit_take_what_the_plan_says(settings, machine, card, free):
    machine(card=card)
    plan = planned(settings())
    (finding,) = memory_findings(settings())["gpu memory" if card else "memory"]
    assert finding.verdict is Verdict.OK
    total = size(sum(engine.total_bytes for engine in plan.engines))
    assert finding.found == f"the memory plan takes {total} of the {free} that are free"


@pytest.mark.parametrize("card", [None, msgspec.structs.replace(L4, total_bytes=2 * GIB, used_bytes=0)])
def test_engines_that_do_not_fit_are_reported_as_by_a_start(settings, machine, card):
    machine(gib=2.5, card=card)
    (finding,) = memory_findings(settings())["gpu memory" if card else "memory"]
    assert finding.verdict is Verdict.FAILURE
    assert "GiB are missing" in finding.found
    assert finding.advice.startswith(planned(settings()).changes[0].what)
    with pytest.raises(ConfigurationError) as caught:
        planned(settings(), make=InProcessProvider.fitting_plan)
    assert str(caught.value) == f"{finding.found}. {finding.advice}."


def test_settings_change_the_plan(settings, machine):
    machine(card=L4)
    (finding,) = memory_findings(settings(VLLM_GEN_GPU_MEMORY="0.25"))["gpu memory"]
    generous = re.search(r"takes ([\d.]+) GiB", finding.found)
    assert 6 < float(generous[1]) < 10
    (finding,) = memory_findings(settings(VLLM_GEN_GPU_MEMORY="30GiB"))["gpu memory"]
    assert (finding.verdict, finding.found.split(",")[0]) == (
        Verdict.FAILURE,
        "VLLM_GEN_GPU_MEMORY asks for 30.0 GiB",
    )


def test_with_a_gpu_host_memory_is_checked_too(settings, machine):
    machine(card=L4, gib=5)
    (finding,) = memory_findings(settings())["memory"]
    assert finding.verdict is Verdict.WARNING
    assert finding.found.startswith("4.0 GiB of host memory available")


@pytest.mark.parametrize("environ", [{"VLLM_GEN_ARGS": "--tensor-parallel-size 2"}, {}])
def test_without_a_plan_the_reason_is_reported(settings, tmp_path, environ):
    if not environ:
        (tmp_path / "gen" / "config.json").write_text(json.dumps({**QWEN3, "mamba_d_state": 16}))
    (finding,) = memory_findings(settings(**environ))["memory"]
    assert finding.verdict is Verdict.WARNING
    assert re.match(r"no memory plan can be made: .*(--tensor-parallel-size|state-space layers)", finding.found)
    assert not finding.found.endswith(".")


def test_without_a_plan_the_default_shares_are_checked(settings, machine, monkeypatch):
    flags = {"VLLM_GEN_ARGS": "--tensor-parallel-size 2"}
    machine(card=L4)
    assert [finding.verdict for finding in memory_findings(settings(**flags))["gpu memory"]] == [
        Verdict.WARNING,
        Verdict.OK,
    ]
    machine()
    monkeypatch.setattr("adapters.vllm.inprocess.provider.CPU_ENGINE_GIB", 10**6)
    findings = memory_findings(settings(**flags))["memory"]
    assert [finding.verdict for finding in findings] == [Verdict.WARNING, Verdict.FAILURE]


def test_no_model_is_fetched_for_a_plan(settings, tmp_path):
    (finding,) = memory_findings(settings(MODEL_GEN_NAME="SmolLM2-135M-Instruct"))["memory"]
    assert (finding.verdict, finding.found) == (
        Verdict.OK,
        "31.0 GiB free; the memory plan is made once SmolLM2-135M-Instruct can be inspected",
    )
    assert not (tmp_path / "cache").exists()


def test_without_the_models_there_is_no_plan(settings):
    (finding,) = memory_findings(settings(MODEL_GEN_NAME="/no/such/folder"))["memory"]
    assert (finding.verdict, finding.found) == (Verdict.WARNING, "can't be planned until the models are found")


def test_a_context_that_no_model_has_is_a_failure(settings):
    (finding,) = memory_findings(settings(VLLM_GEN_MAX_MODEL_LEN="1000000"))["memory"]
    assert finding.verdict is Verdict.FAILURE
    assert "A context of 1000000 tokens" in finding.found


def test_the_readme_shows_the_actual_line(settings):
    found = check_plan("memory", planned(settings())).found
    pattern = re.sub(r"[\d.]+ GiB", r"[\\d.]+ GiB", found)
    assert re.search(rf"^ok +memory +{pattern}$", (ROOT / "README.md").read_text(), re.MULTILINE)
