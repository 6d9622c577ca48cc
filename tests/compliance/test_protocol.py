import httpx
import pytest
from openai import NotFoundError, OpenAI

from tests.compliance.conftest import EMBED, GENERATE
from tests.compliance.schemas import assert_matches

pytestmark = pytest.mark.integration


def test_models_are_listed(client: OpenAI, http: httpx.Client) -> None:
    assert [model.id for model in client.models.list()] == [EMBED, GENERATE]
    assert_matches("ListModelsResponse", http.get("/v1/models").json())


def test_a_model_is_retrieved(client: OpenAI, http: httpx.Client) -> None:
    assert client.models.retrieve(GENERATE).id == GENERATE
    assert_matches("Model", http.get(f"/v1/models/{EMBED}").json())


@pytest.mark.parametrize("name", ["gpt-4o", "org/name"])
def test_an_unknown_model_is_not_found(client: OpenAI, name: str) -> None:
    with pytest.raises(NotFoundError) as caught:
        client.models.retrieve(name)
    assert caught.value.code == "model_not_found"


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/none", 404, "unknown_url"),
        ("POST", "/v1/completion", 404, "unknown_url"),
        ("POST", "/embeddings", 404, "unknown_url"),
        ("GET", "/v1/embeddings", 405, "method_not_supported"),
        ("DELETE", "/v1/models", 405, "method_not_supported"),
        ("PUT", "/v1/completions", 405, "method_not_supported"),
    ],
)
def test_unknown_urls_and_methods_answer_in_openais_shape(
    http: httpx.Client, method: str, path: str, status: int, code: str
) -> None:
    answer = http.request(method, path)
    assert answer.status_code == status
    assert_matches("ErrorResponse", answer.json())
    assert answer.json()["error"]["code"] == code
    assert ("allow" in answer.headers) == (status == 405)


@pytest.mark.parametrize(
    "body",
    [
        b"", b"{", b"[]", b"null", b'"text"', b"{}", b"\xff\xfe", b'{"model": "\xff"}', b'{"model": NaN}',
        b'{"model": "\\ud800", "prompt": "x"}', b"[" * 100_000, b'{"a":' * 100_000, b"1" * 5000, b"{'model': 1}",
        b'{"model": "m", "prompt": "x"}{}', b'{"model": "m", "prompt": 1e999}',
        b'{"model": "SmolLM2-135M-Instruct", "prompt": "x", "max_tokens": ' + b"9" * 400 + b"}",
        b'{"model": "SmolLM2-135M-Instruct", "prompt": [' + b"9" * 400 + b"]}",
    ],
    ids=lambda body: repr(body[:30]),
)  # fmt: skip
@pytest.mark.parametrize("path", ["/v1/embeddings", "/v1/completions"])
def test_an_invalid_body_is_a_400(http: httpx.Client, path: str, body: bytes) -> None:
    answer = http.post(path, content=body, headers={"content-type": "application/json"})
    assert answer.status_code == 400
    assert_matches("ErrorResponse", answer.json())


def test_a_body_of_another_type_is_rejected(http: httpx.Client) -> None:
    answer = http.post("/v1/completions", data={"model": GENERATE, "prompt": "x"})
    assert answer.status_code == 415
    assert_matches("ErrorResponse", answer.json())


def test_a_too_large_body_is_rejected(http: httpx.Client) -> None:
    answer = http.post(
        "/v1/completions", content=b"x" * (33 * 2**20), headers={"content-type": "application/json"}
    )
    assert answer.status_code == 413
    assert_matches("ErrorResponse", answer.json())


def test_health_reports_both_models(http: httpx.Client) -> None:
    health = http.get("/health")
    assert health.status_code == 200
    backends = health.json()["backends"]
    assert {role: backend["model"] for role, backend in backends.items()} == {
        "embed": EMBED,
        "generate": GENERATE,
    }
    for backend in backends.values():
        assert backend["state"] == "ready"
        assert backend["reason"] is None
        assert backend["since"].endswith("Z")
    assert http.get("/health/live").status_code == http.get("/health/ready").status_code == 200


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/v1/models", 200),
        ("GET", "/nowhere", 404),
        ("PUT", "/v1/models", 405),
        ("POST", "/v1/completions", 400),
    ],
)
def test_every_answer_has_openais_headers(http: httpx.Client, method: str, path: str, status: int) -> None:
    answers = [http.request(method, path) for _ in range(2)]
    for answer in answers:
        assert answer.status_code == status
        assert answer.headers["openai-version"] == "2020-10-01"
        assert answer.headers["openai-processing-ms"].isdigit()
    assert answers[0].headers["x-request-id"] != answers[1].headers["x-request-id"]


def test_a_valid_request_id_is_kept(http: httpx.Client) -> None:
    def asked(request_id: str) -> str:
        return http.get("/v1/models", headers={"x-request-id": request_id}).headers["x-request-id"]

    assert asked("my-id:42") == "my-id:42"
    assert asked("x" * 200).startswith("req_")
    assert asked("two words").startswith("req_")


def test_the_sdk_exposes_the_request_id(client: OpenAI) -> None:
    answer = client.chat.completions.create(
        model=GENERATE,
        messages=[{"role": "user", "content": "x"}],
        max_tokens=1,
        extra_headers={"x-request-id": "abc"},
    )
    assert answer._request_id == "abc"


def test_tokens_and_back(http: httpx.Client) -> None:
    found = http.post("/tokenize", json={"prompt": "The capital", "return_token_strs": True}).json()
    assert found == {
        "count": 2,
        "max_model_len": 8192,
        "tokens": [504, 3575],
        "token_strs": ["The", "Ġcapital"],
    }
    assert http.post("/detokenize", json={"tokens": found["tokens"]}).json() == {"prompt": "The capital"}
    chat = http.post("/tokenize", json={"messages": [{"role": "user", "content": "x"}]}).json()
    assert chat["count"] > 20
    embed = http.post("/tokenize", json={"model": EMBED, "prompt": "hello"}).json()
    assert embed["tokens"] == [101, 7592, 102]
    for body in ({}, {"prompt": "x", "messages": [{"role": "user", "content": "x"}]}, {"prompt": 1}):
        answer = http.post("/tokenize", json=body)
        assert answer.status_code == 400
        assert answer.json()["error"]["param"] == "prompt"


def test_the_api_describes_itself(http: httpx.Client) -> None:
    document = http.get("/openapi.json").json()
    assert document["openapi"].startswith("3.1")
    assert {"/v1/chat/completions", "/v1/completions", "/v1/embeddings", "/tokenize"} <= document["paths"].keys()
    assert "messages" in document["components"]["schemas"]["ChatBody"]["required"]
