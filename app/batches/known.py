"""Keeps what was read from a store that may be slow or unreachable, and reads it again when it has become old."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

from domain.errors import StateUnavailableError

T = TypeVar("T")

WAIT_S = 0.25
"""Longest wait for a read; then what was known before is used."""
log = logging.getLogger("memoria")


class Known(Generic[T]):
    """A value of which one read is in progress at most."""

    def __init__(self, read: Callable[[], Awaitable[T]], *, at_first: T, clock: Callable[[], float]) -> None:
        """Create it without reading.

        Args:
            read: reads the value.
            at_first: the value before the first read has succeeded.
            clock: returns seconds.
        """
        self.value = at_first
        self.tried_at = float("-inf")
        """When the latest read began, whether it has succeeded or not."""
        self._read = read
        self._clock = clock
        self._reading: asyncio.Task[None] | None = None
        self._is_stopped = False

    async def since(self, moment: float) -> T:
        """The value; it is read before if no read has begun since a moment of the clock.

        If that takes long or fails, the value is that of an earlier read.
        """
        if self._reading is None and self.tried_at < moment and not self._is_stopped:
            self.tried_at = self._clock()
            self._reading = asyncio.create_task(self._update(), name="read-batches")
        if self._reading is not None:
            # Does not cancel it: a later call finds what it has read.
            await asyncio.wait({self._reading}, timeout=WAIT_S)
        return self.value

    def stop(self) -> None:
        """Cancel a read in progress, and begin no other."""
        self._is_stopped = True
        if self._reading is not None:
            self._reading.cancel()

    async def _update(self) -> None:
        try:
            self.value = await self._read()
        except StateUnavailableError:
            # The store has logged it.
            return
        except Exception:
            log.exception("unexpected error while reading batches")
        finally:
            self._reading = None
