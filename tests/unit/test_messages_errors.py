"""Errors of Anthropic's Messages API: their shape, types and statuses, wherever they come from."""

import asyncio
import json
from collections.abc import AsyncGenerator
from typing import Any

import pytest
from uvicorn.server import ServerState

from app.http.connection_limits import MAX_HEAD_BYTES
from app.http.endpoints import ENDPOINTS
from app.http.error_formats import ANTHROPIC, OPENAI, ErrorFormats
from app.http.errors import REFUSAL
from domain.errors import (
    BackendFailedError,
    BackendUnavailableError,
    ContextLengthError,
    DeadlineError,
    EngineDiedError,
    OverloadedError,
    TooManyConnectionsError,
)
from tests.unit.messages_serving import HELLO, TOOL, MessagesApi, delta, error_of, events_of, messages_serving
from tests.unit.sdks import anthropic
from tests.unit.serving import (
    CHAT,
    COUNT_TOKENS,
    MAX_BODY_BYTES,
    MESSAGES,
    MESSAGES_BODIES,
    Leaving,
    listening,
)
from tests.unit.serving import (
    error_of as openai_error_of,
)
from tests.unit.test_connection_limits import App, Server, told

KEY, LIMITED, TOKENS = "sk-open-0123456789-ab", "sk-limited-0123456789", "sk-tokens-0123456789"


@pytest.fixture(scope="module")
async def shared() -> AsyncGenerator[MessagesApi, None]:
    async with messages_serving() as running:
        yield running


@pytest.fixture
def api(shared) -> MessagesApi:
    shared.script = ()
    return shared


@pytest.fixture(scope="module")
async def guarded(tmp_path_factory) -> AsyncGenerator[MessagesApi, None]:
    path = tmp_path_factory.mktemp("keys") / "keys"
    path.write_text(f"few {LIMITED} rpm=1\nsome {TOKENS} tpm=500\n")
    settings = {"API_KEYS": KEY, "API_KEYS_FILE": str(path)}
    async with messages_serving(settings=settings) as running:
        yield running


# Bad bodies: what is wrong, and what the message names.

IMAGE = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "x"}}
DOCUMENT = {"type": "document", "source": {"type": "text", "media_type": "text/plain", "data": "x"}}
USE = {"type": "tool_use", "id": "c", "name": "look", "input": {"at": "x"}}


