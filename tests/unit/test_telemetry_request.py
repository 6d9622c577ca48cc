"""Each request, however it ends, has exactly one record of what happened."""

import asyncio
import time
from collections.abc import AsyncGenerator

import pytest

import app.http.disconnect
from app.http.connection_limits import MAX_HEADERS
from app.telemetry.record import PROBES, Listener, OperationRecord
from app.telemetry.request import OBSERVATION, RequestObservation
from app.telemetry.telemetry import NO_TELEMETRY, Telemetry
from domain.errors import BackendFailedError, EngineDiedError, RequestTimeoutError
from domain.observation import Phase
from domain.roles import Role
from tests.unit.observed import ObservedApi, RecordingListener, observing
from tests.unit.serving import (
    BODIES,
    CHAT,
    COMPLETE,
    EMBED,
    MAX_BODY_BYTES,
    NEVER_S,
    TOKENIZE,
    Api,
    Leaving,
    listening,
    serving,
)
from tests.unit.waiting import until

KEY = "sk-open-0123456789-ab"
SHORT = {"max_tokens": 4, "temperature": 0}


@pytest.fixture(scope="module")
async def module_api() -> AsyncGenerator[ObservedApi, None]:
    async with observing() as running:
        yield running


@pytest.fixture
async def api(module_api) -> ObservedApi:
    for engine in (module_api.embedder, module_api.writer):
        engine.delay_s, engine.fail_next = 0.0, None
    module_api.listener.forget()
    return module_api


@pytest.fixture
def _watch_at_once(monkeypatch):
    monkeypatch.setattr(app.http.disconnect, "WATCH_AFTER_S", 0.0)


# Answers


@pytest.mark.parametrize(
    ("path", "operation", "role"),
    [
        (EMBED, "embeddings", Role.EMBED),
        (COMPLETE, "text_completion", Role.GENERATE),
        (CHAT, "chat", Role.GENERATE),
        (TOKENIZE, None, None),
    ],
)
async def test_a_good_answer(api, path, operation, role):
    response = await api.http.post(path, json=BODIES[path], headers={"x-request-id": "mine"})
    record = api.listener.request
    assert (record.method, record.route, record.status) == ("POST", path, 200)
    assert (record.request_id, record.error_type, record.client_gone) == ("mine", None, False)
    assert (record.operation, record.role, record.is_stream) == (operation, role, False)
    assert record.first_token_s is None
    assert record.duration_s > 0
    if operation is not None:
        usage = response.json()["usage"]
        assert record.prompt_tokens == usage["prompt_tokens"] > 0
        assert record.completion_tokens == usage.get("completion_tokens", 0)
        assert record.model == {Role.EMBED: "fake-embed", Role.GENERATE: "fake-write"}[role]
        assert api.listener.operation.duration_s <= record.duration_s


@pytest.mark.parametrize("path", [COMPLETE, CHAT])
async def test_a_stream_is_one_record_at_its_end(api, path):
    ended_at_first_part = None
    async with api.http.stream("POST", path, json=BODIES[path] | {"stream": True}) as response:
        async for _ in response.aiter_bytes():
            if ended_at_first_part is None:
                ended_at_first_part = len(api.listener.requests)
    record = api.listener.request
    assert (record.status, record.error_type, record.client_gone, record.is_stream) == (200, None, False, True)
    assert (record.prompt_tokens > 0, record.completion_tokens) == (True, 4)
    operation = api.listener.operation
    assert 0 < operation.first_token_s <= operation.duration_s <= record.duration_s
    # The request starts earlier than its operation, so its time to the first token is longer.
    assert operation.first_token_s <= record.first_token_s <= record.duration_s


async def test_the_time_to_the_first_token_is_that_of_the_first(api):
    api.writer.delay_s = 0.01
    await api.complete(stream=True, max_tokens=10)
    operation = api.listener.operation
    assert 0.01 <= operation.first_token_s < operation.duration_s / 2


async def test_an_alias_is_recorded_under_the_models_own_name(api):
    await api.complete(model="gpt-3.5-turbo-instruct")
    assert api.listener.request.model == "fake-write"


