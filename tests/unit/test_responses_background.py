"""The ends of background responses: cancelled, deleted, streamed again, and too many."""

import asyncio
from collections.abc import AsyncGenerator, Callable, Iterator, Sequence
from typing import Any

import httpx
import pytest

from app.responses.background import BackgroundRuns
from app.responses.stored import StoredResponses
from domain.errors import StateUnavailableError
from domain.state import StateStore, StoredResponse
from tests.unit.messages_serving import delta
from tests.unit.responses_serving import (
    RESPONSES,
    SAYS_HELLO,
    ResponsesApi,
    response_of,
    stored_serving,
)
from tests.unit.serving import NEVER_S, error_of
from tests.unit.waiting import eventually, until

LIMIT_S = 10.0


class SlowEnd:
    """Holds up the store when it stores the end of a response, until `release` is called."""

    def __init__(self, state: StateStore, monkeypatch: pytest.MonkeyPatch) -> None:
        self._finish = state.finish
        self._released = asyncio.Event()
        self.waiting = 0
        self.is_stored_first = False
        """Whether only what follows is held up."""
        monkeypatch.setattr(state, "finish", self.finish)
        self.release = self._released.set

    async def finish(self, response: StoredResponse) -> None:
        if self.is_stored_first:
            await self._finish(response)
        self.waiting += 1
        await self._released.wait()
        if not self.is_stored_first:
            await self._finish(response)


@pytest.fixture
async def api(tmp_path) -> AsyncGenerator[ResponsesApi, None]:
    async with stored_serving(tmp_path) as running:
        running.script = SAYS_HELLO
        yield running


@pytest.fixture
def slow(api, monkeypatch) -> Iterator[SlowEnd]:
    slow = SlowEnd(state_of(api), monkeypatch)
    yield slow
    slow.release()


def state_of(api: ResponsesApi) -> StateStore:
    assert api.app.responses.state is not None
    return api.app.responses.state


def runs_of(api: ResponsesApi) -> BackgroundRuns:
    assert api.app.responses._runs is not None
    return api.app.responses._runs


def elsewhere(api: ResponsesApi) -> StoredResponses:
    """What another process knows, which shares nothing but the store."""
    return StoredResponses(state_of(api), None)


def path_of(response: dict[str, Any]) -> str:
    return f"{RESPONSES}/{response['id']}"


async def in_background(api: ResponsesApi, **more: Any) -> dict[str, Any]:
    return response_of(await api.respond(background=True, **more))


async def unending(api: ResponsesApi) -> dict[str, Any]:
    """A response whose generation has begun and does not end by itself."""
    api.script = ()
    api.writer.delay_s = NEVER_S
    before = api.writer.running
    response = await in_background(api)
    await until(lambda: api.writer.running == before + 1)
    return response


async def last_event(api: ResponsesApi, response: dict[str, Any]) -> str:
    """The type of the last event of a stream that has an end."""
    answer = await asyncio.wait_for(api.http.get(f"{path_of(response)}?stream=true"), LIMIT_S)
    return answer.text.strip().rpartition("event: ")[2].partition("\n")[0]


def cancel(api: ResponsesApi, response: dict[str, Any]) -> asyncio.Task[httpx.Response]:
    return asyncio.create_task(api.http.post(f"{path_of(response)}/cancel"))


def delete(api: ResponsesApi, response: dict[str, Any]) -> asyncio.Task[httpx.Response]:
    return asyncio.create_task(api.http.delete(path_of(response)))


def stop(api: ResponsesApi, _response: dict[str, Any]) -> asyncio.Task[None]:
    return asyncio.create_task(runs_of(api).stop())


@pytest.mark.parametrize("second", [cancel, delete, stop])
async def test_whatever_follows_a_cancellation_leaves_its_end_alone(api, slow, second: Callable[..., Any]):
    response = await unending(api)
    streaming = asyncio.create_task(last_event(api, response))
    ending = [cancel(api, response)]
    await until(lambda: slow.waiting == 1)
    ending.append(second(api, response))
    for _ in range(50):
        await asyncio.sleep(0)
    slow.release()
    await asyncio.wait_for(asyncio.gather(*ending), LIMIT_S)
    assert (await ending[0]).json()["status"] == "cancelled"
    assert await streaming == "response.cancelled"
    if second is not delete:
        assert (await elsewhere(api).find("", response["id"])).status == "cancelled"


async def test_a_response_that_has_been_generated_is_no_longer_cancelled(api, slow):
    response = await in_background(api)
    await until(lambda: slow.waiting == 1)
    cancelling = cancel(api, response)
    for _ in range(50):
        await asyncio.sleep(0)
    slow.release()
    assert (await asyncio.wait_for(cancelling, LIMIT_S)).json()["status"] == "completed"
    assert await last_event(api, response) == "response.completed"


