import asyncio

import pytest

from domain.errors import BackendFailedError, ContextLengthError, InferenceError
from domain.gather import gather_all
from tests.unit.waiting import until


class Piece:
    """Work that ends when it is told to."""

    def __init__(self, result: object = None) -> None:
        self._result = result
        self._go_on = asyncio.Event()
        self.has_begun = False
        self.has_ended = False

    async def run(self) -> object:
        self.has_begun = True
        try:
            await self._go_on.wait()
            if isinstance(self._result, BaseException):
                raise self._result
            return self._result
        except asyncio.CancelledError:
            # Ending takes a while, as ending a request in an engine does.
            await asyncio.sleep(0)
            raise
        finally:
            self.has_ended = True

    def end(self) -> None:
        self._go_on.set()


async def gathered(*pieces: Piece) -> asyncio.Task:
    task = asyncio.create_task(gather_all([piece.run() for piece in pieces]))
    await until(lambda: all(piece.has_begun for piece in pieces))
    return task


async def test_nothing_to_do_is_done():
    assert await gather_all([]) == []


@pytest.mark.parametrize("count", [1, 2, 5])
async def test_results_come_in_the_order_of_the_work(count):
    pieces = [Piece(number) for number in range(count)]
    task = await gathered(*pieces)
    for piece in reversed(pieces):
        piece.end()
    assert await task == list(range(count))


@pytest.mark.parametrize("count", [1, 2, 5])
@pytest.mark.parametrize(
    "failure", [ContextLengthError(256, param="input"), KeyError("unforeseen")], ids=["domain", "other"]
)
async def test_the_first_failure_is_raised_as_it_is_and_ends_the_others(count, failure):
    pieces = [*(Piece() for _ in range(count - 1)), Piece(failure)]
    task = await gathered(*pieces)
    pieces[-1].end()
    with pytest.raises(type(failure)) as caught:
        await task
    assert caught.value is failure
    assert all(piece.has_ended for piece in pieces)


async def test_of_several_failures_the_first_in_time_is_raised():
    first, second = Piece(BackendFailedError("first")), Piece(BackendFailedError("second"))
    task = await gathered(second, first)
    first.end()
    second.end()
    with pytest.raises(InferenceError, match="first"):
        await task


@pytest.mark.parametrize("count", [1, 3])
async def test_to_be_cancelled_ends_all_work(count):
    pieces = [Piece() for _ in range(count)]
    task = await gathered(*pieces)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert all(piece.has_ended for piece in pieces)


async def test_a_failure_brings_no_story_of_groups():
    pieces = [Piece(), Piece(BackendFailedError("Broken."))]
    task = await gathered(*pieces)
    pieces[1].end()
    with pytest.raises(BackendFailedError) as caught:
        await task
    assert not isinstance(caught.value.__cause__, BaseExceptionGroup)
