"""What a message asks for is checked before it waits for the engine, streamed or not."""

import pytest

from tests.unit.messages_serving import error_of, messages_serving


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
async def test_more_than_the_context_is_refused_at_once(stream):
    async with messages_serving() as api:
        api.writer.seen.clear()
        refused = await api.message(max_tokens=2**31 - 1, stream=stream)
        assert error_of(refused, 400)["type"] == "invalid_request_error"
        assert api.writer.seen == []
