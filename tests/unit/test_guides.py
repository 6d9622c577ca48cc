"""What the guides for operators name is there."""

import re

import pytest

from app.settings import VARIABLES
from tests.deployment import ROOT
from tools.compose_variables import COMPOSE_VARIABLES

GUIDES = ["docs/deployment.md", "docs/operations.md"]
PAGES = sorted(
    str(path.relative_to(ROOT))
    for path in [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "deploy").rglob("*.md")]
)
ARCHITECTURE = (ROOT / "docs" / "architecture.md").read_text()
SOURCES = "".join(path.read_text() for top in ("app", "adapters", "domain") for path in (ROOT / top).rglob("*.py"))
KNOWN = {variable.name for variable in VARIABLES} | {variable.name for variable in COMPOSE_VARIABLES}
# Of others: the image's build, the installer, and what every program knows.
THEIRS = {"PYTHON_IMAGE", "TORCH_CPU", "HTTPS_PROXY", "INSTALL", "SIGTERM"}

PATH = re.compile(r"(?<![\w/])(?:app|adapters|deploy|docs|domain|tests|tools)/[\w./-]*\w")
# kubectl's name of a deployment, and a folder that a script writes.
NOT_FILES = {"deploy/memoria", "docs/gpu-proof"}


def anchors(text: str) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("guide", GUIDES)
def test_every_variable_is_one(guide):
    text = (ROOT / guide).read_text()
    named = set(re.findall(r"(?<![\w.…])[A-Z][A-Z]+(?:_[A-Z]+)+(?![\w…])", text))
    assert len(named) > 10
    assert sorted(named - KNOWN - THEIRS) == []


@pytest.mark.parametrize("guide", PAGES)
def test_every_link_leads_somewhere(guide):
    page = ROOT / guide
    for link in re.findall(r"\]\(([^)]+)\)", page.read_text()):
        if link.startswith("http"):
            continue
        path, _, anchor = link.partition("#")
        target = page.parent / path if path else page
        assert target.exists(), link
        if anchor:
            assert anchor in anchors(target.read_text()), link


def test_every_file_of_the_deployment_is_told_of():
    text = "".join((ROOT / guide).read_text() for guide in GUIDES)
    for name in ("compose.yaml", "compose.inprocess.yaml", "Dockerfile", "kubernetes", "memoria.service"):
        assert name in text


@pytest.mark.parametrize("guide", [page for page in PAGES if page != "CHANGELOG.md"])
def test_every_file_that_is_named_exists(guide):
    named = set(PATH.findall((ROOT / guide).read_text())) - NOT_FILES
    assert [name for name in sorted(named) if not (ROOT / name).exists()] == []


def test_every_function_and_class_of_the_architecture_is_defined():
    functions = set(re.findall(r"`(?:\w+\.)?(\w+)\(", ARCHITECTURE))
    classes = set(re.findall(r"`([A-Z]\w+[a-z]\w*)`", ARCHITECTURE)) - {"AsyncLLM"}
    assert len(functions) > 10
    assert len(classes) > 10
    assert [name for name in sorted(functions) if not re.search(rf"def {name}\(", SOURCES)] == []
    assert [name for name in sorted(classes) if not re.search(rf"class {name}\b", SOURCES)] == []
