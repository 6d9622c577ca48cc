"""Waits for events of batches, for a limited time."""

import asyncio


async def wait_for_event(event: asyncio.Event, timeout_s: float) -> None:
    """Wait until an event is set, but not longer than the timeout."""
    try:
        async with asyncio.timeout(timeout_s):
            await event.wait()
    except TimeoutError:
        pass
