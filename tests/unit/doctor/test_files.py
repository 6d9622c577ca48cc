import os

import psutil
import pytest

from app.commands.doctor.composition import examine
from app.commands.doctor.files import check_files, no_files
from app.commands.doctor.finding import Verdict
from domain.units import GIB


@pytest.fixture(autouse=True)
def _free(monkeypatch, tmp_path):
    """Bytes free on the disk."""
    usage = psutil.disk_usage(str(tmp_path))._replace(free=3 * GIB)
    monkeypatch.setattr("psutil.disk_usage", lambda _path: usage)


@pytest.mark.parametrize("name", ["files", "missing/data/files"])
def test_a_folder_that_can_be_created_is_accepted_and_not_created(tmp_path, name):
    finding = check_files(tmp_path / name, max_total_bytes=3 * GIB)
    assert (finding.verdict, finding.found) == (Verdict.OK, f"kept in {tmp_path / name}, up to 3.0 GiB")
    assert list(tmp_path.iterdir()) == []


def test_the_disk_has_to_have_space_for_all_files(tmp_path):
    finding = check_files(tmp_path / "files", max_total_bytes=4 * GIB)
    assert finding.verdict is Verdict.WARNING
    assert "only 3.0 GiB free" in finding.found
    assert "FILES_MAX_TOTAL_SIZE" in finding.advice


def test_what_is_kept_needs_no_further_space(tmp_path):
    contents = tmp_path / "files" / "database" / "file-1"
    contents.parent.mkdir(parents=True)
    with contents.open("wb") as file:
        file.truncate(GIB)
    assert check_files(tmp_path / "files", max_total_bytes=4 * GIB).verdict is Verdict.OK
    assert check_files(tmp_path / "files", max_total_bytes=5 * GIB).verdict is Verdict.WARNING


@pytest.mark.parametrize(
    ("made", "folder", "found"),
    [
        ("files", "files", "files is not writable"),
        ("data", "data/more/files", "data/more/files can't be created in"),
    ],
)
def test_a_folder_has_to_be_writable(tmp_path, monkeypatch, made, folder, found):
    (tmp_path / made).mkdir()
    # Root may write everywhere.
    monkeypatch.setattr("os.access", lambda path, _mode: path != tmp_path / made)
    finding = check_files(tmp_path / folder, max_total_bytes=GIB)
    assert finding.verdict is Verdict.FAILURE
    assert found in finding.found
    assert "MEMORIA_DATA_DIR" in finding.advice


def test_the_folder_of_another_user_is_refused(tmp_path, monkeypatch):
    (tmp_path / "files").mkdir()
    monkeypatch.setattr("os.geteuid", lambda: os.getuid() + 1)
    finding = check_files(tmp_path / "files", max_total_bytes=GIB)
    assert (finding.verdict, finding.found) == (Verdict.FAILURE, f"{tmp_path / 'files'} belongs to another user")


def test_a_file_is_no_folder(tmp_path):
    (tmp_path / "files").write_text("")
    finding = check_files(tmp_path / "files", max_total_bytes=GIB)
    assert finding.verdict is Verdict.FAILURE
    assert "not a folder" in finding.found


def test_nothing_is_checked_if_nothing_is_kept():
    assert no_files().verdict is Verdict.OK


@pytest.mark.parametrize(("state", "verdict"), [("on", Verdict.FAILURE), ("off", Verdict.OK)])
def test_the_doctor_checks_the_folder_in_the_data_folder(tmp_path, state, verdict):
    (tmp_path / "files").write_text("")
    environ = {"STATE": state, "MEMORIA_DATA_DIR": str(tmp_path), "PORT": "0", "EMBED_BACKEND": "off"}
    environ |= {"GEN_BACKEND": "vllm-http", "VLLM_GEN_URL": "http://127.0.0.1:9"}
    report = examine(environ, tmp_path / ".env", progress=lambda _name: None)
    (finding,) = [each for each in report.findings if each.check == "files"]
    assert finding.verdict is verdict