async def test_several_prompts_add_up(api):
    response = await api.complete(prompt=["one", "two more", "three"], max_tokens=5)
    usage = response.json()["usage"]
    record = api.listener.request
    assert len(api.listener.operations) == 3
    assert record.prompt_tokens == usage["prompt_tokens"] == sum(map(len, ["one", "two more", "three"]))
    assert record.completion_tokens == usage["completion_tokens"] == 15


async def test_of_several_prompts_the_first_token_of_any_counts(api):
    await api.complete(prompt=["one", "two more"], stream=True)
    record, operations = api.listener.request, api.listener.operations
    assert len(operations) == 2
    assert min(operation.first_token_s for operation in operations) <= record.first_token_s <= record.duration_s


@pytest.mark.parametrize("stream", [False, True])
async def test_several_choices_are_one_operation(api, stream):
    await api.complete(n=3, stream=stream, temperature=1, max_tokens=4)
    assert api.listener.operation.completion_tokens == api.listener.request.completion_tokens == 12
    assert api.listener.operation.choices == 3


@pytest.mark.parametrize("stream", [False, True])
async def test_greedy_choices_are_counted_as_in_usage(api, stream):
    response = await api.complete(n=3, stream=stream, temperature=0, max_tokens=4)
    assert api.listener.operation.choices == 3
    assert api.listener.operation.completion_tokens == api.listener.request.completion_tokens == 12
    if not stream:
        assert response.json()["usage"]["completion_tokens"] == 12


# Rejections


@pytest.mark.parametrize(
    ("method", "path", "sent", "status", "route", "error_type"),
    [
        ("POST", COMPLETE, {"json": {"model": "fake-write"}}, 400, COMPLETE, "missing_required_parameter"),
        ("POST", COMPLETE, {"content": b"{"}, 400, COMPLETE, "invalid_request_error"),
        ("POST", CHAT, {"json": BODIES[CHAT] | {"model": "odd\nname"}}, 404, CHAT, "model_not_found"),
        ("POST", CHAT, {"json": BODIES[CHAT] | {"model": "fake-embed"}}, 404, CHAT, "invalid_request_error"),
        ("GET", "/nowhere", {}, 404, "unmatched", "unknown_url"),
        ("GET", "/v1/models/nobody", {}, 404, "/v1/models/{model_id}", "model_not_found"),
        ("POST", "/v1/models/a/b/c", {}, 405, "/v1/models/{model_id}", "method_not_supported"),
        ("DELETE", EMBED, {}, 405, EMBED, "method_not_supported"),
        ("POST", EMBED, {"content": b"x" * (MAX_BODY_BYTES + 1)}, 413, EMBED, "payload_too_large"),
        ("POST", EMBED, {"content": b"x", "headers": {"content-type": "text/plain"}}, 415, EMBED,
         "unsupported_media_type"),
    ],
)  # fmt: skip
async def test_a_refusal(api, method, path, sent, status, route, error_type):
    headers = {"content-type": "application/json"} | sent.pop("headers", {})
    response = await api.http.request(method, path, headers=headers, **sent)
    record = api.listener.request
    assert response.status_code == record.status == status
    assert (record.method, record.route, record.error_type) == (method, route, error_type)
    assert (record.client_gone, record.operation) == (False, None)
    assert api.listener.operations == []


async def test_a_rejection_by_the_engine_has_an_operation(api):
    await api.complete(prompt="x" * 300)
    record, operation = api.listener.request, api.listener.operation
    assert (record.status, record.model) == (400, "fake-write")
    assert record.error_type == operation.error_type == "context_length_exceeded"


@pytest.mark.parametrize("path", [EMBED, COMPLETE, CHAT])
async def test_the_model_of_a_rejected_request_is_recorded(path):
    api = ObservedApi()
    # The service is not started, so no engine is ready.
    async with api.http:
        response = await api.post(path)
    record = api.listener.request
    assert response.status_code == record.status == 503
    assert record.error_type == "model_not_ready"
    assert record.model == BODIES[path]["model"]
    assert api.listener.operations == []


