import psutil
import pytest

from app.commands.doctor.finding import Verdict
from app.commands.doctor.state import check_state, nothing_stored
from domain.units import GIB


@pytest.fixture
def free(monkeypatch, tmp_path):
    """Bytes free on the disk."""
    usage = psutil.disk_usage(str(tmp_path))._replace(free=3 * GIB)
    monkeypatch.setattr("psutil.disk_usage", lambda _path: usage)


def check(path, *, used=None, max_bytes=GIB, max_age_days=30):
    return check_state(str(path), path, used, max_age_days=max_age_days, max_bytes=max_bytes)


@pytest.mark.parametrize(
    ("used", "max_bytes", "verdict"),
    [
        (None, 3 * GIB, Verdict.OK),
        (None, 4 * GIB, Verdict.WARNING),
        (2 * GIB, 4 * GIB, Verdict.OK),
        (None, 0, Verdict.OK),
    ],
)
def test_the_disk_has_to_have_space(tmp_path, free, used, max_bytes, verdict):
    path = tmp_path / "missing" / "state.sqlite3"
    finding = check(path, used=used, max_bytes=max_bytes)
    assert finding.verdict is verdict
    assert str(path) in finding.found
    if verdict is Verdict.WARNING:
        assert "only 3.0 GiB free" in finding.found
        assert "STATE_MAX_SIZE" in finding.advice


def test_limits_are_reported(tmp_path, free):
    path = tmp_path / "state.sqlite3"
    assert check(path).found == f"stored in {path}, for 30 days, up to 1.0 GiB"
    assert check(path, max_bytes=0, max_age_days=0).found == f"stored in {path}, with no age limit"


def test_a_server_has_its_own_disk():
    finding = check_state("host:5432/db", None, None, max_age_days=1, max_bytes=2**60)
    assert (finding.verdict, finding.found) == (Verdict.OK, "stored in host:5432/db, for 1 day")


def test_nothing_is_checked_if_nothing_is_stored():
    assert nothing_stored().verdict is Verdict.OK
