"""Bounds the lines that run at a time, of all batches of this process together."""

import asyncio
from collections.abc import Callable, Mapping

from domain.load import Bounds
from domain.roles import Role

WAITING_SHARE = 4
"""One line waits for each so many that the engine runs, so that it never has to wait for one."""
MIN_WAITING = 4
MAX_WAITING = 64
"""Lines of one role that wait for its engine, beyond which no other begins. Each waiting line is hundreds of
objects: with 640 of them, collections of garbage stopped the event loop for up to 90 ms."""
POLL_S = 0.01
"""How often this is asked again. A fast engine takes no more than the waiting ones meanwhile."""
UNKNOWN_MODEL = 4
"""Lines at a time that name no model that is served; their answers are errors."""


def automatic(bounds: Bounds) -> int:
    """Lines of one role at a time that fill its engine."""
    return bounds.max_running + max(MIN_WAITING, bounds.max_running // WAITING_SHARE)


class Slots:
    """Places for lines, by the role of the model that they name. Batches get them in turn."""

    def __init__(
        self,
        bounds: Mapping[Role, Bounds],
        *,
        waiting: Callable[[Role], int] = lambda _role: 0,
        is_serving: Callable[[Role], bool] = lambda _role: True,
        limit: int | None = None,
    ) -> None:
        """Create it.

        Args:
            bounds: how much each engine runs at a time.
            waiting: the lines that wait for the engine of a role.
            is_serving: whether the engine of a role accepts requests; while it does not, no line begins.
            limit: lines of one role at a time; None for as many as fill its engine.
        """
        self._waiting = waiting
        self._is_serving = is_serving
        self._places = {
            role: asyncio.Semaphore(automatic(own) if limit is None else limit) for role, own in bounds.items()
        }
        self._others = asyncio.Semaphore(UNKNOWN_MODEL)

    async def take(self, role: Role | None) -> asyncio.Semaphore:
        """Wait for a place, and take it; release it when the line has ended.

        Args:
            role: of the line's model; None if it is not served.
        """
        # Counted, because admission has no event for it.
        while role is not None and not self._has_use(role):  # noqa: ASYNC110
            await asyncio.sleep(POLL_S)
        place = self._of(role)
        await place.acquire()
        return place

    def _has_use(self, role: Role) -> bool:
        return self._is_serving(role) and self._waiting(role) < MAX_WAITING

    def _of(self, role: Role | None) -> asyncio.Semaphore:
        return self._others if role is None else self._places.get(role, self._others)
