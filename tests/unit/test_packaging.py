"""What a wheel of the service holds: its three packages, and nothing that only builds or proves the project."""

import ast
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
from setuptools import find_packages

from app.commands.bench import extra
from domain.errors import ConfigurationError
from tests.deployment import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
PACKAGES = find_packages(str(ROOT), **PROJECT["tool"]["setuptools"]["packages"]["find"])
OUTSIDE = {"tools", "tests", "deploy", "docs"}


def modules() -> Iterator[Path]:
    for package in PACKAGES:
        yield from sorted(ROOT.joinpath(*package.split(".")).glob("*.py"))


def imported(path: Path) -> set[str]:
    """First names of everything that a module imports, inside of functions as well."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {name.name.partition(".")[0] for name in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level:
            found.add((node.module or "").partition(".")[0])
    return found


def test_a_wheel_holds_the_three_packages_and_nothing_else():
    assert {package.partition(".")[0] for package in PACKAGES} == {"app", "adapters", "domain"}
    assert {path.relative_to(ROOT).parts[0] for path in modules()} == {"app", "adapters", "domain"}


def test_every_folder_with_modules_is_in_the_wheel():
    written = {path for package in ("app", "adapters", "domain") for path in (ROOT / package).rglob("*.py")}
    assert written == set(modules())


def test_nothing_in_a_wheel_imports_what_is_outside_of_it():
    wrong = {str(path.relative_to(ROOT)): names for path in modules() if (names := imported(path) & OUTSIDE)}
    assert wrong == {}


def test_the_extra_for_the_benchmark_is_the_list_that_is_pinned_for_it():
    (needed,) = PROJECT["project"]["optional-dependencies"]["bench"]
    assert PROJECT["dependency-groups"]["bench"] == [needed]
    pins = {name: _pins(name) for name in ("bench", "unit", "test", "gateway", "cpu", "gpu")}
    assert any(line.startswith(f"{extra.PACKAGE}==") for line in pins["bench"])
    # The tests' lists have the same versions; the service is installed without any of them.
    assert pins["bench"] <= pins["unit"] & pins["test"]
    assert not pins["bench"] & (pins["gateway"] | pins["cpu"] | pins["gpu"])


def _pins(name: str) -> set[str]:
    return set((ROOT / "deploy" / "requirements" / f"{name}.txt").read_text().splitlines())


def test_without_the_extra_the_benchmark_says_how_to_install_it(monkeypatch):
    monkeypatch.setattr(extra, "find_spec", lambda _name: None)
    with pytest.raises(ConfigurationError, match=r"pip install 'memoria-vllm\[bench\]'"):
        extra.require_extra()


def test_only_the_benchmark_needs_the_extra(tmp_path):
    """All other commands are loaded without it, and the benchmark ends with one sentence."""
    (tmp_path / "pygal.py").write_text("raise ImportError('only the benchmark may import this')")
    code = (
        "import sys, importlib.util as u; found = u.find_spec; "
        "u.find_spec = lambda name, *rest: None if name == 'pygal' else found(name, *rest); "
        "import app.bootstrap, app.http.asgi, app.commands.doctor.composition, app.commands.plan.composition; "
        "from app.cli import main; sys.argv = ['memoria', 'bench']; main()"
    )
    run = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        cwd=tmp_path,
        env={"PATH": "/usr/bin", "HOME": str(tmp_path), "PYTHONPATH": f"{tmp_path}:{ROOT}"},
    )
    assert run.returncode == 2, run.stderr
    assert "make install-bench" in run.stderr
    assert "Traceback" not in run.stderr
