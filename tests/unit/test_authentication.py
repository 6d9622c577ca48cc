"""Authentication, rate limits and CORS, on fake engines."""

import asyncio
import logging
from collections.abc import AsyncGenerator

import httpx
import pytest

from domain.errors import BackendFailedError
from tests.unit.serving import BODIES, CHAT, COMPLETE, EMBED, NEVER_S, TOKENIZE, Api, Leaving, error_of, serving
from tests.unit.waiting import until

KEY, LIMITED, TOKENS = "sk-open-0123456789-ab", "sk-limited-0123456789", "sk-tokens-0123456789"
CLOSED = [("GET", "/v1/models"), ("GET", "/v1/models/fake-embed"), ("GET", "/openapi.json"), ("GET", "/none")]
CLOSED += [("POST", path) for path in BODIES]
PROBES = ["/health", "/health/live", "/health/ready"]


def bearer(key: str) -> dict[str, str]:
    return {"authorization": f"Bearer {key}"}


async def ready(api: Api) -> None:
    await until(lambda: api.is_ready)


@pytest.fixture
async def guarded(tmp_path) -> AsyncGenerator[Api, None]:
    path = tmp_path / "keys"
    path.write_text(f"few {LIMITED} rpm=3\nsome {TOKENS} tpm=200\n")
    async with serving(Api(settings={"API_KEYS": KEY, "API_KEYS_FILE": str(path)})) as api:
        await ready(api)
        yield api


@pytest.mark.parametrize(("method", "path"), CLOSED[:3] + CLOSED[4:])
async def test_without_a_key_requests_are_rejected(guarded, method, path):
    response = await guarded.http.request(method, path, json=BODIES.get(path))
    assert response.status_code == 401
    assert response.headers["www-authenticate"] == "Bearer"
    assert "x-request-id" in response.headers
    error = error_of(response)
    assert (error["type"], error["code"], error["param"]) == ("invalid_request_error", None, None)
    assert error["message"].startswith("You didn't provide an API key.")


@pytest.mark.parametrize(("method", "path"), CLOSED[:3] + CLOSED[4:])
async def test_a_key_gives_access_to_everything(guarded, method, path):
    response = await guarded.http.request(method, path, json=BODIES.get(path), headers=bearer(KEY))
    assert response.status_code == 200
    assert not [name for name in response.headers if name.startswith("x-ratelimit")]


async def test_a_wrong_key_is_masked_in_the_error(guarded, caplog):
    wrong = "sk-ab-wrong-0123456789yz"
    with caplog.at_level(logging.DEBUG):
        response = await guarded.http.get("/v1/models", headers=bearer(wrong))
    assert response.status_code == 401
    error = error_of(response)
    assert (error["type"], error["code"]) == ("invalid_request_error", "invalid_api_key")
    assert error["message"] == "Incorrect API key provided: sk-ab***yz."
    assert wrong not in caplog.text


@pytest.mark.parametrize(
    "value", ["", KEY, "Bearer", "Bearer ", f"Basic {KEY}", f"Bearer {KEY}x", f"Bearer {KEY} {KEY}", "Bearer \xff"]
)
async def test_an_invalid_header_is_rejected(guarded, value):
    headers = [(b"authorization", value.encode("latin-1"))]
    assert (await guarded.http.get("/v1/models", headers=headers)).status_code == 401


async def test_two_keys_are_rejected(guarded):
    headers = [("authorization", f"Bearer {KEY}"), ("authorization", "Bearer other")]
    assert (await guarded.http.get("/v1/models", headers=headers)).status_code == 401


@pytest.mark.parametrize("scheme", ["bearer", "BEARER", "Bearer "])
async def test_the_scheme_may_be_written_in_any_way(guarded, scheme):
    headers = {"authorization": f"{scheme} {KEY}"}
    assert (await guarded.http.get("/v1/models", headers=headers)).status_code == 200


@pytest.mark.parametrize("path", PROBES)
@pytest.mark.parametrize("headers", [{}, bearer("sk-unknown-key")])
async def test_probes_without_a_key_report_only_the_status(guarded, path, headers):
    response = await guarded.http.get(path, headers=headers)
    assert (response.status_code, response.json()) == (200, {"status": "ok"})


async def test_health_with_a_key_is_complete(guarded):
    assert "backends" in (await guarded.http.get("/health", headers=bearer(KEY))).json()


async def test_without_keys_health_is_complete(api):
    assert "backends" in (await api.http.get("/health")).json()


async def test_without_keys_every_key_is_accepted(api):
    assert (await api.http.get("/v1/models", headers=bearer("any"))).status_code == 200


