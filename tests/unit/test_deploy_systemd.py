"""The unit, read by systemd itself where it is, and held against what the service does."""

import re
import shutil
import subprocess

import pytest

from app.settings import load_settings
from tests.deployment import DEPLOY, ROOT

UNIT = (DEPLOY / "systemd" / "memoria.service").read_text()
ENTRIES = re.findall(r"^(\w+)=(.*)$", UNIT, re.MULTILINE)
VALUES = dict(ENTRIES)

# Containers and other init systems lack systemd's own tool; what the unit says is checked all the same.
needs_systemd = pytest.mark.skipif(
    shutil.which("systemd-analyze") is None,
    reason="systemd-analyze is not on this machine: the unit is not verified",
)


@pytest.fixture
def installed(tmp_path):
    """The unit as it would be where the service is installed: with a program that exists."""
    path = tmp_path / "memoria.service"
    path.write_text(re.sub(r"^ExecStart=\S+", "ExecStart=/bin/true", UNIT, flags=re.MULTILINE))
    return path


@needs_systemd
def test_systemd_finds_nothing_wrong(installed):
    result = subprocess.run(
        ["systemd-analyze", "verify", str(installed)], capture_output=True, text=True, check=False
    )
    said = [line for line in result.stderr.splitlines() if "memoria" in line]
    assert (result.returncode, said) == (0, [])


@needs_systemd
def test_the_service_is_exposed_to_little(installed):
    # Tenths of systemd's scale from 0 to 10; a unit without any of it is at 9 and more.
    result = subprocess.run(
        ["systemd-analyze", "security", "--offline=yes", "--threshold=40", str(installed)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stdout[-300:] + result.stderr


def test_it_runs_what_the_installer_installs():
    assert VALUES["ExecStart"].endswith("/.venv/bin/memoria serve")
    assert "\nmemoria = " in (ROOT / "pyproject.toml").read_text()


def test_systemd_waits_longer_than_the_service_drains():
    # Engines have up to 25 s to end after that (adapters.vllm.inprocess.engine).
    assert int(VALUES["TimeoutStopSec"]) >= load_settings({}).drain_timeout_s + 25


def test_every_end_but_a_good_one_is_followed_by_a_start():
    assert VALUES["Restart"] == "on-failure"
    assert "RestartPreventExitStatus" not in VALUES
    assert VALUES["SuccessExitStatus"] == "143"
    assert int(VALUES["StartLimitBurst"]) * int(VALUES["RestartSec"]) < int(VALUES["StartLimitIntervalSec"])


def test_only_the_service_gets_the_signal():
    # It ends its engines itself, in order.
    assert VALUES["KillMode"] == "mixed"


@pytest.mark.parametrize("breaks", ["MemoryDenyWriteExecute", "PrivateDevices", "ProtectClock", "DeviceAllow"])
def test_nothing_is_set_that_keeps_engines_from_the_card_or_from_compiling(breaks):
    assert breaks not in VALUES


def test_what_engines_cache_lies_where_the_service_may_write():
    folders = re.findall(r"\b\w+=(/\S+)", " ".join(value for name, value in ENTRIES if name == "Environment"))
    assert len(folders) >= 4
    assert all(folder.startswith(("/var/cache/memoria", "/var/lib/memoria")) for folder in folders)
    assert (VALUES["CacheDirectory"], VALUES["StateDirectory"]) == ("memoria", "memoria")