async def test_the_events_of_an_ended_response_are_complete_for_other_processes(api, slow, monkeypatch):
    # Nothing but the end stores events, and what follows it does not happen: as if the process was killed then.
    monkeypatch.setattr("app.responses.background.FLUSH_INTERVAL_S", NEVER_S)
    slow.is_stored_first = True
    response = await in_background(api)
    await eventually(lambda: slow.waiting == 1)
    events = [event async for event in await elsewhere(api).events("", response["id"], -1)]
    assert [number for number, _ in events] == list(range(len(events)))
    assert b'"type":"response.completed"' in events[-1][1]


async def test_each_event_is_stored_once(api, monkeypatch):
    state, stored = state_of(api), []
    append_events = state.append_events

    def append(response_id: str, events: Sequence[tuple[int, bytes]]) -> None:
        stored.extend(number for number, _ in events)
        append_events(response_id, events)

    monkeypatch.setattr(state, "append_events", append)
    await in_background(api)
    await eventually(lambda: not runs_of(api)._runs)
    assert stored == list(range(len(stored)))


async def test_a_deleted_response_is_missing_at_once(api, monkeypatch):
    monkeypatch.setattr("app.responses.background.FLUSH_INTERVAL_S", NEVER_S)
    response = await unending(api)
    assert (await api.http.delete(path_of(response))).status_code == 200
    assert (await api.http.get(path_of(response))).status_code == 404
    assert (await api.http.get(f"{path_of(response)}?stream=true")).status_code == 404
    assert (await api.http.delete(path_of(response))).status_code == 404


async def test_a_response_that_another_process_deletes_is_cancelled(api):
    response = await unending(api)
    await elsewhere(api).delete("", response["id"])
    assert api.writer.running == 0
    await eventually(lambda: not runs_of(api)._runs)
    assert (await api.http.get(path_of(response))).status_code == 404


async def test_a_response_that_ends_slowly_does_not_hold_up_the_events_of_others(api, slow, monkeypatch):
    monkeypatch.setattr("app.responses.background.FLUSH_INTERVAL_S", 0.0)
    state, go_on, stored = state_of(api), asyncio.Event(), []
    first = await unending(api)

    async def generate(_request: Any, *, streams: bool) -> AsyncGenerator[Any, None]:
        assert streams
        await go_on.wait()
        yield delta("Hel")
        await asyncio.Event().wait()

    monkeypatch.setattr(api.writer, "_generate", generate)
    second = await in_background(api)
    assert await state.request_cancel("", first["id"])
    await eventually(lambda: slow.waiting == 1)
    append_events = state.append_events

    def append(response_id: str, events: Sequence[tuple[int, bytes]]) -> None:
        stored.append(response_id)
        append_events(response_id, events)

    monkeypatch.setattr(state, "append_events", append)
    go_on.set()
    await eventually(lambda: second["id"] in stored)
    slow.release()
    await eventually(lambda: runs_of(api).find("", first["id"]) is None)
    assert response_of(await api.http.get(path_of(first)))["status"] == "cancelled"


@pytest.mark.parametrize("number", ["-5", "99999999999999999999", str(2**63)])
async def test_a_sequence_number_that_can_not_be_is_refused(api, number):
    response = await unending(api)
    query = f"stream=true&starting_after={number}"
    refused = await asyncio.wait_for(api.http.get(f"{path_of(response)}?{query}"), LIMIT_S)
    assert (refused.status_code, error_of(refused)["param"]) == (400, "starting_after")


async def test_no_event_follows_the_largest_sequence_number(api):
    response = await in_background(api)
    await eventually(lambda: not runs_of(api)._runs)
    answer = await api.http.get(f"{path_of(response)}?stream=true&starting_after={2**63 - 1}")
    assert (answer.status_code, answer.text) == (200, "")


async def test_too_many_background_responses_are_refused(api, monkeypatch):
    monkeypatch.setattr("app.responses.background.MAX_RUNS", 1)
    response = await unending(api)
    refused = await api.respond(background=True)
    assert (refused.status_code, error_of(refused)["code"]) == (429, "queue_full")
    assert refused.headers["retry-after"]
    assert (await api.http.delete(path_of(response))).status_code == 200
    await unending(api)


async def test_what_can_not_be_stored_costs_no_tokens_and_no_place(tmp_path, monkeypatch):
    async def fail(_response: StoredResponse) -> None:
        raise StateUnavailableError

    key = "sk-alice-0123456789"
    settings = {"API_KEYS": key, "KEY_TOKENS_PER_MINUTE": "1000"}
    monkeypatch.setattr("app.responses.background.MAX_RUNS", 1)
    async with stored_serving(tmp_path, settings=settings) as api:
        headers = {"authorization": f"Bearer {key}"}
        with monkeypatch.context() as patch:
            patch.setattr(state_of(api), "begin_durably", fail)
            for _ in range(3):
                refused = await api.respond(background=True, max_output_tokens=900, headers=headers)
                assert refused.status_code == 503
        assert await in_background(api, max_output_tokens=200, headers=headers)
