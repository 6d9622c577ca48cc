import asyncio
import base64
import gzip
import json
import struct
from urllib.parse import quote

import pytest
from litestar.testing import AsyncTestClient

from app.bootstrap import build_service
from app.settings import load_settings
from domain.errors import BackendFailedError, BackendTimeoutError, BackendUnavailableError
from domain.roles import Role
from tests.fakes import CACHE_BLOCK, DIMENSIONS, FakeBackend
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
    chunks_of,
    error_of,
    left,
    serving,
)
from tests.unit.test_errors import SEEN_BY_CLIENTS, make
from tests.unit.waiting import until

NOTHING_CACHED = {"prompt_tokens_details": {"cached_tokens": 0, "audio_tokens": 0}}

# Embeddings


async def test_an_embedding_is_numbers_by_default(api):
    response = await api.embed()
    answer = response.json()
    assert response.status_code == 200
    assert answer["model"] == "fake-embed"
    assert answer["usage"] == {"prompt_tokens": 4, "total_tokens": 4}
    (item,) = answer["data"]
    assert (item["object"], item["index"], len(item["embedding"])) == ("embedding", 0, DIMENSIONS)


async def test_base64_and_floats_are_the_same_vector(api):
    numbers = (await api.embed(encoding_format="float")).json()["data"][0]["embedding"]
    text = (await api.embed(encoding_format="base64")).json()["data"][0]["embedding"]
    assert list(struct.unpack(f"<{DIMENSIONS}f", base64.b64decode(text))) == numbers


async def test_inputs_keep_their_order(api):
    apart = [(await api.embed(text)).json()["data"][0]["embedding"] for text in ("a", "b", "c")]
    together = (await api.embed(["a", "b", "c"])).json()["data"]
    assert [item["index"] for item in together] == [0, 1, 2]
    assert [item["embedding"] for item in together] == apart


async def test_tokens_are_embedded_like_their_text(api):
    assert (await api.embed([97, 98])).json()["data"] == (await api.embed("ab")).json()["data"]
    assert len((await api.embed([[97], [98]])).json()["data"]) == 2


async def test_an_alias_is_answered_with_the_models_own_name(api):
    response = await api.embed(model="text-embedding-3-small")
    assert (response.status_code, response.json()["model"]) == (200, "fake-embed")


async def test_an_input_that_is_too_long_names_the_limit(api):
    error = error_of(await api.embed("x" * 257))
    assert (error["code"], error["param"]) == ("context_length_exceeded", "input")
    assert "256" in error["message"]


# Completions


async def test_a_completion_is_not_streamed_by_default(api):
    response = await api.complete()
    answer = response.json()
    assert response.status_code == 200
    assert (answer["object"], answer["model"]) == ("text_completion", "fake-write")
    assert answer["id"].startswith("cmpl-")
    assert answer["usage"] == {"prompt_tokens": 4, "completion_tokens": 4, "total_tokens": 8} | NOTHING_CACHED
    (choice,) = answer["choices"]
    assert (choice["index"], choice["finish_reason"], choice["logprobs"]) == (0, "length", None)
    assert len(choice["text"]) == 4


async def test_every_answer_has_its_own_id(api):
    ids = {(await api.complete()).json()["id"] for _ in range(3)}
    assert len(ids) == 3


@pytest.mark.parametrize("more", [{}, {"n": 2}, {"logprobs": 2}, {"echo": True, "logprobs": 0}, {"stop": "e"}])
async def test_a_joined_stream_equals_the_complete_answer(api, more):
    whole = (await api.complete(["ab", "c"], **more)).json()["choices"]
    chunks = chunks_of(await api.complete(["ab", "c"], stream=True, **more))
    parts = [choice for chunk in chunks for choice in chunk["choices"]]
    for choice in whole:
        own = [part for part in parts if part["index"] == choice["index"]]
        assert "".join(part["text"] for part in own) == choice["text"]
        assert [part["finish_reason"] for part in own if part["finish_reason"]] == [choice["finish_reason"]]
        if choice["logprobs"]:
            for name, values in choice["logprobs"].items():
                assert [value for part in own for value in part["logprobs"][name]] == values


