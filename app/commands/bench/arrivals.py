"""How requests arrive: from a number of clients that each wait for their answer, or at a fixed rate."""

import asyncio
import itertools
import random
import time
from collections.abc import Callable, Iterator, Sequence

import msgspec

from app.commands.bench.http_client import Answer, Connection, Target

# A fixed seed: each side of a comparison meets the same gaps.
ARRIVALS_SEED = 20
FAILURE_PAUSE_S = 0.1


class Run(msgspec.Struct):
    """All answers of one run."""

    answers: list[Answer]
    failures: list[str]
    """What went wrong with requests that got no whole answer."""
    began_at: float
    ended_at: float

    @property
    def duration_s(self) -> float:
        """From the first request to the last answer."""
        return self.ended_at - self.began_at


async def closed_loop(
    target: Target,
    requests: Sequence[bytes],
    *,
    clients: int,
    seconds: float | None = None,
    count: int | None = None,
    ticked: Callable[[], None] = lambda: None,
) -> Run:
    """So many clients, each of which sends its next request when it has the answer to its last.

    Args:
        target: where to.
        requests: bodies to choose from, in turn.
        clients: connections.
        seconds: no request is sent later than this after the start; None for no such end.
        count: at most so many requests; None for no such end.
        ticked: called after each answer.
    """
    source = _limited(requests, count)
    connections = [await Connection.connect(target) for _ in range(clients)]
    run = Run([], [], time.perf_counter(), 0.0)
    deadline = run.began_at + seconds if seconds is not None else float("inf")

    async def client(connection: Connection) -> None:
        for request in source:
            if time.perf_counter() >= deadline:
                return
            connection = await _ask(connection, target, request, run)
            ticked()
        connection.close()

    await asyncio.gather(*(client(connection) for connection in connections))
    run.ended_at = time.perf_counter()
    for connection in connections:
        connection.close()
    return run


async def open_loop(
    target: Target,
    requests: Sequence[bytes],
    *,
    rate: float,
    seconds: float,
    ticked: Callable[[], None] = lambda: None,
) -> Run:
    """Requests at random moments (a Poisson process) of a mean rate, whether earlier ones are answered or not.

    Users do not wait for one another: only so does a server that falls behind show how far behind it is.

    Args:
        target: where to.
        requests: bodies to choose from, in turn.
        rate: mean requests in a second.
        seconds: for how long they arrive; answers are waited for beyond it.
        ticked: called after each answer.
    """
    gaps = random.Random(ARRIVALS_SEED)
    source = _limited(requests, None)
    idle: list[Connection] = []
    run = Run([], [], time.perf_counter(), 0.0)
    due = run.began_at
    async with asyncio.TaskGroup() as group:

        async def one(request: bytes) -> None:
            while idle:
                connection = idle.pop()
                if connection.is_open:
                    break
            else:
                connection = await Connection.connect(target)
            idle.append(await _ask(connection, target, request, run))
            ticked()

        while True:
            due += gaps.expovariate(rate)
            if due - run.began_at > seconds:
                break
            await asyncio.sleep(max(0.0, due - time.perf_counter()))
            group.create_task(one(next(source)))
    run.ended_at = time.perf_counter()
    for connection in idle:
        connection.close()
    return run


def _limited(requests: Sequence[bytes], count: int | None) -> Iterator[bytes]:
    return itertools.islice(itertools.cycle(requests), count)


async def _ask(connection: Connection, target: Target, request: bytes, run: Run) -> Connection:
    """One request and what came of it; the connection for the next one."""
    try:
        run.answers.append(await connection.ask(request))
    except OSError as error:
        run.failures.append(str(error))
        # A server that turns everybody away must not keep the generator spinning.
        await asyncio.sleep(FAILURE_PAUSE_S)
    return connection if connection.is_open else await Connection.connect(target)
