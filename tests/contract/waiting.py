"""Waiting for an engine to have something to do, or nothing."""

import asyncio

from tests.contract.cases import Case

PATIENCE_S = 10


async def until_idle(case: Case) -> None:
    """Return once the engine itself says that nothing runs; fail if it never does."""
    async with asyncio.timeout(PATIENCE_S):
        while await case.running():
            await asyncio.sleep(0.02)


async def until_busy(case: Case) -> None:
    """Return once the engine itself says that something runs; fail if it never does."""
    async with asyncio.timeout(PATIENCE_S):
        while not await case.running():
            await asyncio.sleep(0.0005)
