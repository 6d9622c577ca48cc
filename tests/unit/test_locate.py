import sys
from pathlib import Path

import pytest

from adapters.models.locate import default_model, locate
from adapters.models.packaged import PACKAGED_MODELS
from domain.errors import ConfigurationError
from domain.memory_plan import Card
from domain.roles import DEFAULT_ROLES
from domain.units import GIB

SETTING = "MODEL_EMBED_NAME"


def located(name: str, cache: Path = Path("no-cache")):
    return locate(name, setting=SETTING, cache=cache, progress=lambda _step, _share: None)


def error_of(name: str) -> str:
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


@pytest.mark.parametrize("role", DEFAULT_ROLES)
def test_without_a_gpu_the_packaged_models_are_the_default(role):
    assert (
        PACKAGED_MODELS[default_model(role, Card(name="this machine", total_bytes=64 * GIB, is_gpu=False))].role
        is role
    )


@pytest.mark.parametrize("role", DEFAULT_ROLES)
def test_a_small_gpu_gets_the_packaged_models(role):
    assert default_model(role, Card(name="a card", total_bytes=int(19.9 * GIB))) in PACKAGED_MODELS


@pytest.mark.parametrize("role", DEFAULT_ROLES)
def test_a_large_gpu_gets_the_larger_models(role):
    assert default_model(role, Card(name="a card", total_bytes=int(20.0 * GIB))).startswith("Qwen/")


def test_a_folders_name_is_the_models_name(model_folder):
    found = located(str(model_folder))
    assert (found.name, found.source, found.is_local) == ("my-model", str(model_folder), True)


def test_a_folder_may_be_relative(model_folder, monkeypatch):
    monkeypatch.chdir(model_folder.parent)
    assert located("my-model").source == str(model_folder)
    assert located("./my-model/").name == "my-model"
    monkeypatch.chdir(model_folder)
    assert located(".").name == "my-model"


def test_a_folder_may_start_with_a_tilde(model_folder, monkeypatch):
    monkeypatch.setenv("HOME", str(model_folder.parent))
    assert located("~/my-model").source == str(model_folder)


def test_a_folder_without_a_model_is_reported(tmp_path):
    assert "config.json" in error_of(str(tmp_path))


@pytest.mark.parametrize("name", ["./nothing", "/no/such/folder", "../nothing", "~/no-such-folder", "a/b/c"])
def test_a_missing_folder_is_reported(name):
    assert f"no folder {name}" in error_of(name)


def test_an_unknown_home_folder_is_reported():
    assert "~no-such-user" in error_of("~no-such-user/model")


@pytest.mark.parametrize(
    ("name", "meant"), [("all-minilm-l6", "all-MiniLM-L6-v2"), ("SmolLM2-135M", "SmolLM2-135M-Instruct")]
)
def test_a_misspelled_packaged_model_gets_a_suggestion(name, meant):
    assert f"Did you mean '{meant}'?" in error_of(name)


def test_an_unknown_name_lists_the_packaged_models():
    said = error_of("zzz")
    assert "Did you mean" not in said
    assert all(name in said for name in PACKAGED_MODELS)


@pytest.mark.parametrize("name", PACKAGED_MODELS)
def test_a_prepared_packaged_model_is_found_in_the_cache(name, tmp_path):
    folder = tmp_path / "models" / PACKAGED_MODELS[name].folder_name
    folder.mkdir(parents=True)
    found = located(name, tmp_path)
    assert (found.name, found.source, found.is_local) == (name, str(folder), True)


def test_a_hub_name_without_the_hubs_library_is_reported(monkeypatch):
    # The gateway is installed without it. None in sys.modules makes an import fail.
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    monkeypatch.setitem(sys.modules, "huggingface_hub.errors", None)
    assert "org/model" in error_of("org/model")
