import sys
from pathlib import Path

import pytest

from adapters.models.locate import default_model, locate
from adapters.models.packaged import PACKAGED_MODELS
from domain.errors import ConfigurationError
from domain.memory_plan import Card
from domain.roles import Role
from domain.units import GIB

SETTING = "MODEL_EMBED_NAME"


def located(name: str, cache: Path = Path("no-cache")):
    return locate(name, setting=SETTING, cache=cache, progress=lambda _step, _share: None)


def mistake(name: str) -> str:
    with pytest.raises(ConfigurationError) as caught:
        located(name)
    assert str(caught.value).startswith(f"{SETTING}: ")
    return str(caught.value)


@pytest.fixture
def model_folder(tmp_path) -> Path:
    folder = tmp_path / "my-model"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    return folder


@pytest.mark.parametrize("role", Role)
def test_without_a_gpu_the_packaged_models_are_the_default(role):
    assert (
        PACKAGED_MODELS[default_model(role, Card(name="this machine", total_bytes=64 * GIB, is_gpu=False))].role
        is role
    )


@pytest.mark.parametrize("role", Role)
def test_a_gpu_without_room_for_the_larger_pair_gets_the_packaged_models(role):
    assert default_model(role, Card(name="a card", total_bytes=int(19.9 * GIB))) in PACKAGED_MODELS


@pytest.mark.parametrize("role", Role)
def test_a_roomy_gpu_gets_the_larger_pair(role):
    assert default_model(role, Card(name="a card", total_bytes=int(20.0 * GIB))).startswith("Qwen/")


def test_a_folder_is_called_by_its_name(model_folder):
    found = located(str(model_folder))
    assert (found.name, found.source, found.is_local) == ("my-model", str(model_folder), True)


def test_a_folder_may_be_told_relative(model_folder, monkeypatch):
    monkeypatch.chdir(model_folder.parent)
    assert located("my-model").source == str(model_folder)
    assert located("./my-model/").name == "my-model"
    monkeypatch.chdir(model_folder)
    assert located(".").name == "my-model"


def test_a_folder_may_be_told_by_the_home_folder(model_folder, monkeypatch):
    monkeypatch.setenv("HOME", str(model_folder.parent))
    assert located("~/my-model").source == str(model_folder)


def test_a_folder_without_a_model_is_told(tmp_path):
    assert "config.json" in mistake(str(tmp_path))


@pytest.mark.parametrize("name", ["./nothing", "/no/such/folder", "../nothing", "~/no-such-folder", "a/b/c"])
def test_a_folder_that_is_not_there_is_told(name):
    assert f"no folder {name}" in mistake(name)


def test_a_home_folder_of_nobody_is_told():
    assert "~nobody-of-this-name" in mistake("~nobody-of-this-name/model")


@pytest.mark.parametrize(
    ("name", "meant"), [("all-minilm-l6", "all-MiniLM-L6-v2"), ("SmolLM2-135M", "SmolLM2-135M-Instruct")]
)
def test_a_misspelled_packaged_model_is_told_the_one_it_resembles(name, meant):
    assert f"Did you mean '{meant}'?" in mistake(name)


def test_a_name_like_no_other_is_told_what_is_allowed():
    said = mistake("zzz")
    assert "Did you mean" not in said
    assert all(name in said for name in PACKAGED_MODELS)


@pytest.mark.parametrize("name", PACKAGED_MODELS)
def test_a_packaged_model_that_is_prepared_is_found_in_the_cache(name, tmp_path):
    folder = tmp_path / "models" / PACKAGED_MODELS[name].folder_name
    folder.mkdir(parents=True)
    found = located(name, tmp_path)
    assert (found.name, found.source, found.is_local) == (name, str(folder), True)


def test_a_hub_name_without_the_hubs_library_is_told(monkeypatch):
    # The gateway is installed without it. None in sys.modules makes an import fail.
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    monkeypatch.setitem(sys.modules, "huggingface_hub.errors", None)
    assert "org/model" in mistake("org/model")
