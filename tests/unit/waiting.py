"""Helpers to wait: for a condition, or in an event loop with a simulated clock."""

import asyncio
import time
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

T = TypeVar("T")

TURNS = 10_000
TIMEOUT_S = 60.0
"""Much longer than needed, because the machine may be busy."""


async def until(condition: Callable[[], bool]) -> None:
    for _ in range(TURNS):
        if condition():
            return
        await asyncio.sleep(0)
    raise AssertionError("it never came true")


async def eventually(condition: Callable[[], bool]) -> None:
    """Wait for a condition that a thread fulfills, which takes real time."""
    deadline = time.monotonic() + TIMEOUT_S
    while not condition():
        assert time.monotonic() < deadline, "it never came true"
        await asyncio.sleep(0.01)


class InstantLoop(asyncio.SelectorEventLoop):
    """An event loop whose clock jumps to the next timer when all tasks wait, and stands still otherwise."""

    def __init__(self) -> None:
        super().__init__()
        self._seconds = 0.0
        self._real_select = self._selector.select
        self._selector.select = self._select

    def time(self) -> float:
        return self._seconds

    def _select(self, timeout: float | None = None) -> list[Any]:
        if timeout is None:
            raise AssertionError("all tasks wait, and no timer will wake them")
        self._seconds += timeout
        return self._real_select(0)


def run_instantly(main: Coroutine[Any, Any, T]) -> T:
    with asyncio.Runner(loop_factory=InstantLoop) as runner:
        return runner.run(main)


def now() -> float:
    return asyncio.get_running_loop().time()