def user(*content: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": list(content)}]}


def deep(levels: int) -> Any:
    return {"a": deep(levels - 1)} if levels else 1


BAD: dict[str, tuple[dict[str, Any], str]] = {
    "no messages": ({"messages": []}, "'messages'"),
    "messages of another type": ({"messages": "Hello"}, "'messages'"),
    "another role": ({"messages": [{"role": "tool", "content": "x"}]}, "'messages[0].role'"),
    "no content": ({"messages": [{"role": "user"}]}, "'messages[0].content'"),
    "no blocks": (user(), "'messages[0].content'"),
    "content of another type": ({"messages": [{"role": "user", "content": 1}]}, "'messages[0].content'"),
    "an image": (user({"type": "text", "text": "x"}, IMAGE), "'messages[0].content[1]' is of type 'image'"),
    "a document": (user(DOCUMENT), "'messages[0].content[0]' is of type 'document'"),
    "an image in a result": (
        user({"type": "tool_result", "tool_use_id": "c", "content": [IMAGE]}),
        "'messages[0].content[0].content[0]' is of type 'image'",
    ),
    "another block": (user({"type": "container_upload", "file_id": "f"}), "'messages[0].content[0].type'"),
    "thinking of the user": (user({"type": "thinking", "thinking": "x"}), "'messages[0].content[0].type'"),
    "a text without text": (user({"type": "text"}), "'messages[0].content[0].text'"),
    "a call in the end": ({"messages": [*HELLO, {"role": "assistant", "content": [USE]}]}, "tool_result"),
    "nothing to answer": ({"messages": [{"role": "assistant", "content": ""}]}, "'messages'"),
    "deep input": (
        {"messages": [{"role": "assistant", "content": [{**USE, "input": deep(70)}]}, *HELLO]},
        "'messages[0].content[0].input'",
    ),
    "no tokens": ({"max_tokens": 0}, "'max_tokens'"),
    "tokens of another type": ({"max_tokens": "8"}, "'max_tokens'"),
    "too hot": ({"temperature": 1.5}, "'temperature'"),
    "too much of the mass": ({"top_p": 2}, "'top_p'"),
    "a negative count": ({"top_k": -1}, "'top_k'"),
    "an empty stop": ({"stop_sequences": ["a", ""]}, "'stop_sequences'"),
    "many stops": ({"stop_sequences": ["a"] * 5}, "'stop_sequences'"),
    "no budget": ({"thinking": {"type": "enabled"}}, "'thinking.budget_tokens'"),
    "another thinking": ({"thinking": {"type": "sometimes"}}, "'thinking.type'"),
    "another effort": ({"output_config": {"effort": "none"}}, "'output_config.effort'"),
    "another format": ({"output_config": {"format": {"type": "xml"}}}, "'output_config.format.type'"),
    "a deep schema": (
        {"output_config": {"format": {"type": "json_schema", "schema": deep(70)}}},
        "'output_config.format.schema'",
    ),
    "a tool without a schema": ({"tools": [{"name": "look"}]}, "'tools[0].input_schema'"),
    "a tool's name": ({"tools": [{**TOOL, "name": "a b"}]}, "'tools[0].name'"),
    "a tool twice": ({"tools": [TOOL, TOOL]}, "'tools[1].name'"),
    "a schema of no object": ({"tools": [{**TOOL, "input_schema": {"type": "array"}}]}, "'look'"),
    "a deep tool": ({"tools": [{**TOOL, "input_schema": deep(70)}]}, "'tools[0].input_schema'"),
    "a choice without tools": ({"tool_choice": {"type": "any"}}, "'tool_choice'"),
    "an unknown choice": ({"tools": [TOOL], "tool_choice": {"type": "tool", "name": "go"}}, "'go'"),
    "a choice as text": ({"tools": [TOOL], "tool_choice": "auto"}, "'tool_choice'"),
    "a system image": ({"system": [IMAGE]}, "'system[0].type'"),
    "no model": ({"model": None}, "'model'"),
}


@pytest.mark.parametrize("case", BAD)
async def test_a_bad_body_is_refused_with_what_is_wrong(api, case):
    change, named = BAD[case]
    error = error_of(await api.message(**change), 400)
    assert error["type"] == "invalid_request_error"
    assert named in error["message"]


@pytest.mark.parametrize("case", [case for case in BAD if "messages" in BAD[case][0] or "tools" in BAD[case][0]])
async def test_tokens_of_a_bad_conversation_are_not_counted(api, case):
    change, named = BAD[case]
    body = MESSAGES_BODIES[COUNT_TOKENS] | change
    assert named in error_of(await api.http.post(COUNT_TOKENS, json=body), 400)["message"]


@pytest.mark.parametrize("path", MESSAGES_BODIES)
@pytest.mark.parametrize(
    ("content", "more", "status", "kind"),
    [
        (b"", {}, 400, "invalid_request_error"),
        (b"{", {}, 400, "invalid_request_error"),
        (b"[]", {}, 400, "invalid_request_error"),
        (b'{"model": "\xff"}', {}, 400, "invalid_request_error"),
        (b"[" * 100_000, {"MAX": 1}, 413, "request_too_large"),
        (b"{}", {"content-type": "text/plain"}, 415, "invalid_request_error"),
        (b"{}", {"content-encoding": "gzip"}, 415, "invalid_request_error"),
    ],
    ids=range(7),
)
async def test_a_body_that_is_no_json_is_refused(api, path, content, more, status, kind):
    assert len(b"[" * 100_000) > MAX_BODY_BYTES
    headers = {name: value for name, value in more.items() if isinstance(value, str)}
    assert error_of(await api.http.post(path, content=content, headers=headers), status)["type"] == kind


# Statuses


@pytest.mark.parametrize("path", MESSAGES_BODIES)
@pytest.mark.parametrize("model", ["none", "fake-embed"])
async def test_a_model_that_can_not_answer_is_not_found(api, path, model):
    response = await api.http.post(path, json=MESSAGES_BODIES[path] | {"model": model})
    assert error_of(response, 404)["type"] == "not_found_error"


@pytest.mark.parametrize("path", [MESSAGES, COUNT_TOKENS])
async def test_another_method_is_refused(api, path):
    response = await api.http.get(path)
    assert error_of(response, 405)["type"] == "invalid_request_error"
    assert "POST" in response.headers["allow"]


@pytest.mark.parametrize("path", [f"{MESSAGES}/batches", f"{MESSAGES}/", f"{COUNT_TOKENS}/x"])
async def test_unknown_paths_below_have_the_same_shape(api, path):
    response = await api.http.get(path)
    assert error_of(response, response.status_code)["type"] in ("not_found_error", "invalid_request_error")
    assert response.status_code in (404, 405)


@pytest.mark.parametrize("path", [CHAT, "/v1/messagesx", "/v1/models/x", "/none"])
async def test_other_paths_keep_openais_shape(api, path):
    response = await api.http.get(path)
    assert openai_error_of(response)
    assert "request-id" not in response.headers


@pytest.mark.parametrize(
    ("raised", "status", "kind"),
    [
        (ContextLengthError(256, param="messages"), 400, "invalid_request_error"),
        (OverloadedError("Full.", retry_after_s=3), 529, "overloaded_error"),
        (BackendUnavailableError("Starting.", retry_after_s=3), 503, "overloaded_error"),
        (EngineDiedError("Died."), 503, "overloaded_error"),
        (DeadlineError("Late."), 504, "timeout_error"),
        (BackendFailedError("Broken."), 500, "api_error"),
        (ZeroDivisionError("Never."), 500, "api_error"),
    ],
    ids=lambda value: type(value).__name__,
)
@pytest.mark.parametrize("stream", [False, True])
async def test_a_failure_has_its_status_and_type(api, raised, status, kind, stream):
    api.script = [raised]
    response = await api.message(stream=stream)
    error = error_of(response, status)
    assert error["type"] == kind
    assert "Never" not in error["message"]
    assert response.headers.get("retry-after") == ("3" if getattr(raised, "retry_after_s", None) else None)


async def test_a_failure_in_the_middle_of_a_stream_is_an_event(api):
    api.script = [delta("A "), BackendFailedError("Broken.")]
    response = await api.message(stream=True)
    assert response.status_code == 200
    *before, last = response.text.removesuffix("\n\n").split("\n\n")
    name, data = last.split("\n")
    assert name == "event: error"
    assert json.loads(data.removeprefix("data: ")) == {
        "type": "error",
        "error": {"type": "api_error", "message": "Broken."},
        "request_id": response.headers["request-id"],
    }
    assert "text_delta" in before[-1]
    assert "message_stop" not in response.text
    async with api.sdk() as client:
        with pytest.raises(anthropic.APIStatusError) as caught:
            async with client.messages.stream(model="fake-write", max_tokens=8, messages=HELLO) as stream:
                await stream.get_final_message()
    assert (caught.value.type, caught.value.api_message) == ("api_error", "Broken.")


async def test_a_queue_that_is_full_is_overloaded():
    settings = {"GEN_MAX_RUNNING": "1", "GEN_MAX_WAITING": "0"}
    async with messages_serving(settings=settings) as api:
        api.writer.delay_s = 10_000.0
        first = asyncio.create_task(api.message())
        while not api.writer.running:
            await asyncio.sleep(0)
        response = await api.message()
        assert error_of(response, 529)["type"] == "overloaded_error"
        assert "retry-after" in response.headers
        first.cancel()


async def test_the_clients_own_id_is_in_the_error(api):
    response = await api.message(headers={"x-request-id": "mine-1"}, max_tokens=0)
    error_of(response, 400)
    assert response.json()["request_id"] == "mine-1"


async def test_an_answer_has_the_id_too(api):
    response = await api.message()
    assert response.headers["request-id"] == response.headers["x-request-id"]


async def test_what_waits_for_nothing_is_refused_in_the_same_shape(api):
    # As the server does for connections beyond the limit.
    for path, kind in ((MESSAGES, "overloaded_error"), (CHAT, "service_unavailable_error")):
        client = Leaving(MESSAGES_BODIES[MESSAGES])
        await client.call(api.app, path, **{REFUSAL: TooManyConnectionsError("All are in use.")})
        start, body = client.sent
        assert start["status"] == 503
        assert json.loads(body["body"])["error"]["type"] == kind


# Threads

RESULT_ALONE = [{"role": "user", "content": [{"type": "tool_result", "tool_use_id": "toolu_1", "content": "20"}]}]


@pytest.mark.parametrize(
    "change",
    [
        {"thread": {"type": "create"}},
        {"thread": {"type": "continue", "previous_message_id": "msg_1"}, "messages": RESULT_ALONE},
        {"thread": {"type": "create"}, "stream": True},
    ],
    ids=["create", "continue", "stream"],
)
async def test_a_thread_is_refused_so_that_clients_send_the_whole_conversation(api, change):
    error = error_of(await api.message(**change), 400)
    assert error["type"] == "invalid_request_error"
    assert error["details"] == {"error_code": "thread_unsupported_request", "unsupported": ["thread"]}
    assert "Send the whole conversation" in error["message"]


async def test_other_errors_have_no_details(api):
    assert "details" not in error_of(await api.message(max_tokens=0), 400)
    error_of(await api.message(thread=None, max_tokens=0), 400)


# Keys


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 401),
        ({"x-api-key": KEY}, 200),
        ({"authorization": f"Bearer {KEY}"}, 200),
        ({"x-api-key": KEY, "authorization": f"Bearer {KEY}"}, 200),
        ({"x-api-key": KEY, "authorization": "Bearer sk-of-another-service"}, 200),
        ({"x-api-key": "sk-of-another-service", "authorization": f"Bearer {KEY}"}, 200),
        ({"x-api-key": "sk-wrong-0123456789", "authorization": "Bearer sk-wrong-9876543210"}, 401),
        ({"x-api-key": ""}, 401),
        ({"x-api-key": "", "authorization": f"Bearer {KEY}"}, 200),
    ],
    ids=range(9),
)
@pytest.mark.parametrize("path", [MESSAGES, COUNT_TOKENS, CHAT])
async def test_a_key_may_be_in_either_header(guarded, headers, status, path):
    body = MESSAGES_BODIES.get(path, MESSAGES_BODIES[MESSAGES])
    response = await guarded.http.post(path, json=body, headers=headers)
    assert response.status_code == status
    if status == 401 and path != CHAT:
        error = error_of(response, 401)
        assert error["type"] == "authentication_error"
        assert KEY not in error["message"]
        assert "wrong-0123456789" not in error["message"]