async def test_requests_of_a_key_are_limited(guarded):
    left = []
    for path in (EMBED, CHAT, TOKENIZE):
        response = await guarded.http.post(path, json=BODIES[path], headers=bearer(LIMITED))
        assert response.headers["x-ratelimit-limit-requests"] == "3"
        assert response.headers["x-ratelimit-reset-requests"].endswith("s")
        assert "x-ratelimit-limit-tokens" not in response.headers
        left.append(response.headers["x-ratelimit-remaining-requests"])
    assert left == ["2", "1", "0"]
    response = await guarded.http.post(EMBED, json=BODIES[EMBED], headers=bearer(LIMITED))
    assert response.status_code == 429
    error = error_of(response)
    assert (error["type"], error["code"]) == ("requests", "rate_limit_exceeded")
    assert error["message"] == (
        "Rate limit reached for key 'few' on requests per min (RPM): Limit 3, Used 3, Requested 1. Please try "
        "again in 20s."
    )
    assert response.headers["retry-after"] == "20"
    assert response.headers["x-ratelimit-reset-requests"] == "1m0s"
    assert response.headers["x-ratelimit-remaining-requests"] == "0"
    # Requests that need no engine are not counted, and other keys have their own limits.
    assert (await guarded.http.get("/v1/models", headers=bearer(LIMITED))).status_code == 200
    assert (await guarded.http.post(EMBED, json=BODIES[EMBED], headers=bearer(KEY))).status_code == 200


def remaining(response: httpx.Response) -> int:
    return int(response.headers["x-ratelimit-remaining-tokens"])


@pytest.mark.parametrize(("path", "used"), [(EMBED, 4), (COMPLETE, 8)])
async def test_token_estimates_are_corrected_to_the_engines_count(guarded, path, used):
    first = await guarded.http.post(path, json=BODIES[path], headers=bearer(TOKENS))
    assert first.json()["usage"]["total_tokens"] == used
    assert remaining(first) == 200 - used
    assert first.headers["x-ratelimit-limit-tokens"] == "200"


async def test_a_streams_tokens_are_counted_too(guarded):
    body = BODIES[COMPLETE] | {"stream": True, "max_tokens": 150, "prompt": "x"}
    begun = await guarded.http.post(COMPLETE, json=body, headers=bearer(TOKENS))
    assert begun.text.endswith("data: [DONE]\n\n")
    # Its headers were sent while the estimate was charged.
    assert remaining(begun) == 200 - 151
    after = await guarded.http.get("/v1/models", headers=bearer(TOKENS))
    assert remaining(after) == 200 - 151


@pytest.mark.parametrize("path", [EMBED, COMPLETE, CHAT])
async def test_a_request_with_an_invalid_timeout_costs_no_tokens(guarded, path):
    headers = bearer(TOKENS) | {"x-request-timeout": "soon"}
    assert (await guarded.http.post(path, json=BODIES[path], headers=headers)).status_code == 400
    after = await guarded.http.get("/v1/models", headers=bearer(TOKENS))
    assert remaining(after) == 200


async def test_too_many_tokens_are_rejected_before_the_engine(guarded):
    ask = BODIES[COMPLETE] | {"max_tokens": 120}
    guarded.writer.delay_s = NEVER_S
    under_way = asyncio.create_task(guarded.http.post(COMPLETE, json=ask, headers=bearer(TOKENS)))
    await until(lambda: guarded.writer.running == 1)
    response = await guarded.http.post(COMPLETE, json=ask, headers=bearer(TOKENS))
    assert response.status_code == 429
    error = error_of(response)
    assert (error["type"], error["code"]) == ("tokens", "rate_limit_exceeded")
    assert "on tokens per min (TPM): Limit 200, Used 1" in error["message"]
    assert int(response.headers["retry-after"]) >= 1
    assert guarded.writer.running == 1
    under_way.cancel()
    await asyncio.gather(under_way, return_exceptions=True)
    await until(lambda: guarded.writer.running == 0)


@pytest.mark.parametrize(
    "more", [{"max_tokens": 201}, {"n": 3, "max_tokens": 70}, {"prompt": ["a", "b"], "max_tokens": 100}]
)
async def test_a_request_above_the_limit_is_reported_as_too_large(guarded, more):
    response = await guarded.http.post(COMPLETE, json=BODIES[COMPLETE] | more, headers=bearer(TOKENS))
    assert response.status_code == 429
    assert error_of(response)["message"].startswith("Request too large for key 'some' on tokens per min (TPM)")


