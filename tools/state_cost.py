"""Measures the CPU time of storing a response: `python -m tools.state_cost [URL]`.

Clients begin a response, wait as if it was generated, and finish it. The time of the same clients without a store
is subtracted.
"""

import asyncio
import random
import secrets
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

from adapters.state.provider import StateOptions, build_state
from domain.state import Item, ResponseStatus, StoredResponse

CLIENTS = 64
RESPONSES = 50
"""Responses of each client."""
GENERATION_S = 0.2
BODY, INPUT, OUTPUT = 1500, 300, 600
"""Bytes of a response's body, its one input item and its one output item."""

Begin = Callable[[StoredResponse], None]
Finish = Callable[[StoredResponse], Awaitable[None]]


def make_response() -> tuple[StoredResponse, StoredResponse]:
    """A response as it begins and as it ends."""
    given = [Item(f"msg_{secrets.token_hex(16)}", b"x" * INPUT)]
    first = StoredResponse(
        id=f"resp_{secrets.token_hex(16)}",
        owner="alice",
        created=int(time.time()),
        status=ResponseStatus.IN_PROGRESS,
        body=b"x" * BODY,
        input=given,
    )
    last = StoredResponse(
        id=first.id,
        owner=first.owner,
        created=first.created,
        status=ResponseStatus.COMPLETED,
        body=first.body,
        input=given,
        output=[Item(f"msg_{secrets.token_hex(16)}", b"x" * OUTPUT)],
    )
    return first, last


async def run_clients(begin: Begin, finish: Finish) -> tuple[float, float]:
    """Store responses; returns CPU time per response and elapsed time, both in seconds."""

    async def client() -> None:
        for _ in range(RESPONSES):
            first, last = make_response()
            begin(first)
            await asyncio.sleep(GENERATION_S * random.uniform(0.5, 1.5))
            await finish(last)

    elapsed, cpu = time.perf_counter(), time.process_time()
    await asyncio.gather(*(client() for _ in range(CLIENTS)))
    return (time.process_time() - cpu) / CLIENTS / RESPONSES, time.perf_counter() - elapsed


async def measure(database: str | None) -> None:
    """Print what a response costs."""

    async def finish_nothing(_response: StoredResponse) -> None:
        pass

    without, _elapsed = await run_clients(lambda _response: None, finish_nothing)
    with tempfile.TemporaryDirectory() as folder:
        stores = build_state(StateOptions(folder=Path(folder), database=database), interrupted=bytes)
        if stores is None:
            return
        store = stores.state
        await store.start()
        try:
            cost, elapsed = await run_clients(store.begin, store.finish)
        finally:
            await store.stop()
    rate = CLIENTS * RESPONSES / elapsed
    print(f"{(cost - without) * 1e6:.0f} µs of CPU per response at {rate:.0f} responses per second")


if __name__ == "__main__":
    asyncio.run(measure(sys.argv[1] if len(sys.argv) > 1 else None))
