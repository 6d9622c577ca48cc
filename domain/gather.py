"""Runs several coroutines of one request concurrently; the first failure cancels the others and is raised."""

import asyncio
from collections.abc import Coroutine, Sequence
from typing import Any, TypeVar

T = TypeVar("T")


async def gather_all(work: Sequence[Coroutine[Any, Any, T]]) -> list[T]:
    """Run coroutines concurrently and return their results in order.

    Raises the error of the first coroutine that failed, after the others have been cancelled and have ended.
    """
    if len(work) == 1:
        return [await work[0]]
    if not work:
        return []
    failures: list[BaseException] = []

    def note(task: asyncio.Task[T]) -> None:
        if not task.cancelled() and (error := task.exception()) is not None:
            failures.append(error)

    tasks = [asyncio.create_task(coroutine) for coroutine in work]
    for task in tasks:
        task.add_done_callback(note)
    try:
        # Not a TaskGroup: before Python 3.13 it leaves a cancellation request on the calling task after a failure,
        # which an enclosing asyncio.timeout then takes for somebody else's.
        await asyncio.wait(tasks, return_when=asyncio.FIRST_EXCEPTION)
        if failures:
            raise failures[0]
        return [task.result() for task in tasks]
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