async def test_a_stream_declares_itself(api):
    response = await api.complete(stream=True)
    assert response.status_code == 200
    assert response.headers["content-type"].startswith("text/event-stream")
    assert all("usage" not in chunk for chunk in chunks_of(response))


async def test_chunks_of_one_stream_share_their_id(api):
    chunks = chunks_of(await api.complete(stream=True))
    assert len(chunks) > 1
    assert len({(chunk["id"], chunk["created"], chunk["model"]) for chunk in chunks}) == 1


async def test_usage_comes_last_if_requested(api):
    response = await api.complete(["ab", "c"], stream=True, stream_options={"include_usage": True})
    *chunks, last = chunks_of(response)
    assert all(chunk["usage"] is None and chunk["choices"] for chunk in chunks)
    assert last["choices"] == []
    assert last["usage"] == {"prompt_tokens": 3, "completion_tokens": 8, "total_tokens": 11} | NOTHING_CACHED


async def test_usage_has_the_cached_tokens_of_all_prompts(api):
    prompts = ["a" * 130, "b" * 140, "c"]
    asked = {"stream": True, "stream_options": {"include_usage": True}}
    before, after = [chunks_of(await api.complete(prompts, **asked))[-1]["usage"] for _ in range(2)]
    assert before["prompt_tokens_details"]["cached_tokens"] == 0
    assert after["prompt_tokens_details"] == {"cached_tokens": 2 * CACHE_BLOCK, "audio_tokens": 0}
    assert (await api.complete(prompts)).json()["usage"] == after


async def test_choices_of_several_prompts_are_numbered_through(api):
    choices = (await api.complete(["ab", "c"], n=2)).json()["choices"]
    assert [choice["index"] for choice in choices] == [0, 1, 2, 3]
    assert choices[0]["text"] == choices[1]["text"] != choices[2]["text"]


async def test_an_echo_puts_the_prompt_in_front(api):
    assert (await api.complete("ab", echo=True)).json()["choices"][0]["text"].startswith("ab")
    assert (await api.complete("ab", echo=True, max_tokens=0)).json()["choices"][0]["text"] == "ab"


# What is refused


@pytest.mark.parametrize("path", BODIES)
async def test_a_body_that_is_not_json_is_rejected(api, path):
    response = await api.http.post(path, content=b"{", headers={"content-type": "application/json"})
    assert response.status_code == 400
    assert error_of(response)["type"] == "invalid_request_error"


@pytest.mark.parametrize("path", BODIES)
async def test_a_missing_body_is_rejected(api, path):
    response = await api.http.post(path)
    assert response.status_code == 400
    assert "no body" in error_of(response)["message"]


@pytest.mark.parametrize("declared", ["application/json; charset=utf-8", "application/vnd.api+json", None])
async def test_json_is_accepted_however_it_is_declared(api, declared):
    body = json.dumps({"model": "fake-embed", "input": "text"}).encode()
    headers = {"content-type": declared} if declared else {}
    assert (await api.http.post(EMBED, content=body, headers=headers)).status_code == 200


@pytest.mark.parametrize("path", BODIES)
async def test_a_body_declared_as_something_else_is_rejected(api, path):
    response = await api.http.post(path, content=b"{}", headers={"content-type": "text/plain"})
    assert response.status_code == 415
    assert "text/plain" in error_of(response)["message"]


@pytest.mark.parametrize("path", BODIES)
async def test_a_compressed_body_is_rejected(api, path):
    content = gzip.compress(json.dumps(BODIES[path]).encode())
    response = await api.http.post(path, content=content, headers={"content-encoding": "gzip"})
    assert response.status_code == 415
    error = error_of(response)
    assert error["code"] == "unsupported_media_type"
    assert "'gzip'" in error["message"]


async def test_a_body_declared_as_not_compressed_is_accepted(api):
    content = json.dumps(BODIES[EMBED]).encode()
    response = await api.http.post(EMBED, content=content, headers={"content-encoding": "identity"})
    assert response.status_code == 200


async def test_a_too_large_body_is_rejected(api):
    response = await api.embed("x" * MAX_BODY_BYTES)
    assert response.status_code == 413
    assert error_of(response)["code"] == "payload_too_large"