async def test_an_unexpected_failure(api):
    api.writer.fail_next = KeyError("secret prompt")
    await api.complete()
    record, operation = api.listener.request, api.listener.operation
    assert (record.status, record.error_type) == (500, "server_error")
    assert operation.error_type == "KeyError"


async def test_a_deadline(api):
    api.writer.delay_s = NEVER_S
    response = await api.http.post(COMPLETE, json=BODIES[COMPLETE], headers={"x-request-timeout": "0.01"})
    record, operation = api.listener.request, api.listener.operation
    assert response.status_code == record.status == 504
    assert record.error_type == operation.error_type == "timeout"
    assert operation.duration_s >= 0.01


@pytest.mark.parametrize(
    ("headers", "error_type"),
    [({}, "invalid_request_error"), ({"authorization": "Bearer sk-wrong-0123456789"}, "invalid_api_key")],
)
@pytest.mark.parametrize(
    ("method", "path", "route"),
    [("POST", EMBED, EMBED), ("GET", "/v1/models/x", "/v1/models/{model_id}")],
)
async def test_an_unauthenticated_request_is_one_record(headers, error_type, method, path, route):
    async with observing(settings={"API_KEYS": KEY}) as api:
        await api.http.request(method, path, json={}, headers=headers)
        record = api.listener.request
        assert (record.status, record.route, record.error_type) == (401, route, error_type)
        assert record.key is None


async def test_the_key_is_recorded_by_name(tmp_path):
    file = tmp_path / "keys"
    file.write_text(f"alice {KEY} rpm=1\n")
    async with observing(settings={"API_KEYS_FILE": str(file)}) as api:
        for _ in range(2):
            await api.http.post(EMBED, json=BODIES[EMBED], headers={"authorization": f"Bearer {KEY}"})
        good, refused = api.listener.requests
        assert (good.status, good.key, good.error_type) == (200, "alice", None)
        assert (refused.status, refused.key, refused.error_type) == (429, "alice", "rate_limit_exceeded")
        assert KEY not in repr(api.listener.requests)


async def test_a_preflight_request_is_recorded():
    async with observing(settings={"CORS_ORIGINS": "https://a.example"}) as api:
        headers = {"origin": "https://a.example", "access-control-request-method": "POST"}
        response = await api.http.options(EMBED, headers=headers)
        assert response.status_code == api.listener.request.status == 204
        assert api.listener.request.error_type is None
        assert api.listener.request.route in (EMBED, "unmatched")


@pytest.mark.parametrize(("sent", "found"), [("DELETE", "DELETE"), ("PURGE", "_OTHER"), ("get", "_OTHER")])
async def test_unknown_methods_are_recorded_as_other(api, sent, found):
    # httpx converts methods to capitals.
    client = Leaving({})
    scope_method = sent

    async def call(scope, receive, send):
        await api.app(scope | {"method": scope_method}, receive, send)

    await client.call(call, EMBED)
    assert (api.listener.request.method, api.listener.request.route) == (found, EMBED)


@pytest.mark.parametrize("path", ["/health", "/health/", "/health/live", "/health/ready", "/health/ready/"])
async def test_probes_are_marked(api, path):
    await api.http.get(path)
    assert api.listener.request.is_probe
    assert api.listener.request.route in PROBES


async def test_the_pages_files_are_probes(api):
    for path in ("/", "/page/main.js"):
        assert (await api.http.get(path)).status_code == 200
    assert [record.is_probe for record in api.listener.requests] == [True, True]
    await api.http.get("/v1/models")
    assert not api.listener.requests[-1].is_probe


# Rejections by the server itself, before the application


async def answer_to(port: int, *lines: str) -> str:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write("\r\n".join([*lines, "host: a", "", ""]).encode())
    async with asyncio.timeout(10):
        answer = await reader.read()
    writer.close()
    return answer.decode()


