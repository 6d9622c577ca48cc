"""Locks by name: work of the same name is done one after another, in the order in which it came."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager


class Lanes:
    """One lock for each name that is in use."""

    def __init__(self) -> None:
        self._lanes: dict[str | None, _Lane] = {}

    def __len__(self) -> int:
        """The number of names in use."""
        return len(self._lanes)

    @asynccontextmanager
    async def turn(self, name: str | None) -> AsyncGenerator[None, None]:
        """Wait for earlier work of this name, and keep later work of it waiting."""
        lane = self._lanes.setdefault(name, _Lane())
        lane.users += 1
        try:
            async with lane.lock:
                yield
        finally:
            lane.users -= 1
            if not lane.users:
                del self._lanes[name]


class _Lane:
    """One lock, and how many hold it or wait for it: between two of them it is not locked, but in use."""

    def __init__(self) -> None:
        self.lock = asyncio.Lock()
        self.users = 0