async def test_a_header_that_occurs_twice_counts_as_absent(guarded):
    headers = [("x-api-key", KEY), ("x-api-key", LIMITED)]
    response = await guarded.http.post(MESSAGES, json=MESSAGES_BODIES[MESSAGES], headers=headers)
    assert error_of(response, 401)["type"] == "authentication_error"


async def test_of_two_keys_that_are_in_the_anthropic_header_counts(guarded):
    headers = {"x-api-key": TOKENS, "authorization": f"Bearer {KEY}"}
    response = await guarded.http.post(MESSAGES, json=MESSAGES_BODIES[MESSAGES], headers=headers)
    assert response.headers["x-ratelimit-limit-tokens"] == "500"


async def test_limits_are_rate_limit_errors(guarded):
    headers = {"x-api-key": LIMITED}
    await guarded.http.post(MESSAGES, json=MESSAGES_BODIES[MESSAGES], headers=headers)
    for path in MESSAGES_BODIES:
        response = await guarded.http.post(path, json=MESSAGES_BODIES[path], headers=headers)
        assert error_of(response, 429)["type"] == "rate_limit_error"
        assert "retry-after" in response.headers
    body = MESSAGES_BODIES[MESSAGES] | {"max_tokens": 1000}
    response = await guarded.http.post(MESSAGES, json=body, headers={"x-api-key": TOKENS})
    assert error_of(response, 429)["type"] == "rate_limit_error"


