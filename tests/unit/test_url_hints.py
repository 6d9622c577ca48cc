import pytest

from app.http.endpoints import ENDPOINTS
from app.http.url_hints import UNSERVED, url_hint
from tests.unit.serving import Api, error_of

OPENAI = [
    "assistants", "audio", "decisions", "evals", "fine_tuning", "images", "moderations",
    "realtime", "threads", "uploads", "vector_stores",
]  # fmt: skip
SERVED = {row.path for row in ENDPOINTS}
POSTED = [
    row.path
    for row in ENDPOINTS
    # Some are served at both paths.
    if row.method == "POST" and row.path.startswith("/v1/") and row.path.removeprefix("/v1") not in SERVED
]


@pytest.fixture(scope="module")
def api() -> Api:
    return Api()


async def hint_of(api: Api, path: str, *, method: str = "POST") -> str:
    response = await api.http.request(method, path)
    error = error_of(response)
    assert (response.status_code, error["code"]) == (404, "unknown_url")
    beginning = f"Unknown request URL: {method} {path}. "
    assert error["message"].startswith(beginning)
    return error["message"].removeprefix(beginning)


@pytest.mark.parametrize("name", OPENAI)
@pytest.mark.parametrize("rest", ["", "/", "/generations", "/abc/messages"])
async def test_an_endpoint_of_openai_that_is_not_served_is_named(api, name, rest):
    hint = await hint_of(api, f"/v1/{name}{rest}")
    assert hint.startswith(UNSERVED[f"/v1/{name}"])
    assert "/v1/models" in hint
    assert await hint_of(api, f"/{name}{rest}") == hint, "also without /v1"


def test_all_of_them_have_a_hint_and_none_is_served():
    assert {f"/v1/{name}" for name in OPENAI} == UNSERVED.keys()
    served = {row.template for row in ENDPOINTS}
    assert not [path for path in served for prefix in UNSERVED if f"{path}/".startswith(f"{prefix}/")]


@pytest.mark.parametrize("path", POSTED)
async def test_a_path_without_v1_gets_the_right_one(api, path):
    for wrong in (path.removeprefix("/v1"), path.removeprefix("/v1") + "/"):
        hint = await hint_of(api, wrong)
        assert hint.startswith(f"Did you mean POST {path}")
        assert "base URL" in hint


async def test_models_without_v1_get_the_right_path(api):
    assert "GET /v1/models?" in await hint_of(api, "/models", method="GET")
    assert "GET /v1/models/org/name?" in await hint_of(api, "/models/org/name", method="GET")


@pytest.mark.parametrize(
    ("wrong", "right"), [("/v1/v1/embeddings", "/v1/embeddings"), ("/v1/tokenize", "/tokenize")]
)
async def test_a_path_with_one_v1_too_many_gets_the_right_one(api, wrong, right):
    assert await hint_of(api, wrong) == f"Did you mean POST {right}?"


@pytest.mark.parametrize("path", ["/v1/chat", "/nothing", "/v1/filesystem", "/v1/imagesx", "/v1", "/v1/models{x}"])
async def test_any_other_path_gets_a_general_hint(api, path):
    assert "check the URL for typos" in await hint_of(api, path.replace("{x}", "x"))


def test_an_endpoint_that_is_not_served_is_not_proposed():
    embeddings = [row for row in ENDPOINTS if row.path == "/v1/embeddings"]
    assert "Did you mean" not in url_hint("/chat/completions", embeddings)
    assert url_hint("/embeddings", embeddings).startswith("Did you mean POST /v1/embeddings?")
