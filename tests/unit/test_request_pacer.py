import asyncio
import itertools
from typing import Any

import msgspec
from litestar import Litestar, Request, post
from litestar.datastructures import State

from app.http.codec import BodyDecoder
from app.http.request_pacer import PACER, RequestPacer
from app.http.requests import OPTIONS, read_body
from app.settings import ApiOptions


class Body(msgspec.Struct):
    number: int


async def turns_until(condition) -> int:
    turns = 0
    while not condition():
        await asyncio.sleep(0)
        turns += 1
        assert turns < 1000
    return turns


async def test_few_begin_at_once():
    begun: list[int] = []
    pacer = RequestPacer(asyncio.get_running_loop(), per_iteration=3)
    for number in range(3):
        pacer.start(lambda number=number: begun.append(number))
    assert begun == [0, 1, 2]


async def test_a_crowd_begins_in_order_some_in_each_turn():
    begun: list[int] = []
    pacer = RequestPacer(asyncio.get_running_loop(), per_iteration=3)
    for number in range(10):
        pacer.start(lambda number=number: begun.append(number))
    seen = [len(begun)]
    while len(begun) < 10:
        await asyncio.sleep(0)
        seen.append(len(begun))
    assert begun == list(range(10))
    assert max(after - before for before, after in itertools.pairwise(seen)) <= 3


async def test_who_comes_while_others_wait_waits_behind_them():
    begun: list[str] = []
    pacer = RequestPacer(asyncio.get_running_loop(), per_iteration=1)
    for name in ("first", "second", "third"):
        pacer.start(lambda name=name: begun.append(name))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    pacer.start(lambda: begun.append("fourth"))
    await turns_until(lambda: len(begun) == 4)
    assert begun == ["first", "second", "third", "fourth"]


async def test_after_a_crowd_one_begins_at_once_again():
    begun: list[int] = []
    pacer = RequestPacer(asyncio.get_running_loop(), per_iteration=2)
    for number in range(5):
        pacer.start(lambda number=number: begun.append(number))
    await turns_until(lambda: len(begun) == 5)
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    pacer.start(lambda: begun.append(5))
    assert begun[-1] == 5


async def test_one_that_fails_to_begin_keeps_nobody_waiting():
    begun: list[int] = []
    loop = asyncio.get_running_loop()
    caught: list[dict] = []
    loop.set_exception_handler(lambda _loop, context: caught.append(context))
    pacer = RequestPacer(loop, per_iteration=2)

    def fail() -> None:
        raise RuntimeError("broken")

    for number in range(2):
        pacer.start(lambda number=number: begun.append(number))
    pacer.start(fail)
    for number in range(2, 5):
        pacer.start(lambda number=number: begun.append(number))
    await turns_until(lambda: len(begun) == 5)
    loop.set_exception_handler(None)
    assert begun == [0, 1, 2, 3, 4]
    assert len(caught) == 1


async def test_who_waits_to_go_on_does_so_in_order_some_in_each_turn():
    pacer = RequestPacer(asyncio.get_running_loop(), per_iteration=2)
    passed: list[int] = []

    async def go_on(number: int) -> None:
        await pacer.wait_turn()
        passed.append(number)

    walkers = [asyncio.create_task(go_on(number)) for number in range(6)]
    seen = []
    while len(passed) < 6:
        await asyncio.sleep(0)
        seen.append(len(passed))
    assert passed == list(range(6))
    assert max(after - before for before, after in itertools.pairwise(seen)) <= 2
    await asyncio.gather(*walkers)


async def test_who_gives_up_while_waiting_holds_up_nobody():
    pacer = RequestPacer(asyncio.get_running_loop(), per_iteration=1)
    walkers = [asyncio.create_task(pacer.wait_turn()) for _ in range(4)]
    await asyncio.sleep(0)
    walkers[2].cancel()
    complaints: list[Any] = []
    asyncio.get_running_loop().set_exception_handler(lambda _loop, context: complaints.append(context))
    try:
        async with asyncio.timeout(5):
            done = await asyncio.gather(*walkers, return_exceptions=True)
    finally:
        asyncio.get_running_loop().set_exception_handler(None)
    assert complaints == []
    assert [type(each) for each in done] == [type(None), type(None), asyncio.CancelledError, type(None)]


async def test_a_crowd_whose_bodies_come_later_than_their_heads_goes_on_some_in_each_turn():
    pacer = RequestPacer(asyncio.get_running_loop(), per_iteration=2)
    sent = asyncio.Event()
    bodies: list[Any] = []

    async def receive() -> dict[str, object]:
        await sent.wait()
        return {"type": "http.request", "body": b'{"number": 1}', "more_body": False}

    async def send(_message: object) -> None:
        pass

    @post("/")
    async def take(request: Request[Any, Any, Any]) -> None:
        bodies.append(await read_body(request, BodyDecoder(Body)))

    app: Any = Litestar([take], state=State({OPTIONS: ApiOptions()}), openapi_config=None)

    async def read() -> None:
        scope = {
            "type": "http", "method": "POST", "path": "/", "raw_path": b"/", "query_string": b"", "headers": [],
            "state": {PACER: pacer}, "root_path": "", "scheme": "http", "client": None, "server": None,
        }  # fmt: skip
        await app(scope, receive, send)

    readers = [asyncio.create_task(read()) for _ in range(6)]
    for _ in range(5):
        await asyncio.sleep(0)
    sent.set()
    seen = [0]
    while not all(reader.done() for reader in readers):
        await asyncio.sleep(0)
        seen.append(len(bodies))
    await asyncio.gather(*readers)
    assert len(bodies) == 6
    assert max(after - before for before, after in itertools.pairwise(seen)) <= 2
