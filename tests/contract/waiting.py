"""Helpers that wait until an engine is busy or idle."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

from tests.contract.cases import Case

TIMEOUT_S = 10
CLIENTS = 16
"""Concurrent requests that keep an engine busy for seconds."""


async def until_idle(case: Case, within_s: float = TIMEOUT_S) -> None:
    """Wait until the engine reports no running requests; fail after `within_s`."""
    async with asyncio.timeout(within_s):
        while await case.running():
            await asyncio.sleep(0.01)


async def cancel_running(case: Case, work: Callable[[], Coroutine[Any, Any, object]]) -> None:
    """Cancel many requests while the engine runs them; fail if it continues.

    Each client repeats its request, so that the engine's metrics eventually show running requests, however fast
    the engine and however slow its metrics.
    """

    async def repeat() -> None:
        while True:
            await work()
            await asyncio.sleep(0)

    tasks = [asyncio.create_task(repeat()) for _ in range(CLIENTS)]
    try:
        async with asyncio.timeout(TIMEOUT_S):
            while not await case.running():
                await asyncio.sleep(0.0005)
    finally:
        for task in tasks:
            task.cancel()
        ends = await asyncio.gather(*tasks, return_exceptions=True)
    assert {type(end) for end in ends} == {asyncio.CancelledError}, "no request failed before it was cancelled"
    await until_idle(case, within_s=case.abort_s)
