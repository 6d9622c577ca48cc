"""The backend that docs/backends.md shows works as it says."""

import re
import sys
import types

import httpx
import pytest

from app.bootstrap import build_app
from app.settings import load_settings
from tests.deployment import ROOT
from tests.unit.serving import CHAT, COMPLETE, EMBED, chunks_of, error_of
from tests.unit.waiting import until

GUIDE = (ROOT / "docs" / "backends.md").read_text()
EXAMPLE = re.search(r"<!-- example -->\n```python\n(.*?)```", GUIDE, re.S)
MESSAGES = [{"role": "user", "content": "one two three"}]


@pytest.fixture
async def http(monkeypatch):
    assert EXAMPLE is not None
    module = types.ModuleType("my_backend")
    exec(EXAMPLE[1], module.__dict__)
    monkeypatch.setitem(sys.modules, "my_backend", module)
    app = build_app(load_settings({"EMBED_BACKEND": "off", "GEN_BACKEND": "my_backend.factory"}))
    app.service.start()
    await until(lambda: app.service.health().status == "ok")
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://api") as client:
        yield client
    await app.service.stop()


async def test_it_answers(http):
    answer = (await http.post(CHAT, json={"model": "echo", "messages": MESSAGES})).json()
    assert answer["choices"][0]["message"]["content"] == "one two three "
    assert answer["choices"][0]["finish_reason"] == "stop"
    assert answer["usage"]["total_tokens"] == 6


async def test_it_stops_at_max_tokens_in_each_choice(http):
    body = {"model": "echo", "prompt": "one two three", "max_tokens": 2, "n": 2}
    answer = (await http.post(COMPLETE, json=body)).json()
    assert [(each["text"], each["finish_reason"]) for each in answer["choices"]] == [("one two ", "length")] * 2
    assert answer["usage"]["completion_tokens"] == 4


async def test_it_streams(http):
    response = await http.post(CHAT, json={"model": "echo", "messages": MESSAGES, "stream": True})
    deltas = [chunk["choices"][0]["delta"].get("content") for chunk in chunks_of(response)]
    assert [delta for delta in deltas if delta] == ["one ", "two ", "three "]


async def test_it_refuses_what_it_cannot_do(http):
    refused = await http.post(COMPLETE, json={"model": "echo", "prompt": [1, 2]})
    assert refused.status_code == 400
    assert error_of(refused)["message"] == "The model 'echo' reads plain text only."
    assert (await http.post(EMBED, json={"model": "echo", "input": "text"})).status_code == 404
