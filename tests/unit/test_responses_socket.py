"""`/v1/responses` as a WebSocket, over a real connection."""

import asyncio
import contextlib
import json
import logging
from collections.abc import AsyncGenerator, Iterator
from typing import Any

import pytest
import websockets
from websockets import Origin
from websockets.asyncio.client import ClientConnection, connect

from app.http.connection_limits import ConnectionLimits
from app.http.controllers.responses_socket import MAX_WAITING
from app.http.lanes import Lanes
from app.http.server import DrainingServer, bind, server_config
from app.settings import load_settings
from app.telemetry.request import STATUS_CLIENT_GONE
from app.telemetry.telemetry import Telemetry
from domain.conversation import Conversation
from domain.errors import BackendTimeoutError
from domain.state import StoredResponse
from tests.unit.messages_serving import USAGE, delta, end
from tests.unit.observed import RecordingListener
from tests.unit.responses_serving import (
    EVENT,
    RESPONSES,
    SAYS_HELLO,
    ResponsesApi,
    response_of,
    responses_serving,
    text_of,
)
from tests.unit.serving import NEVER_S
from tests.unit.waiting import eventually, until

KEY = "sk-socket-0123456789"
ENDS = {"response.completed", "response.incomplete", "response.failed", "error"}


class Server:
    """The service on a real socket."""

    def __init__(self, api: ResponsesApi, server: DrainingServer, port: int) -> None:
        self.api = api
        self.server = server
        self.url = f"ws://127.0.0.1:{port}/v1/responses"


@contextlib.asynccontextmanager
async def socket_serving(
    *, timeout_s: float = 30.0, ping_s: float = 20.0, **settings: str
) -> AsyncGenerator[Server, None]:
    async with responses_serving(settings=settings) as api:
        listener = bind("127.0.0.1", 0)
        config = server_config(api.app, load_settings({"MAX_BODY_BYTES": "20000"}))
        config.lifespan = "off"
        config.limits = ConnectionLimits(timeout_s=timeout_s)
        config.ws_ping_interval = config.ws_ping_timeout = ping_s
        server = DrainingServer(config, on_drain=api.service.drain)
        task = asyncio.create_task(server._serve([listener]))
        try:
            await until(lambda: server.started)
            yield Server(api, server, listener.getsockname()[1])
        finally:
            server.should_exit = True
            await task


@pytest.fixture(scope="module")
async def shared() -> AsyncGenerator[Server, None]:
    async with socket_serving() as running:
        yield running


@pytest.fixture
def served(shared) -> Server:
    shared.api.script = SAYS_HELLO
    shared.api.writer.delay_s = 0.0
    return shared


@pytest.fixture
async def socket(served) -> AsyncGenerator[ClientConnection, None]:
    async with connect(served.url) as connection:
        yield connection


async def create(socket: ClientConnection, value: Any = "Hi", **more: Any) -> None:
    await socket.send(json.dumps({"type": "response.create", "model": "fake-write", "input": value, **more}))


async def events(socket: ClientConnection) -> list[dict[str, Any]]:
    """The events up to the one that ends a response."""
    found = []
    while not found or found[-1]["type"] not in ENDS:
        found.append(json.loads(await socket.recv()))
    return found


async def answer(socket: ClientConnection, value: Any = "Hi", **more: Any) -> dict[str, Any]:
    """The last event of a response."""
    await create(socket, value, **more)
    return (await events(socket))[-1]


def contents(api: ResponsesApi) -> list[Any]:
    prompt = api.seen.prompt
    assert isinstance(prompt, Conversation)
    return [message.content for message in prompt.messages]


async def test_a_message_is_answered_with_the_events_of_a_stream(socket):
    await create(socket)
    found = await events(socket)
    for event in found:
        EVENT.validate_python(event)
    assert [event["type"] for event in (*found[:2], found[-1])] == [
        "response.created", "response.in_progress", "response.completed",
    ]  # fmt: skip
    assert [event["sequence_number"] for event in found] == list(range(len(found)))
    assert text_of(found[-1]["response"]) == "Hello."


async def test_one_response_follows_another(socket):
    first, second = await answer(socket), await answer(socket)
    assert first["response"]["id"] != second["response"]["id"]