async def test_too_many_headers_are_a_record(api):
    async with listening(api) as port:
        answer = await answer_to(
            port, "GET /v1/models HTTP/1.1", *(f"x-{number}: 1" for number in range(MAX_HEADERS))
        )
    assert answer.startswith("HTTP/1.1 431")
    record = api.listener.request
    assert (record.status, record.error_type, record.client_gone) == (431, "headers_too_large", False)
    # Like every answer, it has the id that is in the log.
    assert f"x-request-id: {record.request_id}" in answer
    assert "connection: close" in answer


async def test_too_many_connections_are_a_record(api):
    async with listening(api, max_connections=1) as port:
        _, other = await asyncio.open_connection("127.0.0.1", port)
        answer = await answer_to(port, "GET /v1/models HTTP/1.1")
        other.close()
    assert answer.startswith("HTTP/1.1 503")
    record = api.listener.request
    assert (record.status, record.error_type, record.method) == (503, "too_many_connections", "GET")


async def test_a_request_timeout_is_not_a_disconnect(api):
    async with listening(api, timeout_s=0.1) as port:
        answer = await answer_to(
            port, f"POST {COMPLETE} HTTP/1.1", "content-type: application/json", "content-length: 9"
        )
        assert answer.startswith("HTTP/1.1 408")
        await until(lambda: bool(api.listener.requests))
    record = api.listener.request
    assert (record.status, record.error_type, record.route) == (408, "request_timeout", COMPLETE)
    assert not record.client_gone


# Waiting


async def test_the_time_in_the_queue_is_recorded():
    async with observing(settings={"GEN_MAX_RUNNING": "1"}) as api:
        api.writer.delay_s = 0.02
        await asyncio.gather(api.complete(max_tokens=1), api.complete(max_tokens=1))
        ((waiting, phase, seconds),) = api.listener.waits
        assert phase == "queue"
        assert 0 < seconds == waiting.queue_s <= waiting.duration_s
        assert sorted(record.queue_s for record in api.listener.requests) == [0, seconds]


async def test_a_full_queue_is_a_rejection():
    async with observing(settings={"GEN_MAX_RUNNING": "1", "GEN_MAX_WAITING": "0"}) as api:
        api.writer.delay_s = 0.01
        first = asyncio.create_task(api.complete(max_tokens=1))
        await until(lambda: api.writer.running == 1)
        await api.complete()
        record = api.listener.request
        assert (record.status, record.error_type, record.model) == (429, "queue_full", "fake-write")
        await first


async def test_batched_requests_are_recorded_with_the_batch_size():
    async with observing(settings={"EMBED_JOIN": "true"}) as api:
        api.embedder.delay_s = 0.005
        await asyncio.gather(*(api.embed(text) for text in ("a", "bb", "ccc")))
        assert [company for _, company in api.listener.batches] == [2, 2]
        assert [phase for _, phase, _ in api.listener.waits] == ["join", "join"]
        assert sorted(record.prompt_tokens for record in api.listener.requests) == [1, 2, 3]
        assert sum(record.join_s > 0 for record in api.listener.requests) == 2
        assert sum(operation.join_s > 0 for operation in api.listener.operations) == 2


async def test_a_disconnect_while_waiting_for_a_batch_has_a_wait():
    async with observing(settings={"EMBED_JOIN": "true"}) as api:
        api.embedder.delay_s = 0.05
        first = asyncio.create_task(api.embed("a"))
        await until(lambda: api.embedder.running == 1)
        response = await api.http.post(EMBED, json=BODIES[EMBED], headers={"x-request-timeout": "0.01"})
        assert response.status_code == 504
        (record,) = api.listener.requests
        assert record.join_s >= 0.009
        await first


# Streams that fail midway


@pytest.mark.parametrize("path", [COMPLETE, CHAT])
@pytest.mark.parametrize(
    ("error", "error_type", "operation_error"),
    [
        (BackendFailedError("It failed."), "server_error", "server_error"),
        (EngineDiedError("It died."), "engine_died", "engine_died"),
        (RuntimeError("odd"), "server_error", "RuntimeError"),
    ],
)
async def test_a_stream_that_fails_midway(api, path, error, error_type, operation_error):
    api.writer.fail_next = error
    response = await api.post(path, stream=True)
    record = api.listener.request
    assert response.status_code == record.status == 200
    assert (record.error_type, record.client_gone) == (error_type, False)
    assert api.listener.operation.error_type == operation_error
    assert record.first_token_s is not None


