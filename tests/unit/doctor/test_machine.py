import os

import pytest

from app.commands.doctor import machine
from app.commands.doctor.finding import Verdict
from domain.units import GIB, MIB


@pytest.mark.parametrize(("available", "verdict"), [(4, Verdict.WARNING), (9, Verdict.OK)])
def test_host_memory(available, verdict):
    assert machine.check_host_memory(available * GIB, engines=2).verdict is verdict


@pytest.mark.parametrize(
    ("free", "on_gpu", "verdict"),
    [
        (64 * MIB, False, Verdict.FAILURE),
        (64 * MIB, True, Verdict.WARNING),
        (300 * MIB, False, Verdict.WARNING),
        (2 * GIB, False, Verdict.OK),
        (None, False, Verdict.WARNING),
    ],
)
def test_shared_memory(free, on_gpu, verdict):
    assert machine.check_shared_memory(free, on_gpu=on_gpu).verdict is verdict


def test_a_disk_that_is_too_small(tmp_path):
    folder = tmp_path / "a" / "b"
    (finding,) = machine.check_disk({folder: 2**62}, {folder: "HF_HOME"})
    assert finding.verdict is Verdict.FAILURE
    assert "HF_HOME" in finding.advice
    assert not folder.exists()


def test_folders_on_one_disk_add_up(tmp_path):
    free = machine.psutil.disk_usage(str(tmp_path)).free
    one, two = tmp_path / "one", tmp_path / "two"
    needs = {one: int(free * 0.7), two: int(free * 0.7)}
    (finding,) = machine.check_disk(needs, {one: "HF_HOME", two: "MEMORIA_CACHE_DIR"})
    assert finding.verdict is Verdict.FAILURE
    assert "HF_HOME or MEMORIA_CACHE_DIR" in finding.advice


def test_a_disk_with_space(tmp_path):
    (finding,) = machine.check_disk({tmp_path: 1}, {tmp_path: "HF_HOME"})
    assert finding.verdict is Verdict.OK


def test_nothing_to_fetch_needs_no_disk():
    (finding,) = machine.check_disk({}, {})
    assert (finding.verdict, finding.found) == (Verdict.OK, "nothing has to be fetched")


def test_a_folder_that_is_not_writable(tmp_path):
    if os.geteuid() == 0:
        # Root may write everywhere, but a file can't contain a folder.
        (tmp_path / "file").write_text("")
        folder = tmp_path / "file" / "folder"
    else:
        folder = tmp_path / "closed" / "folder"
        folder.parent.mkdir(mode=0o500)
    (finding,) = machine.check_disk({folder: 1}, {folder: "MEMORIA_CACHE_DIR"})
    assert finding.verdict is Verdict.FAILURE
    assert "MEMORIA_CACHE_DIR" in finding.advice