async def test_an_unstored_response_is_continued_on_its_connection(served, socket):
    first = await answer(socket, "One", store=False)
    await answer(socket, "Two", store=False, previous_response_id=first["response"]["id"])
    assert contents(served.api) == ["One", "Hello.", "Two"]


async def test_it_is_not_continued_on_another_connection(served, socket):
    first = await answer(socket, "One", store=False)
    async with connect(served.url) as other:
        refused = await answer(other, "Two", store=False, previous_response_id=first["response"]["id"])
    assert (refused["status"], refused["error"]["code"]) == (400, "previous_response_not_found")
    assert refused["error"]["param"] == "previous_response_id"


async def test_what_fails_to_be_continued_is_not_kept(socket):
    first = (await answer(socket, "One", store=False))["response"]["id"]
    output = [{"type": "function_call_output", "call_id": "call_missing", "output": "x"}]
    refused = await answer(socket, output, store=False, previous_response_id=first)
    assert (refused["type"], refused["error"]["param"]) == ("error", "input")
    refused = await answer(socket, "Two", store=False, previous_response_id=first)
    assert refused["error"]["code"] == "previous_response_not_found"


async def test_a_response_that_is_not_generated_can_be_continued(served, socket):
    before = len(served.api.writer.seen)
    first = await answer(socket, "One", store=False, generate=False)
    assert (first["type"], first["response"]["output"]) == ("response.completed", [])
    assert len(served.api.writer.seen) == before
    await answer(socket, "Two", store=False, previous_response_id=first["response"]["id"])
    assert contents(served.api) == ["One", "Two"]


async def test_streams_run_side_by_side(served, socket):
    served.api.script = ()
    served.api.writer.delay_s = NEVER_S
    await create(socket, stream_id="slow")
    await until(lambda: served.api.writer.running == 1)
    served.api.script = SAYS_HELLO
    served.api.writer.delay_s = 0.0
    await create(socket, stream_id="quick")
    found = await events(socket)
    assert {event["stream_id"] for event in found} == {"quick"}
    assert found[-1]["type"] == "response.completed"


async def test_messages_without_a_stream_wait_for_each_other(served, socket):
    served.api.script = ()
    served.api.writer.delay_s = 0.001
    await create(socket, max_output_tokens=3)
    await create(socket, max_output_tokens=3)
    first, second = await events(socket), await events(socket)
    assert len({event["response"]["id"] for event in (first[0], first[-1])}) == 1
    assert second[0]["type"] == "response.created"


@pytest.mark.parametrize(
    ("message", "param"),
    [
        ("{", None),
        ("[]", None),
        ('{"type": "response.steer"}', "type"),
        ('{"type": 5}', "type"),
        ('{"type": "response.create", "model": "fake-write"}', "input"),
        ('{"type": "response.create", "model": "other", "input": "x"}', "model"),
        ('{"type": "response.create", "model": "fake-write", "input": [5]}', "input[0]"),
        ('{"type": "response.create", "model": "fake-write", "input": "x", "background": true}', "background"),
        ('{"type": "response.create", "model": "fake-write", "input": "x", "stream_id": 5}', "stream_id"),
    ],
)
async def test_a_bad_message_is_refused_and_the_connection_goes_on(socket, message, param):
    await socket.send(message)
    refused = json.loads(await socket.recv())
    assert (refused["type"], refused["error"]["param"]) == ("error", param)
    assert refused["status"] in (400, 404)
    assert (await answer(socket))["type"] == "response.completed"


async def test_a_failure_in_mid_stream_fails_the_response(served, socket):
    served.api.script = [delta("Hel"), BackendTimeoutError("It took too long.")]
    await create(socket)
    found = await events(socket)
    failed = found[-1]
    assert [event["sequence_number"] for event in found] == list(range(len(found)))
    assert found[-2]["type"] == "response.output_item.done"
    assert (failed["type"], failed["response"]["error"]["message"]) == ("response.failed", "It took too long.")


async def test_closing_the_connection_cancels_its_responses(served):
    served.api.script = ()
    served.api.writer.delay_s = NEVER_S
    async with connect(served.url) as connection:
        await create(connection)
        await until(lambda: served.api.writer.running == 1)
    await until(lambda: served.api.writer.running == 0)


