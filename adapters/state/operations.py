"""What waits for the writer."""

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

from sqlalchemy import Connection

from domain.state import StoredResponse

ROW_BYTES = 256
"""Estimated overhead of a row in memory, in bytes."""


class Operation:
    """One thing to write.

    Attributes:
        size: estimated memory in bytes, until it is written.
        future: receives the result, on the event loop; None if nothing waits for it.
    """

    __slots__ = ("future", "size")

    def __init__(self, size: int) -> None:
        self.size = size
        self.future: asyncio.Future[Any] | None = None


class Begin(Operation):
    """Stores an unfinished response."""

    __slots__ = ("response",)

    def __init__(self, response: StoredResponse) -> None:
        super().__init__(_size(response))
        self.response = response


class Finish(Operation):
    """Stores a finished response."""

    __slots__ = ("response",)

    def __init__(self, response: StoredResponse) -> None:
        super().__init__(_size(response))
        self.response = response


class AppendEvents(Operation):
    """Stores events of a response."""

    __slots__ = ("events", "response_id")

    def __init__(self, response_id: str, events: Sequence[tuple[int, bytes]]) -> None:
        super().__init__(sum(ROW_BYTES + len(data) for _, data in events))
        self.response_id = response_id
        self.events = events


class Delete(Operation):
    """Deletes a response of an owner; the result is whether there was one.

    Attributes:
        owner: the owner.
        response_id: the response.
        is_last: whether its end will never follow.
    """

    __slots__ = ("is_last", "owner", "response_id")

    def __init__(self, owner: str, response_id: str, *, is_last: bool = False) -> None:
        super().__init__(ROW_BYTES)
        self.owner = owner
        self.response_id = response_id
        self.is_last = is_last


class Work(Operation):
    """Anything else: a function that is called in the transaction, and whose result is awaited."""

    __slots__ = ("run",)

    def __init__(self, run: Callable[[Connection], Any], size: int = 0) -> None:
        super().__init__(ROW_BYTES + size)
        self.run = run


def _size(response: StoredResponse) -> int:
    size = ROW_BYTES + len(response.body)
    for item in response.input:
        size += ROW_BYTES + len(item.data)
    for item in response.output:
        size += ROW_BYTES + len(item.data)
    return size
