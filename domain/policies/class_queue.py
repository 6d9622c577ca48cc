"""The queue of one class of service, as `domain.policies.admission` keeps it."""

import asyncio
import math
from collections import deque

from domain.service_class import ServiceClass

MAX_RETRY_AFTER_S = 60
SMOOTHING = 0.1
"""Weight of the newest request in the moving average of request durations."""


class ClassQueue:
    """The requests of one class. The running ones are not counted for INTERACTIVE, whose are all others."""

    __slots__ = ("mean_s", "running", "running_tokens", "service_class", "waiters", "waiting_tokens")

    def __init__(self, service_class: ServiceClass) -> None:
        self.service_class = service_class
        self.waiters: deque[Waiter] = deque()
        self.waiting_tokens = self.running = self.running_tokens = 0
        self.mean_s = 0.0
        """Moving average of the time that a request runs, in seconds."""

    def retry_after_s(self, running: int) -> int:
        """Estimated seconds until the requests that wait now have been admitted, if so many run at a time."""
        wait_s = self.mean_s * (len(self.waiters) + 1) / max(1, running)
        return min(MAX_RETRY_AFTER_S, max(1, math.ceil(wait_s)))


class Waiter:
    """A request in the queue."""

    def __init__(self, tokens: int) -> None:
        self.tokens = tokens
        self.is_waiting = True
        self.admitted: asyncio.Future[None] = asyncio.get_running_loop().create_future()