async def test_messages_beyond_the_most_are_refused_and_the_connection_is_read_on(served):
    served.api.script = ()
    served.api.writer.delay_s = NEVER_S
    async with connect(served.url) as connection:
        for _ in range(MAX_WAITING):
            await create(connection)
        await create(connection, stream_id="more")
        async with asyncio.timeout(20):
            found = (await events(connection))[-1]
        assert (found["status"], found["error"]["code"], found["stream_id"]) == (429, "queue_full", "more")
        await until(lambda: served.api.writer.running == 1)
    await until(lambda: served.api.writer.running == 0)


async def test_a_stream_keeps_its_order_while_others_come_and_go():
    lanes, running = Lanes(), []

    async def work(name: str, number: int) -> None:
        async with lanes.turn(name):
            running.append(number)
            await asyncio.sleep(0)
            assert running.pop() == number

    async with lanes.turn("a"):
        waiting = asyncio.create_task(work("a", 1))
        await asyncio.sleep(0)
    # Free, and the task that waited for it has not run yet.
    async with lanes.turn("b"):
        pass
    await asyncio.gather(waiting, work("a", 2), work("a", 3))
    assert not len(lanes)


@pytest.mark.parametrize(
    "limits", [{"timeout_s": 0.2, "ping_s": NEVER_S}, {"timeout_s": 0, "ping_s": 0.2}], ids=["answers", "pings"]
)
async def test_a_client_that_does_not_read_is_dropped_and_its_work_ends(limits):
    async with socket_serving(**limits) as served:
        served.api.script = ()
        # A client that reads nothing beyond its first messages, neither answers nor pings.
        connection = await connect(served.url, max_queue=1, max_size=None, ping_interval=None)
        ended = asyncio.Event()

        async def pour(_request: Any, *, streams: bool) -> AsyncGenerator[Any, None]:
            try:
                while True:
                    yield delta("x" * 2**20)
                    await asyncio.sleep(0)
            finally:
                ended.set()

        served.api.writer._generate = pour  # type: ignore[method-assign]
        await create(connection)
        async with asyncio.timeout(15):
            await ended.wait()
        await eventually(lambda: not served.server.server_state.connections)
        connection.transport.abort()


async def test_a_message_that_is_too_large_closes_the_connection(served):
    async with connect(served.url) as connection:
        await create(connection, "x" * 30_000)
        with pytest.raises(websockets.ConnectionClosedError) as closed:
            await connection.recv()
    assert closed.value.rcvd is not None
    assert closed.value.rcvd.code == 1009


async def test_openais_sdk_connects(served):
    client = served.api.openai()
    client.websocket_base_url = served.url.removesuffix("/responses")
    async with client.responses.connect() as connection:
        await connection.send({"type": "response.create", "model": "fake-write", "input": "Hi"})
        async for event in connection:
            if event.type == "response.completed":
                break
    assert event.response.output_text == "Hello."


async def test_pages_of_other_sites_may_not_connect(served):
    own = served.url.removeprefix("ws://").partition("/")[0]
    async with connect(served.url, origin=Origin(f"http://{own}")) as connection:
        assert (await answer(connection))["type"] == "response.completed"
    for origin in ("https://evil.example", "null"):
        with pytest.raises(websockets.InvalidStatus) as refused:
            async with connect(served.url, origin=Origin(origin)):
                pass
        assert refused.value.response.status_code == 403
        assert json.loads(refused.value.response.body or b"")["error"]["code"] == "origin_not_allowed"


async def test_pages_of_allowed_origins_may_connect():
    async with socket_serving(CORS_ORIGINS="https://app.example.com") as served:
        async with connect(served.url, origin=Origin("https://app.example.com")):
            pass
        with pytest.raises(websockets.InvalidStatus):
            async with connect(served.url, origin=Origin("https://evil.example")):
                pass


async def test_a_key_is_needed_and_each_response_is_counted():
    async with socket_serving(API_KEYS=KEY, KEY_REQUESTS_PER_MINUTE="1") as served:
        served.api.script = SAYS_HELLO
        with pytest.raises(websockets.InvalidStatus) as refused:
            async with connect(served.url):
                pass
        assert refused.value.response.status_code == 401
        assert json.loads(refused.value.response.body or b"")["error"]["type"] == "invalid_request_error"
        async with connect(served.url, additional_headers={"authorization": f"Bearer {KEY}"}) as connection:
            assert (await answer(connection))["type"] == "response.completed"
            limited = await answer(connection)
            assert (limited["status"], limited["error"]["code"]) == (429, "rate_limit_exceeded")