# Disconnects


async def leave(api: ObservedApi, body: dict, path: str, when) -> Leaving:
    client = Leaving(body)
    call = asyncio.create_task(client.call(api.app, path))
    await until(lambda: when(client))
    client.leave.set()
    await call
    return client


@pytest.mark.usefixtures("_watch_at_once")
@pytest.mark.parametrize("path", [EMBED, COMPLETE, CHAT])
async def test_a_disconnect_before_the_answer(api, path):
    engine = api.embedder if path == EMBED else api.writer
    engine.delay_s = NEVER_S
    await leave(api, BODIES[path], path, lambda _client: engine.running > 0)
    record, operation = api.listener.request, api.listener.operation
    assert (record.status, record.client_gone, record.route) == (499, True, path)
    assert record.error_type == operation.error_type == "cancelled"


@pytest.mark.usefixtures("_watch_at_once")
@pytest.mark.parametrize("path", [COMPLETE, CHAT])
async def test_a_disconnect_before_the_first_part_of_a_stream(api, path):
    api.writer.delay_s = NEVER_S
    await leave(api, BODIES[path] | {"stream": True}, path, lambda _client: api.writer.running > 0)
    record, operation = api.listener.request, api.listener.operation
    assert (record.status, record.client_gone) == (499, True)
    assert record.error_type == operation.error_type == "cancelled"
    assert record.first_token_s is None


@pytest.mark.usefixtures("_watch_at_once")
@pytest.mark.parametrize("path", [COMPLETE, CHAT])
async def test_a_disconnect_during_a_stream(api, path):
    api.writer.delay_s = 0.001
    body = BODIES[path] | {"stream": True, "max_tokens": 200}
    await leave(api, body, path, lambda client: len(client.sent) > 2)
    record, operation = api.listener.request, api.listener.operation
    assert (record.status, record.client_gone) == (200, True)
    assert record.error_type == operation.error_type == "cancelled"
    assert record.first_token_s is not None


async def test_a_disconnect_before_the_request_is_complete(api):
    client = Leaving(BODIES[COMPLETE], is_whole=False)
    client.leave.set()
    await client.call(api.app, COMPLETE)
    record = api.listener.request
    assert (record.status, record.client_gone, record.error_type) == (499, True, "cancelled")
    assert (record.route, record.operation) == (COMPLETE, None)


# The end of the service


@pytest.mark.parametrize("stream", [False, True])
async def test_a_request_abandoned_when_the_service_stops(api, stream):
    api.writer.delay_s = 0.005
    client = Leaving(BODIES[COMPLETE] | {"stream": stream, "max_tokens": 200})
    call = asyncio.create_task(client.call(api.app, COMPLETE))
    await until(lambda: api.writer.running > 0 and bool(client.sent) == stream)
    call.cancel()
    await call
    record = api.listener.request
    assert (record.status, record.error_type, record.client_gone) == (200 * stream, "service_stopping", False)
    assert api.listener.operation.error_type == "cancelled"


# One request, step by step


def observed(listener: RecordingListener) -> RequestObservation:
    scope = {"type": "http", "method": "POST", "path": COMPLETE, "state": {}}
    return RequestObservation(scope, "id", [listener], None)


def operation() -> OperationRecord:
    return OperationRecord(name="chat", role=Role.GENERATE, model="m")


def test_the_first_of_several_first_tokens_counts_in_whatever_order_they_end():
    for first in (0, 1):
        listener = RecordingListener()
        observation = observed(listener)
        operations = [observation.begin(operation(), {}) for _ in range(2)]
        operations[0].first_token()
        time.sleep(0.002)
        operations[1].first_token()
        for index in (first, 1 - first):
            operations[index].end()
        observation.end()
        assert listener.request.first_token_s <= listener.request.duration_s - 0.002


