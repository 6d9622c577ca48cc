"""Waiting for an engine to have something to do, or nothing."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

from tests.contract.cases import Case

PATIENCE_S = 10
CROWD = 16
"""Requests at once that keep an engine busy for seconds."""


async def until_idle(case: Case, within_s: float = PATIENCE_S) -> None:
    """Return once the engine itself says that nothing runs; fail if it never does."""
    async with asyncio.timeout(within_s):
        while await case.running():
            await asyncio.sleep(0.01)


async def cancel_under_way(case: Case, work: Callable[[], Coroutine[Any, Any, object]]) -> None:
    """Cancel a crowd of requests while the engine works on them; fail if it goes on working.

    Each of the crowd asks again when it is answered: however quick the engine and however slow its
    metrics, there is a moment at which it is seen to work.
    """

    async def again_and_again() -> None:
        while True:
            await work()
            await asyncio.sleep(0)

    crowd = [asyncio.create_task(again_and_again()) for _ in range(CROWD)]
    try:
        async with asyncio.timeout(PATIENCE_S):
            while not await case.running():
                await asyncio.sleep(0.0005)
    finally:
        for task in crowd:
            task.cancel()
        ends = await asyncio.gather(*crowd, return_exceptions=True)
    assert {type(end) for end in ends} == {asyncio.CancelledError}, "none failed before"
    await until_idle(case, within_s=case.abort_s)
