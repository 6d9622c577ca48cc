import re

import pytest

from app.http.response_headers import request_id, stamped
from tests.unit.serving import BODIES, CHAT, COMPLETE, EMBED, NEVER_S, Leaving
from tests.unit.test_errors import SEEN_BY_CLIENTS, make
from tests.unit.waiting import until

FRESH = re.compile(r"req_[0-9a-f]{32}")
SANE = ["a", "req_0123", "A.b:c/d+e=f-g_h", "x" * 128, "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"]
INSANE = [b"", b"x" * 129, b"a b", b" ", b"a\x00b", b"a\x7fb", b"a\tb", b"\xe9", b"a\n", b'"a"', b"a;b", b"<a>"]


def scope_of(*headers: tuple[bytes, bytes], **more) -> dict:
    return {"type": "http", "headers": list(headers), **more}


async def headers_of(scope: dict, *sent: tuple[bytes, bytes]) -> list[tuple[bytes, bytes]]:
    messages: list[dict] = []

    async def send(message: dict) -> None:
        messages.append(message)

    stamp = stamped(scope, send)
    await stamp({"type": "http.response.start", "status": 200, "headers": list(sent)})
    await stamp({"type": "http.response.body", "body": b"x"})
    assert messages[1] == {"type": "http.response.body", "body": b"x"}
    return messages[0]["headers"]


async def test_the_headers_of_an_answer_are_kept_and_others_added():
    headers = await headers_of(scope_of(), (b"content-type", b"text/plain"))
    assert headers[0] == (b"content-type", b"text/plain")
    added = dict(headers[1:])
    assert set(added) == {b"x-request-id", b"openai-processing-ms", b"openai-version"}
    assert added[b"openai-version"] == b"2020-10-01"
    assert int(added[b"openai-processing-ms"]) >= 0


async def test_an_answer_without_headers_gets_them_too():
    messages: list[dict] = []

    async def send(message: dict) -> None:
        messages.append(message)

    await stamped(scope_of(), send)({"type": "http.response.start", "status": 204})
    assert len(messages[0]["headers"]) == 3


async def test_the_id_is_the_one_that_the_request_is_known_by():
    scope = scope_of()
    headers = dict(await headers_of(scope))
    assert headers[b"x-request-id"].decode() == request_id(scope)


async def test_what_a_server_keeps_in_the_state_is_left_there():
    scope = scope_of(state={"own": 1})
    await headers_of(scope)
    assert scope["state"]["own"] == 1


@pytest.mark.parametrize("sane", SANE)
async def test_a_sane_id_of_the_clients_own_is_kept(sane):
    headers = dict(await headers_of(scope_of((b"x-request-id", sane.encode()))))
    assert headers[b"x-request-id"] == sane.encode()


@pytest.mark.parametrize("insane", INSANE, ids=repr)
async def test_any_other_is_replaced(insane):
    headers = dict(await headers_of(scope_of((b"x-request-id", insane))))
    assert FRESH.fullmatch(headers[b"x-request-id"].decode())


async def test_ids_are_never_the_same():
    ids = {dict(await headers_of(scope_of()))[b"x-request-id"] for _ in range(20)}
    assert len(ids) == 20


# On every answer of the application


def is_stamped(response, request_id: str | None = None) -> bool:
    headers = response.headers
    own = headers.get_list("x-request-id")
    return (
        len(own) == 1
        and (own[0] == request_id if request_id else bool(FRESH.fullmatch(own[0])))
        and headers["openai-processing-ms"].isdigit()
        and headers["openai-version"] == "2020-10-01"
    )


@pytest.mark.parametrize("path", BODIES)
@pytest.mark.parametrize("request_id", [None, "the-clients-own"])
async def test_a_good_answer_has_the_headers(api, path, request_id):
    headers = {"x-request-id": request_id} if request_id else {}
    response = await api.http.post(path, json=BODIES[path], headers=headers)
    assert response.status_code == 200
    assert is_stamped(response, request_id)


@pytest.mark.parametrize("path", [COMPLETE, CHAT])
async def test_a_stream_has_the_headers(api, path):
    response = await api.post(path, stream=True)
    assert response.headers["content-type"].startswith("text/event-stream")
    assert is_stamped(response)


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/v1/models", 200),
        ("GET", "/health", 200),
        ("GET", "/health/live", 200),
        ("GET", "/health/ready", 200),
        ("GET", "/openapi.json", 200),
        ("GET", "/v1/models/nobody", 404),
        ("GET", "/nowhere", 404),
        ("POST", "/nowhere", 404),
        ("GET", CHAT, 405),
        ("DELETE", "/v1/models", 405),
        ("POST", EMBED, 400),
        ("POST", CHAT, 400),
    ],
)
async def test_an_answer_of_every_status_has_the_headers(api, method, path, status):
    response = await api.http.request(method, path, headers={"x-request-id": "the-clients-own"})
    assert response.status_code == status
    assert is_stamped(response, "the-clients-own")


@pytest.mark.parametrize("path", BODIES)
async def test_a_body_that_is_refused_is_answered_with_the_headers(api, path):
    too_large = await api.http.post(path, content=b" " * 5000)
    no_json = await api.http.post(path, content=b"x", headers={"content-type": "text/plain"})
    assert (too_large.status_code, no_json.status_code) == (413, 415)
    assert is_stamped(too_large)
    assert is_stamped(no_json)


@pytest.mark.parametrize("kind", SEEN_BY_CLIENTS)
async def test_a_failure_has_the_headers(api, kind):
    api.embedder.fail_next = make(kind)
    response = await api.embed()
    assert response.status_code == SEEN_BY_CLIENTS[kind][0]
    assert is_stamped(response)


async def test_an_unforeseen_failure_has_the_headers(api):
    api.embedder.fail_next = KeyError("x")
    response = await api.embed()
    assert response.status_code == 500
    assert is_stamped(response)


@pytest.mark.parametrize("insane", ["a b", "x" * 129, "é"])
async def test_an_insane_id_is_not_sent_back(api, insane):
    headers = {"x-request-id": insane.encode()}
    assert is_stamped(await api.http.post(EMBED, json=BODIES[EMBED], headers=headers))


async def test_the_engine_gets_the_id_of_the_answer(api, monkeypatch):
    contexts = []
    call = api.embedder.call

    async def noting(request, context):
        contexts.append(context)
        return await call(request, context)

    monkeypatch.setattr(api.embedder, "call", noting)
    response = await api.embed()
    assert [context.request_id for context in contexts] == [response.headers["x-request-id"]]


async def test_the_time_is_in_milliseconds_until_the_answer_began(api):
    api.embedder.delay_s = 0.03
    assert 30 <= int((await api.embed()).headers["openai-processing-ms"]) < 3000


async def test_a_client_that_has_left_is_no_problem(api):
    api.embedder.delay_s = NEVER_S
    client = Leaving(BODIES[EMBED])
    client.leave.set()
    await client.call(api.app, EMBED)
    await until(lambda: api.embedder.running == 0)
