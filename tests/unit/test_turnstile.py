import asyncio
import itertools

from app.turnstile import Turnstile


async def turns_until(condition) -> int:
    turns = 0
    while not condition():
        await asyncio.sleep(0)
        turns += 1
        assert turns < 1000
    return turns


async def test_few_begin_at_once():
    begun: list[int] = []
    turnstile = Turnstile(asyncio.get_running_loop(), per_turn=3)
    for number in range(3):
        turnstile.enter(lambda number=number: begun.append(number))
    assert begun == [0, 1, 2]


async def test_a_crowd_begins_in_order_some_in_each_turn():
    begun: list[int] = []
    turnstile = Turnstile(asyncio.get_running_loop(), per_turn=3)
    for number in range(10):
        turnstile.enter(lambda number=number: begun.append(number))
    seen = [len(begun)]
    while len(begun) < 10:
        await asyncio.sleep(0)
        seen.append(len(begun))
    assert begun == list(range(10))
    assert max(after - before for before, after in itertools.pairwise(seen)) <= 3


async def test_who_comes_while_others_wait_waits_behind_them():
    begun: list[str] = []
    turnstile = Turnstile(asyncio.get_running_loop(), per_turn=1)
    for name in ("first", "second", "third"):
        turnstile.enter(lambda name=name: begun.append(name))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    turnstile.enter(lambda: begun.append("fourth"))
    await turns_until(lambda: len(begun) == 4)
    assert begun == ["first", "second", "third", "fourth"]


async def test_after_a_crowd_one_begins_at_once_again():
    begun: list[int] = []
    turnstile = Turnstile(asyncio.get_running_loop(), per_turn=2)
    for number in range(5):
        turnstile.enter(lambda number=number: begun.append(number))
    await turns_until(lambda: len(begun) == 5)
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    turnstile.enter(lambda: begun.append(5))
    assert begun[-1] == 5


async def test_one_that_fails_to_begin_keeps_nobody_waiting():
    begun: list[int] = []
    loop = asyncio.get_running_loop()
    caught: list[dict] = []
    loop.set_exception_handler(lambda _loop, context: caught.append(context))
    turnstile = Turnstile(loop, per_turn=2)

    def fail() -> None:
        raise RuntimeError("broken")

    for number in range(2):
        turnstile.enter(lambda number=number: begun.append(number))
    turnstile.enter(fail)
    for number in range(2, 5):
        turnstile.enter(lambda number=number: begun.append(number))
    await turns_until(lambda: len(begun) == 5)
    loop.set_exception_handler(None)
    assert begun == [0, 1, 2, 3, 4]
    assert len(caught) == 1
