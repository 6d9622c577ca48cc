import asyncio
import contextlib

import pytest

from domain.errors import BackendFailedError, ContextLengthError, InferenceError
from domain.gather import gather_all
from tests.unit.waiting import until


class Job:
    """A job that ends when `end` is called."""

    def __init__(self, result: object = None) -> None:
        self._result = result
        self._may_end = asyncio.Event()
        self.has_started = False
        self.has_ended = False

    async def run(self) -> object:
        self.has_started = True
        try:
            await self._may_end.wait()
            if isinstance(self._result, BaseException):
                raise self._result
            return self._result
        except asyncio.CancelledError:
            # Cancellation takes a while, as with a request in an engine.
            await asyncio.sleep(0)
            raise
        finally:
            self.has_ended = True

    def end(self) -> None:
        self._may_end.set()


async def gathered(*jobs: Job) -> asyncio.Task:
    task = asyncio.create_task(gather_all([job.run() for job in jobs]))
    await until(lambda: all(job.has_started for job in jobs))
    return task


async def test_no_work_gives_no_results():
    assert await gather_all([]) == []


@pytest.mark.parametrize("count", [1, 2, 5])
async def test_results_are_in_the_order_of_the_work(count):
    jobs = [Job(number) for number in range(count)]
    task = await gathered(*jobs)
    for job in reversed(jobs):
        job.end()
    assert await task == list(range(count))


@pytest.mark.parametrize("count", [1, 2, 5])
@pytest.mark.parametrize(
    "failure", [ContextLengthError(256, param="input"), KeyError("unforeseen")], ids=["domain", "other"]
)
async def test_the_first_failure_is_raised_unchanged_and_cancels_the_others(count, failure):
    jobs = [*(Job() for _ in range(count - 1)), Job(failure)]
    task = await gathered(*jobs)
    jobs[-1].end()
    with pytest.raises(type(failure)) as caught:
        await task
    assert caught.value is failure
    assert all(job.has_ended for job in jobs)


async def test_the_earliest_of_several_failures_is_raised():
    first, second = Job(BackendFailedError("first")), Job(BackendFailedError("second"))
    task = await gathered(second, first)
    first.end()
    second.end()
    with pytest.raises(InferenceError, match="first"):
        await task


@pytest.mark.parametrize("count", [1, 3])
async def test_cancellation_ends_all_work(count):
    jobs = [Job() for _ in range(count)]
    task = await gathered(*jobs)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert all(job.has_ended for job in jobs)


async def test_a_failure_has_no_exception_group_as_cause():
    jobs = [Job(), Job(BackendFailedError("Broken."))]
    task = await gathered(*jobs)
    jobs[1].end()
    with pytest.raises(BackendFailedError) as caught:
        await task
    assert not isinstance(caught.value.__cause__, BaseExceptionGroup)


async def test_a_failure_leaves_no_cancellation_on_the_caller():
    async def fail() -> None:
        raise BackendFailedError("Broken.")

    async def retry_too_long() -> None:
        async with asyncio.timeout(0.01):
            with contextlib.suppress(BackendFailedError):
                await gather_all([fail(), asyncio.sleep(1000)])
            await asyncio.sleep(1000)

    with pytest.raises(TimeoutError):
        await retry_too_long()
    assert asyncio.current_task().cancelling() == 0
