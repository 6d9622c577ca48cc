"""A response that the engine refuses leaves nothing, neither in the database nor in memory."""

import asyncio

from adapters.state.store import DatabaseStateStore
from domain.errors import OverloadedError
from tests.unit.responses_serving import stored_serving
from tests.unit.waiting import eventually


async def test_a_stream_that_is_refused_keeps_no_memory(tmp_path):
    async with stored_serving(tmp_path) as api:
        state = api.app.responses.state
        assert isinstance(state, DatabaseStateStore)
        api.script = [OverloadedError("Full.", retry_after_s=1)]
        answers = await asyncio.gather(*(api.respond("Hi", stream=True) for _ in range(3)))
        assert [answer.status_code for answer in answers] == [429] * 3
        await eventually(lambda: not api.app.responses._endings)
        assert not state._access._responses._begun