async def test_an_open_ended_answer_does_not_exceed_the_limit(guarded):
    body = {name: value for name, value in BODIES[CHAT].items() if name != "max_tokens"}
    response = await guarded.http.post(CHAT, json=body, headers=bearer(TOKENS))
    assert response.status_code == 200


@pytest.mark.parametrize(("path", "engine"), [(EMBED, "embedder"), (COMPLETE, "writer")])
async def test_a_failed_request_costs_no_tokens(guarded, path, engine):
    getattr(guarded, engine).fail_next = BackendFailedError("It failed.")
    response = await guarded.http.post(path, json=BODIES[path], headers=bearer(TOKENS))
    assert response.status_code == 500
    assert remaining(response) == 200


async def test_a_disconnected_client_is_charged_the_estimate(guarded):
    guarded.writer.delay_s = NEVER_S
    client = Leaving(BODIES[COMPLETE] | {"max_tokens": 100})
    client.headers.append((b"authorization", f"Bearer {TOKENS}".encode()))
    call = asyncio.create_task(client.call(guarded.app, COMPLETE))
    await until(lambda: guarded.writer.running > 0)
    client.leave.set()
    await call
    assert guarded.writer.running == 0
    after = await guarded.http.get("/v1/models", headers=bearer(TOKENS))
    assert remaining(after) <= 100


async def test_several_processes_share_the_limits():
    settings = {"API_KEYS": KEY, "KEY_REQUESTS_PER_MINUTE": "10", "API_PROCESSES": "4"}
    async with serving(Api(settings=settings)) as api:
        await ready(api)
        response = await api.http.get("/v1/models", headers=bearer(KEY))
    assert response.headers["x-ratelimit-limit-requests"] == "2"


# Pages of other sites

ORIGIN = "https://app.example.com"


@pytest.fixture
async def shared_with_pages() -> AsyncGenerator[Api, None]:
    async with serving(Api(settings={"API_KEYS": KEY, "CORS_ORIGINS": ORIGIN})) as api:
        await ready(api)
        yield api


def preflight(origin: str) -> dict[str, str]:
    return {
        "origin": origin,
        "access-control-request-method": "POST",
        "access-control-request-headers": "authorization,content-type,x-stainless-os",
    }


async def test_preflight_requests_need_no_key(shared_with_pages):
    response = await shared_with_pages.http.options(CHAT, headers=preflight(ORIGIN))
    assert response.status_code == 204
    assert response.headers["access-control-allow-origin"] == ORIGIN
    assert "POST" in response.headers["access-control-allow-methods"]
    for name in ("authorization", "content-type", "x-stainless-os"):
        assert name in response.headers["access-control-allow-headers"].lower()


async def test_pages_of_other_origins_are_not_allowed(shared_with_pages):
    response = await shared_with_pages.http.options(CHAT, headers=preflight("https://evil.example.com"))
    assert response.status_code == 400
    assert "access-control-allow-origin" not in response.headers
    headers = {"origin": "https://evil.example.com", **bearer(KEY)}
    assert (
        "access-control-allow-origin"
        not in (await shared_with_pages.http.get("/v1/models", headers=headers)).headers
    )


@pytest.mark.parametrize(
    ("path", "body", "status"),
    [
        (CHAT, BODIES[CHAT], 200),
        (CHAT, BODIES[CHAT] | {"stream": True}, 200),
        (CHAT, {}, 400),
        (COMPLETE, BODIES[COMPLETE] | {"model": "none"}, 404),
        ("/none", {}, 404),
    ],
)
async def test_pages_can_read_every_answer(shared_with_pages, path, body, status):
    response = await shared_with_pages.http.post(path, json=body, headers={"origin": ORIGIN, **bearer(KEY)})
    assert response.status_code == status
    assert response.headers["access-control-allow-origin"] == ORIGIN
    assert "x-request-id" in response.headers["access-control-expose-headers"]


async def test_pages_can_read_an_authentication_error(shared_with_pages):
    response = await shared_with_pages.http.post(CHAT, json=BODIES[CHAT], headers={"origin": ORIGIN})
    assert response.status_code == 401
    assert response.headers["access-control-allow-origin"] == ORIGIN


async def test_by_default_no_page_may_read_anything(api):
    response = await api.http.get("/v1/models", headers={"origin": ORIGIN})
    assert not [name for name in response.headers if name.startswith("access-control")]
    assert (await api.http.options(CHAT, headers=preflight(ORIGIN))).headers.get(
        "access-control-allow-origin"
    ) is None
