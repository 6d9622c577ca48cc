import asyncio

import pytest

import app.http.disconnect
from app.http.disconnect import unless_disconnected
from app.http.errors import ClientDisconnectedError
from tests.unit.waiting import now, run_instantly, until


@pytest.fixture(autouse=True)
def _watch_at_once(monkeypatch):
    monkeypatch.setattr(app.http.disconnect, "WATCH_AFTER_S", 0.0)


class Client:
    """The messages of a client: parts of a request, then nothing, or a disconnect."""

    def __init__(self, *messages: str) -> None:
        self._messages = list(messages)
        self.is_heard = False
        self.is_silent = False

    async def receive(self) -> dict:
        self.is_heard = True
        if self._messages:
            return {"type": self._messages.pop(0)}
        self.is_silent = True
        try:
            await asyncio.Event().wait()
        finally:
            self.is_heard = False


class Work:
    """Work that ends when `go_on` is set."""

    def __init__(self) -> None:
        self.go_on = asyncio.Event()
        self.has_begun = asyncio.Event()
        self.has_ended = False
        self.was_cancelled = False

    async def run(self) -> str:
        self.has_begun.set()
        try:
            await self.go_on.wait()
        except asyncio.CancelledError:
            self.was_cancelled = True
            # Cancellation takes a while, as in an engine.
            await asyncio.sleep(0)
            raise
        finally:
            self.has_ended = True
        return "done"


async def quick(result: str = "done") -> str:
    return result


async def broken() -> str:
    raise KeyError("broken")


async def test_work_that_ends_first_returns_its_result():
    assert await unless_disconnected(quick("result"), Client().receive) == "result"


async def test_a_disconnect_cancels_the_work_and_waits_for_its_end():
    work = Work()
    with pytest.raises(ClientDisconnectedError):
        await unless_disconnected(work.run(), Client("http.disconnect").receive)
    assert work.was_cancelled
    assert work.has_ended
    assert asyncio.current_task().cancelling() == 0, "the handler itself goes on"


async def test_other_messages_are_not_a_disconnect():
    work, client = Work(), Client("http.request", "http.request")
    running = asyncio.create_task(unless_disconnected(work.run(), client.receive))
    await until(lambda: client.is_silent or running.done())
    work.go_on.set()
    assert await running == "done"


async def test_a_disconnect_after_other_messages_is_one():
    work = Work()
    with pytest.raises(ClientDisconnectedError):
        await unless_disconnected(work.run(), Client("http.request", "http.disconnect").receive)
    assert work.was_cancelled


async def test_the_failure_of_the_work_is_raised():
    with pytest.raises(KeyError, match="broken"):
        await unless_disconnected(broken(), Client().receive)


@pytest.mark.parametrize("work", [quick, broken])
async def test_the_client_is_not_watched_afterwards(work):
    client = Client()
    await asyncio.gather(unless_disconnected(work(), client.receive), return_exceptions=True)
    assert not client.is_heard


async def test_a_cancelled_handler_cancels_the_work():
    work, client = Work(), Client()
    handler = asyncio.create_task(unless_disconnected(work.run(), client.receive))
    await work.has_begun.wait()
    handler.cancel()
    with pytest.raises(asyncio.CancelledError):
        await handler
    assert work.was_cancelled
    assert work.has_ended
    assert not client.is_heard


def test_a_disconnect_before_the_watch_is_noticed(monkeypatch):
    monkeypatch.setattr(app.http.disconnect, "WATCH_AFTER_S", 0.05)
    work = Work()

    async def wait() -> float:
        with pytest.raises(ClientDisconnectedError):
            await unless_disconnected(work.run(), Client("http.disconnect").receive)
        return now()

    assert run_instantly(wait()) == pytest.approx(0.05)
    assert work.was_cancelled


async def test_work_that_is_done_at_the_disconnect_counts():
    assert await unless_disconnected(quick(), Client("http.disconnect").receive) == "done"