async def test_a_too_large_body_without_a_length_is_rejected(api):
    async def parts():
        for _ in range(MAX_BODY_BYTES // 64):
            yield b" " * 128

    response = await api.http.post(EMBED, content=parts())
    assert response.status_code == 413
    assert api.embedder.running == 0


async def test_an_unknown_parameter_is_rejected(api):
    response = await api.complete(temprature=1)
    assert response.status_code == 400
    assert error_of(response)["param"] == "temprature"


async def test_an_unknown_model_is_rejected(api):
    response = await api.complete(model="gpt")
    error = error_of(response)
    assert response.status_code == 404
    assert (error["code"], error["param"]) == ("model_not_found", "model")


@pytest.mark.parametrize(
    ("path", "model", "field"), [(EMBED, "fake-write", "input"), (COMPLETE, "fake-embed", "prompt")]
)
async def test_a_model_of_another_endpoint_is_reported_as_such(api, path, model, field):
    response = await api.http.post(path, json={"model": model, field: "x"})
    assert response.status_code == 404
    assert "Use it with" in error_of(response)["message"]


@pytest.mark.parametrize(
    "path",
    ["/page", "/page/none.js", "/page/files.py", "/v1/chat", "/v2/models", "/docs", "/schema", "/v1/tokenize"],
)
async def test_an_unknown_path_is_reported(api, path):
    response = await api.http.get(path)
    assert response.status_code == 404
    assert error_of(response)["code"] == "unknown_url"


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", EMBED),
        ("PUT", COMPLETE),
        ("GET", CHAT),
        ("POST", "/v1/models"),
        ("GET", TOKENIZE),
        ("POST", "/openapi.json"),
    ],
)
async def test_a_wrong_method_is_reported(api, method, path):
    response = await api.http.request(method, path)
    assert response.status_code == 405
    assert error_of(response)["code"] == "method_not_supported"


async def test_rejected_requests_do_not_reach_an_engine(api):
    seen = len(api.embedder.seen)
    await api.embed("")
    await api.embed(["a", 1])
    await api.embed(dimensions=0)
    assert len(api.embedder.seen) == seen


# What fails


@pytest.mark.parametrize("kind", SEEN_BY_CLIENTS)
async def test_every_failure_of_an_engine_has_its_status_and_body(api, kind):
    status, type_, code = SEEN_BY_CLIENTS[kind]
    api.embedder.fail_next = make(kind)
    response = await api.embed()
    error = error_of(response)
    assert (response.status_code, error["type"], error["code"]) == (status, type_, code)


@pytest.mark.parametrize(("seconds", "header"), [(7, "7"), (0, "1"), (None, None)])
async def test_a_retryable_failure_has_a_retry_after_header(api, seconds, header):
    api.embedder.fail_next = BackendTimeoutError("Slow.", retry_after_s=seconds)
    assert (await api.embed()).headers.get("retry-after") == header


async def test_an_unexpected_failure_is_a_500_without_details(api):
    api.writer.fail_next = KeyError("a secret")
    response = await api.complete()
    assert response.status_code == 500
    assert "secret" not in response.text
    assert error_of(response)["type"] == "server_error"


async def test_a_failure_before_the_first_chunk_has_its_status(api):
    response = await api.complete("x" * 300, stream=True)
    assert response.status_code == 400
    assert error_of(response)["code"] == "context_length_exceeded"


async def test_a_failure_in_the_middle_of_a_stream_is_its_last_event(api):
    api.writer.fail_next = BackendFailedError("Broken.")
    response = await api.complete(stream=True)
    last = response.text.strip().split("\n\n")[-1]
    assert response.status_code == 200
    assert json.loads(last.removeprefix("data: "))["error"]["message"] == "Broken."


async def test_a_failure_of_one_prompt_fails_the_request(api):
    response = await api.complete(["a", "x" * 300, "b"])
    assert response.status_code == 400
    assert api.writer.running == 0


# Clients that leave