async def test_tokens_are_charged_as_they_were_used(guarded):
    body = MESSAGES_BODIES[MESSAGES] | {"stream": True, "max_tokens": 20}
    headers = {"x-api-key": TOKENS}
    before = await guarded.http.get("/v1/models", headers=headers)
    used = events_of((await guarded.http.post(MESSAGES, json=body, headers=headers)).text)[-2]["usage"]
    after = await guarded.http.get("/v1/models", headers=headers)
    name = "x-ratelimit-remaining-tokens"
    spent = int(before.headers[name]) - int(after.headers[name])
    assert spent == used["input_tokens"] + used["output_tokens"]


# Connections


async def answer_to(port: int, *parts: bytes) -> tuple[bytes, dict[str, Any]]:
    """Head and body of the answer to a request that arrives in these parts."""
    head, _, body = (await told(Server(App(), ServerState(), port), *parts)).partition(b"\r\n\r\n")
    return head, json.loads(body)


HEAD = b"POST %b HTTP/1.1\r\nhost: a\r\n"


@pytest.mark.parametrize(
    ("rest", "status", "limits"),
    [
        ([b"x" * 4096] * (MAX_HEAD_BYTES // 4096 + 2), 431, {}),
        ([b"x-large: " + b"x" * (MAX_HEAD_BYTES + 1) + b"\r\nconnection: close\r\n\r\n"], 431, {}),
        ([b"no header\r\n\r\n"], 400, {}),
        ([b"content-type: application/json\r\ncontent-length: 9\r\n\r\n{"], 408, {"timeout_s": 0.1}),
        ([b"content-length: 2\r\nconnection: close\r\n\r\n{}"], 503, {"max_connections": 0}),
    ],
    ids=["a head without end", "a large header", "no http", "a slow body", "too many connections"],
)
async def test_what_the_server_refuses_has_the_shape_of_its_path(api, rest, status, limits):
    async with listening(api, **limits) as port:
        for path, keys in ((MESSAGES, {"type", "error", "request_id"}), (CHAT, {"error"})):
            head, body = await answer_to(port, HEAD % path.encode(), *rest)
            assert head.startswith(b"HTTP/1.1 %d " % status)
            assert body.keys() == keys
    assert "code" in body["error"]


def test_formats_follow_the_table_of_endpoints():
    formats = ErrorFormats(ENDPOINTS)
    for row in ENDPOINTS:
        assert formats.of(row.template) is row.error_format
    assert {row.path for row in ENDPOINTS if row.error_format is ANTHROPIC} == set(MESSAGES_BODIES)
    assert formats.of(f"{MESSAGES}/x/y") is ANTHROPIC
    assert formats.of("/v1/message") is formats.of("/") is formats.of("") is OPENAI
