"""Streams of events: how one begins."""

import contextlib
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable
from typing import Generic, TypeVar

T = TypeVar("T")


@contextlib.asynccontextmanager
async def begun(events: AsyncGenerator[T, None]) -> AsyncGenerator[AsyncIterator[T], None]:
    """All events of a generator, once its first one is there; leaving the context closes it.

    Raises whatever the generator raises before its first event.
    """
    async with contextlib.aclosing(events):
        try:
            first = await anext(events)
        except StopAsyncIteration:
            yield events
            return
        yield _Begun(first, events)


class _Begun(Generic[T]):
    """An item, then those of an iterator, which are handed out without a generator in between."""

    def __init__(self, first: T, rest: AsyncIterator[T]) -> None:
        self._first: list[T] = [first]
        self._rest = rest

    def __aiter__(self) -> AsyncIterator[T]:
        return self

    def __anext__(self) -> Awaitable[T]:
        return self._take_first() if self._first else self._rest.__anext__()

    async def _take_first(self) -> T:
        return self._first.pop()