def test_waits_of_one_kind_add_up_in_a_call_and_the_longest_counts_for_the_request():
    listener = RecordingListener()
    observation = observed(listener)
    for seconds in (3, 1):
        call = observation.begin(operation(), {})
        for phase in Phase:
            call.waited(phase, 10.0, 10.0 + seconds)
            call.waited(phase, 20.0, 20.5)
        call.end()
    observation.end()
    assert [(each.queue_s, each.join_s) for each in listener.operations] == [(3.5, 3.5), (1.5, 1.5)]
    assert (listener.request.queue_s, listener.request.join_s) == (3.5, 3.5)
    assert [seconds for _, _, seconds in listener.waits] == [3, 0.5, 3, 0.5, 1, 0.5, 1, 0.5]


def test_waits_at_the_same_time_count_once():
    """The parts of a split request wait in the same queue."""
    listener = RecordingListener()
    call = observed(listener).begin(operation(), {})
    for began, ended in (5.0, 7.0), (1.0, 3.0), (2.0, 4.0), (2.5, 3.5):
        call.waited(Phase.QUEUE, began, ended)
    call.end()
    assert [(each.queue_s, each.join_s) for each in listener.operations] == [(5.0, 0.0)]


def test_a_disconnect_without_an_answer_has_status_499():
    listener = RecordingListener()
    observation = observed(listener)
    observation.client_left()
    observation.end()
    assert (listener.request.status, listener.request.client_gone) == (499, True)


def test_a_rejected_request_is_not_a_disconnect():
    listener = RecordingListener()
    observation = observed(listener)
    observation.set_status(408)
    observation.failed(RequestTimeoutError("Too slow."))
    observation.client_left()
    observation.set_status(499)
    observation.end()
    assert (listener.request.status, listener.request.client_gone) == (408, False)
    assert listener.request.error_type == "request_timeout"


# Without telemetry


@pytest.mark.parametrize("telemetry", [NO_TELEMETRY, Telemetry()])
async def test_without_listeners_there_is_no_observation(telemetry):
    scope = {"type": "http", "state": {}}
    assert telemetry.begin(scope, "id") is None
    assert scope == {"type": "http", "state": {}}


async def test_without_telemetry_the_context_has_no_observer(monkeypatch):
    made = []
    monkeypatch.setattr("app.telemetry.telemetry.RequestObservation", lambda *given: made.append(given))
    async with serving(Api()) as api:
        await until(lambda: api.is_ready)
        for path in (EMBED, COMPLETE, CHAT):
            assert (await api.post(path)).status_code == 200
    assert made == []


async def test_one_listener_is_enough_for_an_observation():
    scope = {"type": "http", "method": "GET", "path": "/", "state": {}}
    observation = Telemetry([Listener()]).begin(scope, "id")
    assert scope["state"][OBSERVATION] is observation is not None


async def test_all_listeners_receive_the_same(api):
    others = [RecordingListener(), RecordingListener()]
    api.app.telemetry, before = Telemetry(others), api.app.telemetry
    try:
        await api.complete()
    finally:
        api.app.telemetry = before
    assert others[0].request is others[1].request
    assert others[0].operation is others[1].operation


async def test_each_request_has_its_own_record(api):
    await asyncio.gather(*(api.complete(max_tokens=2) for _ in range(8)))
    assert len({record.request_id for record in api.listener.requests}) == len(api.listener.requests) == 8
    assert all(record.completion_tokens == 2 for record in api.listener.requests)


# Exporters


class Recorder:
    def __init__(self) -> None:
        self.did: list[str] = []

    def start(self) -> None:
        self.did.append("start")

    def stop(self) -> None:
        self.did.append("stop")


async def test_exporters_begin_and_end_with_the_service():
    exporters = [Recorder(), Recorder()]
    telemetry = Telemetry(exporters=exporters)
    telemetry.start()
    assert [exporter.did for exporter in exporters] == [["start"]] * 2
    await telemetry.stop()
    assert [exporter.did for exporter in exporters] == [["start", "stop"]] * 2
