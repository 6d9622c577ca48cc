"""What a response asks for is checked before it waits for the engine, however it is answered."""

from collections.abc import AsyncGenerator
from pathlib import Path

import pytest

from domain.errors import InvalidRequestError
from domain.requests import TokenizeRequest
from domain.results import Tokenization
from tests.unit.responses_serving import RESPONSES, ResponsesApi, stored_serving
from tests.unit.serving import error_of

WAYS = {"whole": {}, "stream": {"stream": True}, "background": {"background": True}}


@pytest.fixture(scope="module")
async def api(tmp_path_factory: pytest.TempPathFactory) -> AsyncGenerator[ResponsesApi, None]:
    folder: Path = tmp_path_factory.mktemp("state")
    async with stored_serving(folder) as running:
        yield running


@pytest.mark.parametrize("way", WAYS)
async def test_more_than_the_context_is_refused_at_once(api, way):
    api.writer.seen.clear()
    refused = await api.respond(max_output_tokens=2**31 - 1, **WAYS[way])
    error = error_of(refused)
    assert (refused.status_code, error["code"], error["param"]) == (400, "context_length_exceeded", "input")
    assert api.writer.seen == []


@pytest.mark.parametrize("path", [f"{RESPONSES}/input_tokens", f"{RESPONSES}/compact", RESPONSES])
async def test_a_conversation_that_can_not_be_counted_names_the_input(api, path, monkeypatch):
    async def refuse(_request: TokenizeRequest) -> Tokenization:
        raise InvalidRequestError("The template rejects it.", param="messages")

    monkeypatch.setattr(api.writer, "_tokenize", refuse)
    body = {"model": "fake-write", "input": "Hi " * 1000, **({"truncation": "auto"} if path == RESPONSES else {})}
    refused = await api.http.post(path, json=body)
    assert (refused.status_code, error_of(refused)["param"]) == (400, "input")
