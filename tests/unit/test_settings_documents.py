"""The documents about settings match the declarations."""

import subprocess
import sys

import pytest

from app.settings import GROUPS, VARIABLES, load_settings
from tests.deployment import ROOT
from tools.compose_variables import COMPOSE_VARIABLES
from tools.settings_documents import CHANGED_MOST, env_example, readme_table, settings_page

PRINT = "python -m tools.settings_documents"
README = (ROOT / "README.md").read_text()
ROWS = {
    name: f"| `{name}` | {f'`{default}`' if default else ''} | {about} |"
    for name, default, about in ((variable.name, variable.default, variable.about) for variable in VARIABLES)
}


def test_the_example_file_matches_the_settings():
    assert (ROOT / ".env.example").read_text() == env_example(), f"{PRINT} prints the file"


def test_the_example_files_values_are_the_defaults(tmp_path):
    lines = [
        line.removeprefix("#") if "=" in line and line[1:2] != " " else line for line in env_example().splitlines()
    ]
    path = tmp_path / ".env"
    path.write_text("\n".join(lines))
    names = [line.partition("=")[0] for line in lines if line and line[0] != "#"]
    assert names == [variable.name for variable in (*VARIABLES, *COMPOSE_VARIABLES)]
    assert load_settings({}, path) == load_settings({})


def test_the_page_matches_the_settings():
    page = (ROOT / "docs" / "settings.md").read_text()
    assert page == settings_page(), f"{PRINT} --page prints the page"
    assert [line for line in page.splitlines() if line.startswith("| `")] == list(ROWS.values())


def test_the_page_has_every_group_with_its_sentence():
    sections = settings_page().split("\n## ")[1:]
    assert [section.partition("\n")[0] for section in sections] == [group.title for group in GROUPS]
    for section, group in zip(sections, GROUPS, strict=True):
        assert section.split("\n")[2].startswith(group.about)
        assert section.count("\n| `") == len(GROUPS[group]) > 0


def test_the_readme_has_the_most_commonly_changed_settings():
    table = README.split("<!-- settings -->\n")[1].split("\n\n")[0] + "\n"
    assert table == readme_table(), f"{PRINT} --readme prints the table"
    assert table.splitlines()[2:] == [ROWS[name] for name in CHANGED_MOST]
    assert "(docs/settings.md)" in README


def test_every_variable_is_in_one_group():
    names = [variable.name for variables in GROUPS.values() for variable in variables]
    assert len(names) == len(set(names)) == len(VARIABLES)


@pytest.mark.parametrize(
    ("arguments", "printed"), [([], env_example), (["--page"], settings_page), (["--readme"], readme_table)]
)
def test_the_module_prints_them(arguments, printed):
    run = subprocess.run(
        [sys.executable, *PRINT.split()[1:], *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert run.stdout == printed()
