"""The page's files and `GET /status`, without a browser."""

import re
from pathlib import Path

import pytest

import app.page.files
from app.page.files import FILES, INDEX
from app.telemetry.history import BUCKETS
from app.telemetry.record import RequestRecord
from domain.roles import Role
from tests.unit.serving import Api, serving
from tests.unit.waiting import until

KEY = "sk-0123456789-abcdefghij"
FOLDER = Path(app.page.files.__file__).parent


@pytest.fixture
async def guarded():
    async with serving(Api(settings={"API_KEYS": KEY})) as api:
        await until(lambda: api.is_ready)
        yield api


async def test_the_page_is_at_the_root(api):
    response = await api.http.get("/")
    assert response.status_code == 200
    assert response.headers["content-type"] == "text/html; charset=utf-8"
    assert response.content == (FOLDER / "index.html").read_bytes()


@pytest.mark.parametrize("name", sorted(FILES))
async def test_every_file_is_served_unchanged(api, name):
    response = await api.http.get(f"/page/{name}")
    assert response.status_code == 200
    assert response.content == (FOLDER / name).read_bytes()
    assert response.headers["x-content-type-options"] == "nosniff"
    assert response.headers["content-length"] == str(len(response.content))


def test_no_source_code_is_served():
    assert {Path(name).suffix for name in FILES} == {".html", ".css", ".js", ".svg"}


async def test_only_the_services_own_files_may_run(api):
    policy = (await api.http.get("/")).headers["content-security-policy"]
    rules = dict(rule.split(" ", 1) for rule in policy.split("; "))
    assert rules["default-src"] == "'none'"
    assert set(rules.values()) == {"'none'", "'self'"}
    assert "unsafe" not in policy


def test_the_files_name_no_other_host():
    # The SVG namespace is only a name and is never fetched.
    for name, file in FILES.items():
        hosts = set(re.findall(r"https?://[^\s\"'`<>)]+", file.body.decode())) - {"http://www.w3.org/2000/svg"}
        assert hosts == set(), name


def test_the_page_has_no_inline_script_style_or_handler():
    index = FILES[INDEX].body.decode()
    assert re.findall(r"<script(?![^>]* src=)", index) == []
    assert re.findall(r"<style|\sstyle=|\son\w+=", index) == []


async def test_a_cached_version_is_not_sent_again(api):
    first = await api.http.get("/page/page.css")
    assert first.headers["cache-control"] == "no-cache"
    etag = first.headers["etag"]
    for known in (etag, f"W/{etag}", f'"other", {etag}'):
        again = await api.http.get("/page/page.css", headers={"if-none-match": known})
        assert (again.status_code, again.content) == (304, b"")
        assert again.headers["etag"] == etag
    other = await api.http.get("/page/page.css", headers={"if-none-match": '"other"'})
    assert other.status_code == 200


async def test_the_page_needs_no_key_but_its_data_does(guarded):
    for path in ["/", *(f"/page/{name}" for name in FILES)]:
        assert (await guarded.http.get(path)).status_code == 200, path
    assert (await guarded.http.get("/status")).status_code == 401
    with_key = await guarded.http.get("/status", headers={"authorization": f"Bearer {KEY}"})
    assert with_key.status_code == 200


@pytest.mark.parametrize("path", ["/page", "/page/", "/page/none.js", "/page/../status", "/page/%2e%2e/status"])
async def test_no_other_path_is_open(guarded, path):
    # The application answers unknown paths before it checks the key.
    assert (await guarded.http.get(path)).status_code in (401, 404)


async def test_the_status_has_roles_health_models_series_and_requests(api):
    status = (await api.http.get("/status")).json()
    assert status["roles"] == [
        {"key": "embed", "noun": "embedding", "generates": False},
        {"key": "generate", "noun": "generation", "generates": True},
    ]
    assert [role["key"] for role in status["roles"]] == list(status["health"]["backends"])
    assert status["health"]["status"] == "ok"
    assert status["health"]["backends"]["generate"]["model"] == "fake-write"
    assert {model["id"] for model in status["models"]} >= {"fake-embed", "fake-write", "org/name"}
    assert len(status["series"]["roles"]["generate"]["requests"]) == BUCKETS
    assert status["requests"] == []
    assert re.match(r"\d+\.\d+", status["version"])


async def test_the_status_is_200_when_the_service_is_not_ready():
    async with serving(Api()) as api:
        status = await api.http.get("/status")
        assert status.json()["health"]["status"] == "unavailable"
        assert status.status_code == 200


async def test_the_status_shows_the_history():
    async with serving(Api()) as api:
        api.history.request_ended(
            RequestRecord(
                request_id="req_1", began=1.0, method="POST", route="/v1/embeddings", status=200, role=Role.EMBED
            )
        )
        status = (await api.http.get("/status")).json()
        assert [request["request_id"] for request in status["requests"]] == ["req_1"]
        assert sum(status["series"]["roles"]["embed"]["requests"]) == 1
