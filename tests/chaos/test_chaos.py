"""The short form: each fault once, and nothing wrong or lost."""

import asyncio
from pathlib import Path

import pytest

from tests.chaos.faults import GATEWAY, IN_PROCESS
from tests.chaos.run import Row, gateway, inprocess, run_faults

pytestmark = pytest.mark.integration


@pytest.mark.parametrize(("stage_of", "faults"), [(inprocess, IN_PROCESS), (gateway, GATEWAY)])
def test_nothing_is_wrong_and_nothing_is_lost(tiny_models: dict[str, Path], stage_of, faults) -> None:
    async def scenario() -> list[Row]:
        async with stage_of(tiny_models) as stage:
            rows = await run_faults(stage, faults, until=None, clients=2, say=print)
            assert stage.load.health.answers_s, "health was answered meanwhile"
            return rows

    rows = asyncio.run(scenario())
    assert [row.fault for row in rows] == list(faults)
    for row in rows:
        assert (row.hit.wrong, row.hit.lost) == (0, 0), f"{row.fault}: {row.notes}"
        assert row.hit.right > 0
