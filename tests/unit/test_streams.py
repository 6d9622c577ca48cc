"""Start and end of streams."""

import asyncio

import pytest

from domain.streams import open_stream
from tests.unit.waiting import until


class Numbers:
    """Events 0, 1, …; fails before one of them, or waits before it until it is cancelled."""

    def __init__(self, count: int, *, fails_at: int | None = None, waits_at: int | None = None) -> None:
        self._count = count
        self._fails_at = fails_at
        self._waits_at = waits_at
        self.has_started = False
        self.is_waiting = False
        self.has_ended = False

    async def events(self):
        self.has_started = True
        try:
            for number in range(self._count):
                if number == self._fails_at:
                    raise ZeroDivisionError
                if number == self._waits_at:
                    self.is_waiting = True
                    await asyncio.Event().wait()
                yield number
        finally:
            # Closing takes a while, as with a request in an engine.
            await asyncio.sleep(0)
            self.has_ended = True


async def read(stream) -> list[int]:
    async with stream as events:
        return [event async for event in events]


@pytest.mark.parametrize("count", [0, 1, 2, 5])
async def test_all_events_arrive_once_and_in_order(count):
    numbers = Numbers(count)
    async with open_stream(numbers.events()) as events:
        assert [event async for event in events] == list(range(count))
        with pytest.raises(StopAsyncIteration):
            await anext(events)
    assert numbers.has_ended


async def test_entering_waits_for_the_first_event():
    numbers = Numbers(2, waits_at=0)
    entering = asyncio.create_task(open_stream(numbers.events()).__aenter__())
    await until(lambda: numbers.is_waiting)
    await asyncio.sleep(0)
    assert not entering.done()
    entering.cancel()
    with pytest.raises(asyncio.CancelledError):
        await entering
    assert numbers.has_ended


async def test_the_generator_starts_on_entering():
    numbers = Numbers(2)
    stream = open_stream(numbers.events())
    assert not numbers.has_started
    async with stream:
        assert numbers.has_started


async def test_a_failure_before_the_first_event_raises_on_entering():
    numbers = Numbers(2, fails_at=0)
    with pytest.raises(ZeroDivisionError):
        await open_stream(numbers.events()).__aenter__()
    assert numbers.has_ended


async def test_a_later_failure_raises_from_the_iterator():
    numbers = Numbers(3, fails_at=2)
    async with open_stream(numbers.events()) as events:
        assert [await anext(events), await anext(events)] == [0, 1]
        with pytest.raises(ZeroDivisionError):
            await anext(events)
    assert numbers.has_ended


@pytest.mark.parametrize("read", [0, 1, 2])
async def test_leaving_closes_the_generator_at_any_point(read):
    numbers = Numbers(5)
    async with open_stream(numbers.events()) as events:
        assert [await anext(events) for _ in range(read)] == list(range(read))
        assert not numbers.has_ended
    assert numbers.has_ended


@pytest.mark.parametrize("error", [ZeroDivisionError, asyncio.CancelledError, GeneratorExit, StopAsyncIteration])
async def test_leaving_with_an_error_closes_the_generator_and_raises_it(error):
    numbers = Numbers(5)
    raised = error()

    async def leave() -> None:
        async with open_stream(numbers.events()):
            raise raised

    with pytest.raises(error) as caught:
        await leave()
    assert caught.value is raised
    assert numbers.has_ended


async def test_a_cancelled_reader_closes_the_generator():
    numbers = Numbers(5, waits_at=1)
    reading = asyncio.create_task(read(open_stream(numbers.events())))
    await until(lambda: numbers.is_waiting)
    reading.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reading
    assert numbers.has_ended