async def test_a_disconnect_cancels_an_embedding(api):
    await left(api, api.embedder, EMBED, {"model": "fake-embed", "input": "text"})
    assert api.embedder.running == 0


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("prompt", ["a", ["a", "b"]])
async def test_a_disconnect_cancels_a_completion(api, stream, prompt):
    await left(api, api.writer, COMPLETE, {"model": "fake-write", "prompt": prompt, "stream": stream})
    assert api.writer.running == 0


async def test_a_disconnect_cancels_a_stream(api):
    client = Leaving({"model": "fake-write", "prompt": "a", "stream": True, "max_tokens": 9})
    call = asyncio.create_task(client.call(api.app, COMPLETE))
    await until(lambda: len(client.sent) > 2)
    api.writer.delay_s = NEVER_S
    client.leave.set()
    await call
    assert api.writer.running == 0
    assert not any(b"[DONE]" in message.get("body", b"") for message in client.sent)


@pytest.mark.parametrize("path", BODIES)
async def test_a_disconnect_during_the_request_is_not_logged_as_an_error(api, caplog, path):
    client = Leaving(BODIES[path], is_whole=False)
    client.leave.set()
    await client.call(api.app, path)
    assert [message.get("status", 499) for message in client.sent] == [499, 499]
    assert caplog.records == []


async def test_a_disconnect_is_not_logged_as_an_error(api, caplog):
    await left(api, api.embedder, EMBED, {"model": "fake-embed", "input": "text"})
    assert caplog.records == []
    assert api.is_ready


# Models


async def test_all_models_are_listed_under_all_their_names(api):
    answer = (await api.http.get("/v1/models")).json()
    assert answer["object"] == "list"
    names = [model["id"] for model in answer["data"]]
    assert names == [
        "fake-embed",
        "text-embedding-3-small",
        "fake-write",
        "gpt-3.5-turbo-instruct",
        "org/name",
        "a%41",
    ]
    assert {(model["object"], model["max_model_len"]) for model in answer["data"]} == {("model", 256)}


@pytest.mark.parametrize(
    ("path", "name"), [("fake-embed", "fake-embed"), ("org/name", "org/name"), ("org%2Fname", "org/name")]
)
async def test_a_model_is_found_with_its_slash_escaped_or_not(api, path, name):
    response = await api.http.get(f"/v1/models/{path}")
    assert (response.status_code, response.json()["id"]) == (200, name)


async def test_every_listed_name_resolves_to_its_model(api):
    for model in (await api.http.get("/v1/models")).json()["data"]:
        response = await api.http.get(f"/v1/models/{quote(model['id'], safe='')}")
        assert (response.status_code, response.json()) == (200, model)


async def test_an_unknown_model_is_not_found(api):
    response = await api.http.get("/v1/models/org/other")
    error = error_of(response)
    assert response.status_code == 404
    assert error["code"] == "model_not_found"
    assert "'org/other'" in error["message"]


# Health, and the life of the service


async def test_health_reports_every_role(api):
    response = await api.http.get("/health")
    answer = response.json()
    assert (response.status_code, answer["status"]) == (200, "ok")
    assert {role: one["state"] for role, one in answer["backends"].items()} == {
        "embed": "ready",
        "generate": "ready",
    }
    assert answer["backends"]["embed"]["model"] == "fake-embed"


@pytest.mark.parametrize(
    ("path", "body"), [("/health/live", {"status": "ok"}), ("/health/ready", {"status": "ok"})]
)
async def test_a_ready_service_is_live_and_ready(api, path, body):
    response = await api.http.get(path)
    assert (response.status_code, response.json()) == (200, body)


async def test_a_starting_service_answers_that_it_is_starting():
    starting = Api()
    starting.embedder.fail_start = [BackendUnavailableError("Out of reach.")] * 1000
    async with serving(starting) as api:
        await until(lambda: api.service.health().backends[Role.EMBED].reason is not None)
        health = await api.http.get("/health")
        ready = await api.http.get("/health/ready")
        refused = await api.embed()
        assert (health.status_code, ready.status_code, refused.status_code) == (503, 503, 503)
        assert health.json()["backends"]["embed"]["reason"] == "Out of reach."
        assert ready.json() == {"status": "unavailable"}
        assert error_of(refused)["code"] == "model_not_ready"
        assert int(refused.headers["retry-after"]) > 0
        assert (await api.http.get("/health/live")).status_code == 200
        assert len((await api.http.get("/v1/models")).json()["data"]) == 6


