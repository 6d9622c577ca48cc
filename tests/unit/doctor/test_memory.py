"""The doctor asks the plan that a start would make, and says what that says."""

import json
import re
from pathlib import Path

import msgspec
import pytest

from adapters.models.locate import LocatedModel
from adapters.vllm.inprocess.provider import InProcessProvider
from app.commands.doctor.composition import judged
from app.commands.doctor.finding import Finding, Verdict
from app.commands.doctor.inspection import Inspection
from app.commands.doctor.memory import check_plan
from app.engines import inprocess_provider, inprocess_roles
from app.settings import Settings, load_settings
from domain.errors import ConfigurationError
from domain.memory_plan import Card
from domain.roles import Role
from domain.units import GIB, size
from tests.unit.test_shape import BERT, QWEN3, write

ROOT = Path(__file__).parents[3]
L4 = Card(name="NVIDIA L4", capability="8.9", total_bytes=24 * GIB, used_bytes=2 * GIB)


@pytest.fixture(autouse=True)
def machine(monkeypatch):
    """A machine without a card; call it with another card, or with so much memory."""

    def has(*, gib: float = 32, card: Card | None = None) -> None:
        ram = Card(name="this machine", total_bytes=int(gib * GIB), used_bytes=GIB, is_gpu=False)
        monkeypatch.setattr("adapters.models.hardware.ram", lambda: ram)
        monkeypatch.setattr("adapters.models.hardware.usable_gpu", lambda: card)

    has()
    return has


@pytest.fixture
def settings(tmp_path):
    """Settings that name two small models which are there, and nothing else."""
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


def looked(settings: Settings) -> dict[str, list[Finding]]:
    """What the doctor finds of memory, by check."""
    inspection = Inspection(provider(settings))
    for role in inprocess_roles(settings):
        judged(f"{role} model", lambda role=role: inspection.check_model(role))
    found: dict[str, list[Finding]] = {}
    for finding in judged("memory", inspection.check_memory):
        found.setdefault(finding.check, []).append(finding)
    return found


def planned(settings: Settings, *, make=InProcessProvider.plan):
    names = {role: Path(settings.role(role).model) for role in Role}
    models = {role: LocatedModel(name=at.name, source=str(at), is_local=True) for role, at in names.items()}
    return make(provider(settings), models)


@pytest.mark.parametrize(("card", "free"), [(None, "31.0 GiB"), (L4, "22.0 GiB")])
def test_what_fits_takes_what_the_plan_says(settings, machine, card, free):
    machine(card=card)
    plan = planned(settings())
    (finding,) = looked(settings())["gpu memory" if card else "memory"]
    assert finding.verdict is Verdict.OK
    total = size(sum(engine.total_bytes for engine in plan.engines))
    assert finding.found == f"the memory plan takes {total} of the {free} that are free"


@pytest.mark.parametrize("card", [None, msgspec.structs.replace(L4, total_bytes=2 * GIB, used_bytes=0)])
def test_what_does_not_fit_is_told_as_a_start_tells_it(settings, machine, card):
    machine(gib=2.5, card=card)
    (finding,) = looked(settings())["gpu memory" if card else "memory"]
    assert finding.verdict is Verdict.FAILURE
    assert "GiB are missing" in finding.found
    assert finding.advice.startswith(planned(settings()).changes[0].what)
    with pytest.raises(ConfigurationError) as caught:
        planned(settings(), make=InProcessProvider.fitting_plan)
    assert str(caught.value) == f"{finding.found}. {finding.advice}."


def test_settings_count(settings, machine):
    machine(card=L4)
    (finding,) = looked(settings(VLLM_GEN_GPU_MEMORY="0.25"))["gpu memory"]
    generous = re.search(r"takes ([\d.]+) GiB", finding.found)
    assert 6 < float(generous[1]) < 10
    (finding,) = looked(settings(VLLM_GEN_GPU_MEMORY="30GiB"))["gpu memory"]
    assert (finding.verdict, finding.found.split(",")[0]) == (
        Verdict.FAILURE,
        "VLLM_GEN_GPU_MEMORY asks for 30.0 GiB",
    )


def test_beside_a_card_the_machine_is_looked_at_too(settings, machine):
    machine(card=L4, gib=5)
    (finding,) = looked(settings())["memory"]
    assert finding.verdict is Verdict.WARNING
    assert finding.found.startswith("4.0 GiB available beside the GPU's")


@pytest.mark.parametrize("environ", [{"VLLM_GEN_ARGS": "--tensor-parallel-size 2"}, {}])
def test_without_a_plan_it_says_why(settings, tmp_path, environ):
    if not environ:
        (tmp_path / "gen" / "config.json").write_text(json.dumps({**QWEN3, "mamba_d_state": 16}))
    (finding,) = looked(settings(**environ))["memory"]
    assert finding.verdict is Verdict.WARNING
    assert re.match(r"no memory plan can be made: .*(--tensor-parallel-size|state-space layers)", finding.found)
    assert not finding.found.endswith(".")


def test_without_a_plan_there_has_to_be_what_a_start_asks_for_then(settings, machine, monkeypatch):
    flags = {"VLLM_GEN_ARGS": "--tensor-parallel-size 2"}
    machine(card=L4)
    assert [finding.verdict for finding in looked(settings(**flags))["gpu memory"]] == [
        Verdict.WARNING,
        Verdict.OK,
    ]
    machine()
    monkeypatch.setattr("adapters.vllm.inprocess.provider.CPU_ENGINE_GIB", 10**6)
    told = looked(settings(**flags))["memory"]
    assert [finding.verdict for finding in told] == [Verdict.WARNING, Verdict.FAILURE]


def test_no_model_is_fetched_for_a_plan(settings, tmp_path):
    (finding,) = looked(settings(MODEL_GEN_NAME="SmolLM2-135M-Instruct"))["memory"]
    assert (finding.verdict, finding.found) == (
        Verdict.OK,
        "31.0 GiB free; the memory plan is made when SmolLM2-135M-Instruct can be looked at",
    )
    assert not (tmp_path / "cache").exists()


def test_a_model_that_is_not_found_is_not_planned_for(settings):
    (finding,) = looked(settings(MODEL_GEN_NAME="/no/such/folder"))["memory"]
    assert (finding.verdict, finding.found) == (Verdict.WARNING, "can't be planned before the models are found")


def test_a_context_that_no_model_has_is_a_failure(settings):
    (finding,) = looked(settings(VLLM_GEN_MAX_MODEL_LEN="1000000"))["memory"]
    assert finding.verdict is Verdict.FAILURE
    assert "A context of 1000000 tokens" in finding.found


def test_the_readme_shows_the_line_as_it_is(settings):
    found = check_plan("memory", planned(settings())).found
    pattern = re.sub(r"[\d.]+ GiB", r"[\\d.]+ GiB", found)
    assert re.search(rf"^ok +memory +{pattern}$", (ROOT / "README.md").read_text(), re.MULTILINE)
