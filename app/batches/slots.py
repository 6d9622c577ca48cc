"""Bounds the lines that run at a time, of all batches of this process together."""

import asyncio
from collections.abc import Mapping

from domain.load import Bounds
from domain.roles import Role

WAITING_SHARE = 4
"""One line waits for each so many that the engine runs, so that it never has to wait for one."""
MIN_WAITING = 4
UNKNOWN_MODEL = 4
"""Lines at a time that name no model that is served; their answers are errors."""


def automatic(bounds: Bounds) -> int:
    """Lines of one role at a time that fill its engine."""
    return bounds.max_running + max(MIN_WAITING, bounds.max_running // WAITING_SHARE)


class Slots:
    """Places for lines, by the role of the model that they name. Batches get them in turn."""

    def __init__(self, bounds: Mapping[Role, Bounds], *, limit: int | None = None) -> None:
        """Create it.

        Args:
            bounds: how much each engine runs at a time.
            limit: lines of one role at a time; None for as many as fill its engine.
        """
        self._places = {
            role: asyncio.Semaphore(automatic(own) if limit is None else limit) for role, own in bounds.items()
        }
        self._others = asyncio.Semaphore(UNKNOWN_MODEL)

    def of(self, role: Role | None) -> asyncio.Semaphore:
        """The places for lines whose model has a role; None for lines whose model is not served."""
        return self._others if role is None else self._places.get(role, self._others)
