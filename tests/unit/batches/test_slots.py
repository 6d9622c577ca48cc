"""How many lines of batches run and wait at a time."""

import asyncio

import pytest

from app.batches.slots import MAX_WAITING, POLL_S, UNKNOWN_MODEL, Slots, automatic
from domain.load import Bounds
from domain.roles import Role
from tests.unit.waiting import now, run_instantly

BOUNDS = Bounds(max_running=8)


async def taken(slots: Slots, role: Role | None, count: int) -> int:
    """How many places of so many are taken at once."""
    tasks = [asyncio.create_task(slots.take(role)) for _ in range(count)]
    await asyncio.sleep(POLL_S / 2)
    found = sum(task.done() for task in tasks)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    return found


def test_there_are_places_to_fill_an_engine():
    async def scenario():
        assert await taken(Slots({Role.EMBED: BOUNDS}), Role.EMBED, 50) == automatic(BOUNDS) == 12
        assert await taken(Slots({Role.EMBED: BOUNDS}, limit=3), Role.EMBED, 50) == 3
        assert await taken(Slots({Role.EMBED: BOUNDS}), None, 50) == UNKNOWN_MODEL
        assert await taken(Slots({Role.EMBED: BOUNDS}), Role.GENERATE, 50) == UNKNOWN_MODEL

    run_instantly(scenario())


def test_no_line_begins_while_many_wait_for_the_engine():
    async def scenario():
        waiting = {Role.EMBED: MAX_WAITING, Role.GENERATE: MAX_WAITING - 1}
        slots = Slots(dict.fromkeys(waiting, BOUNDS), waiting=waiting.__getitem__)
        assert await taken(slots, Role.GENERATE, 2) == 2
        began = now()
        place = asyncio.create_task(slots.take(Role.EMBED))
        await asyncio.sleep(1)
        assert not place.done()
        waiting[Role.EMBED] -= 1
        await place
        assert now() - began == pytest.approx(1, abs=POLL_S)

    run_instantly(scenario())


def test_no_line_begins_before_its_engine_serves():
    """All lines would be refused, and tried again and again."""

    async def scenario():
        serving: set[Role] = {Role.GENERATE}
        slots = Slots(dict.fromkeys(Role, BOUNDS), is_serving=serving.__contains__)
        assert await taken(slots, Role.EMBED, 2) == 0
        assert await taken(slots, Role.GENERATE, 2) == 2
        assert await taken(slots, None, 2) == 2
        serving.add(Role.EMBED)
        assert await taken(slots, Role.EMBED, 2) == 2

    run_instantly(scenario())
