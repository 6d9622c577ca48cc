"""Streams of events."""

import contextlib
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable
from typing import Generic, TypeVar

T = TypeVar("T")


@contextlib.asynccontextmanager
async def open_stream(events: AsyncGenerator[T, None]) -> AsyncGenerator[AsyncIterator[T], None]:
    """Wait for a generator's first event, then yield an iterator over all events; closes the generator on exit.

    Raises whatever the generator raises before its first event.
    """
    async with contextlib.aclosing(events):
        try:
            first = await anext(events)
        except StopAsyncIteration:
            yield events
            return
        yield _Prepended(first, events)


class _Prepended(Generic[T]):
    """Yields an item, then those of an iterator, without a generator in between."""

    def __init__(self, first: T, rest: AsyncIterator[T]) -> None:
        self._first: list[T] = [first]
        self._rest = rest

    def __aiter__(self) -> AsyncIterator[T]:
        return self

    def __anext__(self) -> Awaitable[T]:
        return self._take_first() if self._first else self._rest.__anext__()

    async def _take_first(self) -> T:
        return self._first.pop()
