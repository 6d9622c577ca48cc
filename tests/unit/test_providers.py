"""The provider of in-process engines before anything starts: models, plans and errors."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from adapters.memory_planning import EngineOptions
from adapters.models.locate import LocatedModel
from adapters.vllm.inprocess.provider import InProcessOptions, InProcessProvider
from domain.errors import ConfigurationError
from domain.memory_plan import Card
from domain.progress import ignore_progress
from domain.roles import ROLES, Role
from domain.units import GIB
from tests.unit.test_shape import BERT, QWEN3, write

CONFIGS = {
    Role.EMBED: BERT,
    Role.GENERATE: QWEN3,
    Role.RERANK: BERT | {"architectures": ["BertForSequenceClassification"]},
}


@pytest.fixture(autouse=True)
def memory(monkeypatch):
    """Simulates a machine without a GPU; call it with a card for other hardware."""

    def has(card: Card) -> None:
        monkeypatch.setattr("adapters.vllm.inprocess.provider.engine_card", lambda: card)

    has(Card(name="this machine", total_bytes=32 * GIB, is_gpu=False))
    return has


@pytest.fixture
def provider(tmp_path):
    """Creates a provider for roles, with small models that exist."""

    def make(*roles: Role) -> InProcessProvider:
        for role in roles:
            (tmp_path / role).mkdir()
            (tmp_path / role / "config.json").write_text(json.dumps(CONFIGS[role]))
            write(tmp_path / role / "model.safetensors", {"x.weight": ("BF16", [1000], 2000)})
        engines = {role: EngineOptions(model=str(tmp_path / role)) for role in roles}
        return InProcessProvider(InProcessOptions(engines=engines, cache_dir=tmp_path))

    return make


@pytest.mark.parametrize("roles", [[Role.EMBED], [Role.GENERATE], list(Role)])
def test_engines_are_planned_for_the_configured_roles(provider, memory, roles):
    memory(Card(name="a card", total_bytes=24 * GIB))
    here = provider(*roles)
    models = here.locate(ignore_progress)
    assert list(models) == roles
    plan = here.fitting_plan(models)
    assert [engine.role for engine in plan.engines] == roles
    assert list(here.shares_without_plan()) == roles


def test_inspecting_and_locating_find_the_same_models(provider):
    here = provider(*Role)
    for role, model in here.locate(ignore_progress).items():
        found = here.inspect(role)
        assert LocatedModel(name=found.name, source=found.source, is_local=True) == model


@pytest.mark.parametrize(("is_gpu", "default"), [(True, "gpu_default_model"), (False, "cpu_default_model")])
def test_an_unset_model_is_chosen_for_the_machine(tmp_path, memory, is_gpu, default):
    memory(Card(name="memory", total_bytes=24 * GIB, is_gpu=is_gpu))
    here = InProcessProvider(InProcessOptions(engines={Role.EMBED: EngineOptions()}, cache_dir=tmp_path))
    assert here.model_name(Role.EMBED) == getattr(ROLES[Role.EMBED], default)


def test_without_vllm_the_error_says_what_to_install(provider, monkeypatch):
    monkeypatch.setattr(os, "environ", {})
    monkeypatch.setitem(sys.modules, "adapters.vllm.inprocess.backend", None)
    with pytest.raises(ConfigurationError) as caught:
        provider(Role.GENERATE).build(ignore_progress)
    assert str(caught.value).startswith("GEN_BACKEND is vllm-inprocess, but vLLM can't be loaded here (")
    assert str(caught.value).endswith("or set GEN_BACKEND=vllm-http.")


def test_memory_is_read_again_after_models_were_prepared(provider, memory):
    here = provider(*Role)
    memory(Card(name="this machine", total_bytes=2 * GIB, is_gpu=False))
    with pytest.raises(ConfigurationError, match=r"do not fit on this machine, which has 2.0 of 2.0 GiB free"):
        here.build(ignore_progress)


def test_the_provider_does_not_import_vllm():
    code = (
        "import sys; import app.engines, app.commands.doctor.composition;"
        "sys.exit(any(name in sys.modules for name in ('vllm', 'torch', 'transformers')))"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[2])


def test_a_lone_engine_plans_with_the_memory_that_is_free(tmp_path, memory):
    # A quarter of the card, the default share, would be more than is free.
    memory(Card(name="a card", total_bytes=24 * GIB, used_bytes=20 * GIB))
    name = "Qwen/Qwen3-Embedding-0.6B"
    options = InProcessOptions(
        engines={Role.EMBED: EngineOptions(model=name)}, cache_dir=tmp_path, shares_gpu=True
    )
    models = {Role.EMBED: LocatedModel(name=name, source=name, is_local=False)}
    plan = InProcessProvider(options).fitting_plan(models)
    assert plan.fits
    assert plan.engines[0].total_bytes < 4 * GIB
