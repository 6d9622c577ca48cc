"""The request of a line is answered as one over HTTP."""

import asyncio
import json
from typing import Any

import pytest

from app.batches.execution import GIVEN_UP, LineAnswer, LineExecutor
from domain.errors import BackendUnavailableError, EngineDiedError, OverloadedError
from domain.port import RequestContext
from domain.requests import Request, ResultT
from domain.service_class import ServiceClass
from tests.fakes import FakeBackend
from tests.unit.serving import BODIES, CHAT, COMPLETE, EMBED, NEVER_S, Api, serving
from tests.unit.waiting import run_instantly, until

KEY = "sk-limited-0123456789"


async def run(app: Any, body: Any, path: str = EMBED, *, owner: str = "", leave: asyncio.Event | None = None):
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    return await LineExecutor(app).run(path, content, owner=owner, leave=leave or asyncio.Event())


@pytest.fixture
async def api():
    async with serving(Api(settings={"HISTORY": "true"})) as running:
        await until(lambda: running.is_ready)
        yield running


@pytest.mark.parametrize(
    ("path", "body"),
    [
        (EMBED, BODIES[EMBED]),
        (EMBED, {"model": "fake-embed", "input": "text", "encoding_format": "base64"}),
        (EMBED, {"model": "none", "input": "text"}),
        (EMBED, {"model": "fake-write", "input": "text"}),
        (EMBED, {"input": "text"}),
        (EMBED, b"[" * 500),
        (EMBED, {"model": "fake-embed", "input": "x" * 300}),
        (EMBED, {"model": "fake-embed", "input": "x" * 5000}),
        (COMPLETE, BODIES[COMPLETE] | {"temperature": 0}),
        (CHAT, BODIES[CHAT] | {"max_tokens": 100_000}),
    ],
)
async def test_an_answer_is_the_same_to_the_byte(api, path, body):
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    answer = await run(api.app, content, path)
    same = await api.http.post(path, content=content, headers={"content-type": "application/json"})
    assert answer.status == same.status_code
    assert answer.request_id.startswith("req_")
    if path == COMPLETE:
        changing = {"id", "created"}
        first, second = json.loads(answer.body), same.json()
        assert {name: first[name] for name in first if name not in changing} == {
            name: second[name] for name in second if name not in changing
        }
    else:
        assert answer.body == same.content


async def test_lines_need_no_key_and_count_against_no_limit():
    settings = {"API_KEYS": KEY, "KEY_REQUESTS_PER_MINUTE": "1", "KEY_TOKENS_PER_MINUTE": "1"}
    async with serving(Api(settings=settings)) as api:
        await until(lambda: api.is_ready)
        for _ in range(3):
            answer = await run(api.app, BODIES[EMBED], owner="someone")
            assert answer.status == 200
        refused = await api.http.post(EMBED, json=BODIES[EMBED])
        assert refused.status_code == 401, "only the service itself needs no key"


async def test_lines_are_of_the_lowest_class():
    seen: list[RequestContext] = []

    class Watching(FakeBackend):
        async def call(self, request: Request[ResultT], context: RequestContext) -> ResultT:
            seen.append(context)
            return await super().call(request, context)

    api = Api()
    api.embedder.__class__ = Watching
    async with serving(api):
        await until(lambda: api.is_ready)
        seen.clear()
        await run(api.app, BODIES[EMBED])
        await api.embed()
    assert [context.service_class for context in seen] == [ServiceClass.BATCH, ServiceClass.INTERACTIVE]


async def test_a_line_is_observed_as_a_request(api):
    answer = await run(api.app, BODIES[EMBED])
    assert answer.status == 200
    assert sum(api.history.series().roles["embed"].requests) == 1


async def test_a_line_that_is_left_ends_in_the_engine(api):
    api.embedder.delay_s = NEVER_S
    leave = asyncio.Event()
    line = asyncio.create_task(run(api.app, BODIES[EMBED], leave=leave))
    await until(lambda: api.embedder.running > 0)
    leave.set()
    assert await line is None
    assert api.embedder.running == 0


class Scripted:
    """An application that answers with these errors, and then with success."""

    def __init__(self, *errors: Exception | None) -> None:
        self.errors = list(errors)
        self.calls = 0

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        self.calls += 1
        scope["state"]["request_id"] = f"req_{self.calls}"
        error = self.errors.pop(0) if self.errors else None
        status, body = (200, {}) if error is None else (error.status, {"error": {"code": error.code}})
        await send({"type": "http.response.start", "status": status, "headers": []})
        await send({"type": "http.response.body", "body": json.dumps(body).encode()})


BUSY = OverloadedError("Too many requests are waiting.")
STARTING = BackendUnavailableError("The model is still starting.")
DIED = EngineDiedError("The engine has died.")


def test_what_passes_is_waited_for():
    app = Scripted(BUSY, STARTING, BUSY, *[STARTING] * 50)
    assert run_instantly(run(app, {})) == LineAnswer(200, "req_54", b"{}")


def test_a_line_that_waits_can_be_left():
    async def main() -> None:
        app, leave = Scripted(*[STARTING] * 1000), asyncio.Event()
        asyncio.get_running_loop().call_later(20, leave.set)
        assert await run(app, {}, leave=leave) is None
        assert 2 <= app.calls < 100

    run_instantly(main())


def test_a_line_with_which_the_engine_dies_is_given_up(caplog):
    app = Scripted(*[DIED, STARTING] * 100)
    answer = run_instantly(run(app, {}))
    assert answer.status == 503
    (message,) = caplog.messages
    assert answer.request_id in message
    assert app.calls == 2 * GIVEN_UP - 1


def test_lines_that_were_lost_with_the_engine_run_one_by_one():
    """One of three lines ends the engine, and with it all that runs; the others are answered nevertheless."""
    running: list[asyncio.Future[int]] = []

    async def engine(scope: Any, receive: Any, send: Any) -> None:
        fate: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        running.append(fate)
        if (await receive())["body"] == b"poison":
            await asyncio.sleep(100)
            for each in running:
                each.set_result(503)
            running.clear()
        else:
            await asyncio.wait({fate}, timeout=200)
        if not fate.done():
            running.remove(fate)
        status = fate.result() if fate.done() else 200
        scope["state"]["request_id"] = "req"
        await send({"type": "http.response.start", "status": status, "headers": []})
        content = b"{}" if status == 200 else b'{"error":{"code":"engine_died"}}'
        await send({"type": "http.response.body", "body": content})

    async def main() -> list[int]:
        executor = LineExecutor(engine)
        lines = [executor.run(EMBED, body, owner="", leave=asyncio.Event()) for body in (b"poison", b"a", b"b")]
        return [answer.status for answer in await asyncio.gather(*lines)]

    assert run_instantly(main()) == [503, 200, 200]