async def test_a_failed_role_does_not_affect_the_other():
    broken = Api()
    broken.embedder.fail_start = [BackendFailedError("No such weights.")]
    async with serving(broken) as api:
        await until(lambda: api.service.health().backends[Role.GENERATE].state == "ready")
        assert (await api.complete()).status_code == 200
        assert (await api.embed()).status_code == 503
        assert (await api.http.get("/health")).json()["backends"]["embed"]["reason"] == "No such weights."


async def test_the_applications_lifespan_starts_and_stops_the_service():
    api = Api()
    async with AsyncTestClient(api.app) as client:
        await until(lambda: api.is_ready)
        assert (await client.get("/health/ready")).status_code == 200
    assert (api.embedder.started, api.writer.started) == (False, False)
    assert {one.state for one in api.service.health().backends.values()} == {"stopped"}


async def test_a_service_can_be_stopped_while_it_starts():
    api = Api()
    api.embedder.fail_start = [BackendUnavailableError("Out of reach.")] * 1000
    api.service.start()
    await until(lambda: len(api.embedder.fail_start) < 1000)
    await api.service.stop()
    assert (api.embedder.stops, api.writer.stops) == (1, 1)
    assert not any(task.get_name().startswith("start-") for task in asyncio.all_tasks())


async def test_a_service_that_never_started_can_be_stopped():
    api = Api()
    await api.service.stop()
    assert (api.embedder.stops, api.writer.stops) == (1, 1)


class Stubborn(FakeBackend):
    async def stop(self) -> None:
        raise BackendFailedError("It goes on.")


async def test_a_backend_that_fails_to_stop_does_not_keep_others_from_stopping(caplog):
    writer = FakeBackend(Role.GENERATE)
    backends = {Role.EMBED: ("stubborn", Stubborn(Role.EMBED)), Role.GENERATE: ("writer", writer)}
    await build_service(load_settings({}), backends=backends).stop()
    assert writer.stops == 1
    assert "did not shut down cleanly" in caplog.text


async def test_an_operator_can_restart_a_failed_engine():
    broken = Api()
    broken.embedder.fail_start = [BackendFailedError("No memory.")]
    async with serving(broken) as api:
        await until(lambda: api.service.health().backends[Role.EMBED].state == "failed")
        response = await api.http.post("/admin/engines/embed/restart")
        assert response.status_code == 202
        await until(lambda: api.is_ready)
        assert (await api.http.post("/admin/engines/embed/restart")).status_code == 409


async def test_an_unknown_engine_can_not_be_restarted(api):
    response = await api.http.post("/admin/engines/rerank/restart")
    assert response.status_code == 400
    assert response.json()["error"]["message"] == "There is no engine 'rerank'. Engines are: embed, generate."


async def test_a_clients_timeout_ends_its_request(api):
    api.embedder.delay_s = NEVER_S
    response = await api.http.post(EMBED, json=BODIES[EMBED], headers={"x-request-timeout": "0.05"})
    assert response.status_code == 504
    assert response.json()["error"]["code"] == "timeout"
    assert response.headers["x-should-retry"] == "false"
    assert api.embedder.running == 0


@pytest.mark.parametrize("written", ["soon", "-1", "0", "1e3", "", "nan"])
async def test_an_invalid_timeout_is_rejected(api, written):
    response = await api.http.post(EMBED, json=BODIES[EMBED], headers={"x-request-timeout": written})
    assert response.status_code == 400
    assert response.json()["error"]["param"] == "x-request-timeout"


async def test_health_reports_the_load(api):
    health = (await api.http.get("/health")).json()["backends"]
    assert health["embed"]["queue"]["bounds"]["max_running"] == 512
    assert health["generate"]["queue"] == {
        "running": 0,
        "waiting": 0,
        "running_tokens": 0,
        "waiting_tokens": 0,
        "bounds": health["generate"]["queue"]["bounds"],
        "classes": {
            name: {"running": 0, "waiting": 0, "running_tokens": 0, "waiting_tokens": 0}
            for name in ("interactive", "flex", "batch")
        },
    }
