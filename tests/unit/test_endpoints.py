"""An endpoint is one entry of a table: its route, its documents and its access follow from it."""

import importlib.metadata

import httpx
import msgspec
import pytest
from litestar.types import ASGIApp

from app.http.asgi import create_app
from app.http.authentication import build_api_keys
from app.http.codec import BodyDecoder
from app.http.endpoint import Access, Endpoint
from app.http.endpoint_kinds import inference
from app.http.endpoints import ENDPOINTS, PROBES
from app.http.parameters import endpoint_table, parameter_tables
from app.http.requests import AnyRequest, json_response, read_body
from app.settings import ApiOptions, load_settings
from domain.errors import InvalidRequestError
from domain.openai.embeddings import EmbeddingBody
from tests.unit.serving import ALL_BODIES, BODIES, EMBED, Api, serving

KEY = "sk-limited-0123456789"
PATH = "/v1/echo"


class Echo(msgspec.Struct):
    """The model of a request."""

    model: str


async def echo(request: AnyRequest) -> ASGIApp:
    body = await read_body(request, BodyDecoder(EmbeddingBody))
    return json_response(Echo(body.model))


EXTRA = inference(PATH, echo, EmbeddingBody, Echo, summary="Echo a model", about="the model of the request")
TABLE = (*ENDPOINTS, EXTRA)


@pytest.fixture
async def extended():
    """A client of an application with one endpoint more, whose key has two requests a minute."""
    settings = load_settings({"API_KEYS": KEY, "KEY_REQUESTS_PER_MINUTE": "2"})
    async with serving(Api()) as api:
        api_keys = build_api_keys(settings, clock=lambda: 0.0)
        app = create_app(api.service, ApiOptions(), api_keys=api_keys, endpoints=TABLE)
        headers = {"authorization": f"Bearer {KEY}"}
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://api", headers=headers) as client:
            yield client


async def test_a_new_entry_is_served_and_counted(extended):
    for _ in range(2):
        answer = await extended.post(PATH, json=BODIES[EMBED])
        assert (answer.status_code, answer.json()) == (200, {"model": "fake-embed"})
    assert (await extended.post(PATH, json=BODIES[EMBED])).status_code == 429


async def test_a_new_entry_needs_a_key(extended):
    answer = await extended.post(PATH, json=BODIES[EMBED], headers={"authorization": ""})
    assert answer.status_code == 401


async def test_a_new_entry_is_in_the_openapi_document(extended):
    document = (await extended.get("/openapi.json")).json()
    operation = document["paths"][PATH]["post"]
    assert operation["operationId"] == "echo_a_model"
    assert set(operation["responses"]) >= {"200", "401", "503"}
    assert "Echo" in document["components"]["schemas"]


def test_a_new_entry_is_in_the_tables_of_the_guide():
    assert f"| `POST {PATH}` | the model of the request | needed |" in endpoint_table(TABLE)
    assert f"### POST {PATH}\n" in parameter_tables(TABLE)


def test_routes_are_those_of_the_table():
    api = Api()
    routed = {
        (route.path_format, method) for route in api.app.routes for method in route.methods if method != "OPTIONS"
    }
    assert routed == {(row.template, row.method) for row in ENDPOINTS if not row.needs_metrics}


def test_whether_a_key_is_needed_is_the_same_for_all_methods_of_a_path():
    access: dict[str, set[Access]] = {}
    for row in ENDPOINTS:
        access.setdefault(row.template, set()).add(row.access)
    assert all(len(kinds) == 1 for kinds in access.values())


def test_every_post_is_counted_and_nothing_else():
    assert all(row.is_counted == (row.method == "POST") for row in ENDPOINTS)


@pytest.mark.parametrize("row", ENDPOINTS, ids=lambda row: row.path)
def test_an_entry_is_consistent(row: Endpoint):
    assert bool(row.summary) == (row.answer is not None)
    assert row.is_streamed <= (row.body is not None or row.method == "GET")
    assert (row.access is Access.KEY) == (401 in row.errors) or row.answer is None
    assert not row.is_probe or (row.access is not Access.KEY and "{" not in row.path)


def refusal(body_type: type[msgspec.Struct], body: dict) -> str | None:
    try:
        BodyDecoder(body_type).decode(msgspec.json.encode(body))
    except InvalidRequestError as error:
        return error.message
    return None


BODIES_IN_JSON = [row for row in ENDPOINTS if row.body is not None and row.body_type == "application/json"]


@pytest.mark.parametrize("row", BODIES_IN_JSON, ids=lambda row: row.path)
async def test_the_body_of_an_entry_is_what_its_handler_decodes(strict_api, row: Endpoint):
    bodies = [ALL_BODIES[row.public_path] | {name: {"zz_new": 1}} for name in row.body.__struct_fields__]
    refused = [body for body in bodies if refusal(row.body, body) is not None]
    assert refused
    for body in refused:
        answer = await strict_api.http.post(row.public_path, json=body)
        assert answer.json()["error"]["message"] == refusal(row.body, body)


def test_probes_are_the_paths_of_health():
    assert {"/health", "/health/live", "/health/ready"} == PROBES


@pytest.mark.parametrize("path", ["/health", "/status", EMBED])
async def test_options_need_a_key_where_the_path_needs_one(path):
    async with serving(Api(settings={"API_KEYS": KEY})) as api:
        answer = await api.http.options(path)
    assert answer.status_code == (204 if path == "/health" else 401)


@pytest.mark.parametrize("path", ["/v1/models", EMBED])
@pytest.mark.parametrize("method", ["HEAD", "PUT"])
async def test_other_methods_are_refused_and_told_which_there_are(path, method):
    async with serving(Api()) as api:
        answer = await api.http.request(method, path)
    assert answer.status_code == 405
    assert set(answer.headers["allow"].split(", ")) == {"OPTIONS", "POST" if path == EMBED else "GET"}


async def test_the_version_is_that_of_the_service():
    async with serving(Api(settings={"API_KEYS": KEY})) as api:
        assert (await api.http.get("/version")).status_code == 401, "like the list of models"
        answer = await api.http.get("/version", headers={"authorization": f"Bearer {KEY}"})
        assert answer.json() == {"version": importlib.metadata.version("memoria-vllm")}
        assert answer.json()["version"] == (await status_of(api))["version"]


async def status_of(api: Api) -> dict:
    return (await api.http.get("/status", headers={"authorization": f"Bearer {KEY}"})).json()