async def test_a_response_under_way_ends_before_the_service_does():
    async with socket_serving() as served:
        served.api.script = ()
        served.api.writer.delay_s = 0.002
        async with connect(served.url) as connection:
            await create(connection, max_output_tokens=20)
            await until(lambda: served.api.writer.running == 1)
            served.server.should_exit = True
            assert (await events(connection))[-1]["type"] == "response.incomplete"
            with pytest.raises(websockets.ConnectionClosed) as closed:
                await connection.recv()
        assert closed.value.rcvd is not None
        assert closed.value.rcvd.code == 1012


@pytest.fixture
def observed(served) -> Iterator[RecordingListener]:
    """Records the requests to the shared service."""
    listener, before = RecordingListener(), served.api.app.telemetry
    served.api.app.telemetry = Telemetry([listener])
    yield listener
    served.api.app.telemetry = before


async def test_each_message_is_observed_with_its_status(observed, socket):
    await answer(socket)
    await answer(socket, previous_response_id="resp_none")
    await answer(socket, model="none")
    await until(lambda: len(observed.requests) == 3)
    found = [(record.status, record.error_type) for record in observed.requests]
    assert found == [(200, None), (400, "previous_response_not_found"), (404, "model_not_found")]


async def test_a_client_that_leaves_is_observed_as_such(served, observed):
    served.api.script = ()
    served.api.writer.delay_s = NEVER_S
    async with connect(served.url) as connection:
        await create(connection)
        await until(lambda: served.api.writer.running == 1)
    await until(lambda: observed.requests)
    assert observed.request.client_gone
    assert observed.request.status == STATUS_CLIENT_GONE


async def test_usage_is_in_the_last_event(served, socket):
    served.api.script = [end("x"), USAGE]
    assert (await answer(socket))["response"]["usage"]["total_tokens"] == USAGE.total_tokens


async def test_a_client_that_leaves_while_the_service_ends_is_observed_as_such(caplog, tmp_path):
    # Nothing is read any more then: sending fails.
    async with socket_serving(STATE="on", MEMORIA_DATA_DIR=str(tmp_path)) as served:
        listener = RecordingListener()
        served.api.app.telemetry = Telemetry([listener])
        served.api.script = ()
        served.api.writer.delay_s = 0.005
        async with connect(served.url) as connection:
            await create(connection, max_output_tokens=4000)
            response = json.loads(await connection.recv())["response"]
            served.server.should_exit = True
            # Until the service no longer listens.
            await eventually(lambda: not served.server.servers or not served.server.servers[0].is_serving())
            connection.transport.abort()
            await eventually(lambda: bool(listener.requests))
        assert (listener.request.status, listener.request.client_gone) == (STATUS_CLIENT_GONE, True)
        stored = response_of(await served.api.http.get(f"{RESPONSES}/{response['id']}"))
        assert stored["status"] == "cancelled"
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]


async def test_a_response_that_is_complete_stays_so_when_its_client_leaves(tmp_path):
    async with socket_serving(STATE="on", MEMORIA_DATA_DIR=str(tmp_path)) as served:
        served.api.script = SAYS_HELLO
        state = served.api.app.responses.state
        assert state is not None
        stored, storing, goes_on = state.finish, asyncio.Event(), asyncio.Event()

        async def finish(response: StoredResponse) -> None:
            storing.set()
            await goes_on.wait()
            await stored(response)

        state.finish = finish  # type: ignore[method-assign]
        async with connect(served.url) as connection:
            await create(connection)
            response = json.loads(await connection.recv())["response"]
            await storing.wait()
        await until(lambda: not served.server.server_state.connections)
        goes_on.set()
        found: list[str] = []
        while found[-1:] in ([], ["in_progress"]) and len(found) < 1000:
            found.append(response_of(await served.api.http.get(f"{RESPONSES}/{response['id']}"))["status"])
        assert found[-1] == "completed"
