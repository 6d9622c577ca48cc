"""A process that stores responses until it is killed: `python -m tests.integration.state.storm FOLDER [URL]`.

Prints a line when a response is begun durably and when one is finished durably.
"""

import asyncio
import itertools
import os
import sys
from pathlib import Path

from adapters.state.provider import StateOptions
from tests.integration.state.conftest import make_store
from tests.integration.state.samples import conversation, finished, item, unfinished

CLIENTS = 16


async def main(folder: str, url: str | None) -> None:
    store = make_store(StateOptions(folder=Path(folder), database=url))
    await store.start()
    prefix = f"resp-{os.getpid()}"
    await store.create_conversation(conversation(f"conv-{os.getpid()}"), [])

    async def client(number: int) -> None:
        for turn in itertools.count():
            name = f"{prefix}-{number}-{turn}"
            first = unfinished(name, conversation_id=f"conv-{os.getpid()}")
            if turn % 3:
                store.begin(first)
            elif turn:
                await store.begin_durably(first)
                print("begun", name, flush=True)
            store.append_events(name, [(0, b"zero"), (1, b"one")])
            await store.finish(
                finished(name, conversation_id=f"conv-{os.getpid()}", output=[item(f"out-{name}"), item("same")])
            )
            print("finished", name, flush=True)

    await asyncio.gather(*(client(number) for number in range(CLIENTS)))


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], sys.argv[2] if len(sys.argv) > 2 else None))
