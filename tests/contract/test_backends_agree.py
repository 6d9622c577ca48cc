"""Both real backends give the same answers through the whole API."""

import array
import asyncio
import base64
import json
from collections.abc import AsyncGenerator
from typing import Any

import httpx
import pytest

from adapters.vllm.http.backend import VLLMHTTPBackend
from app.bootstrap import build_app
from app.settings import load_settings
from domain.roles import Role

pytestmark = pytest.mark.integration

PROMPT = "The quick brown fox"
COMPLETION = {"model": "tiny-gen", "prompt": PROMPT, "temperature": 0, "max_tokens": 12}
EMBEDDING = {"model": "tiny-embed", "input": ["Paris is the capital", "of France"]}


class Shared:
    """Wraps a shared backend, whose start and stop the fixture of the backend handles."""

    def __init__(self, backend: Any, card: Any) -> None:
        self._backend = backend
        self._card = card

    def __getattr__(self, name: str) -> Any:
        return getattr(self._backend, name)

    async def start(self, on_step: Any = None) -> Any:
        return self._card

    async def stop(self) -> None:
        pass


async def _client(backends: dict[Role, Any]) -> AsyncGenerator[httpx.AsyncClient, None]:
    named = {role: (None, backend) for role, backend in backends.items()}
    # The engines belong to this event loop, so the application must run in it as well.
    app = build_app(load_settings({}), named)
    service, transport = app.service, httpx.ASGITransport(app)
    service.start()
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        async with asyncio.timeout(60):
            while service.health().status != "ok":
                await asyncio.sleep(0.02)
        yield client
    await service.stop()


@pytest.fixture(scope="module")
def shared_inprocess(inprocess_backends: dict[Role, Any]) -> dict[Role, Any]:
    from domain.port import ModelCard

    names = {Role.EMBED: "tiny-embed", Role.GENERATE: "tiny-gen", Role.RERANK: "tiny-rerank"}
    return {
        role: Shared(backend, ModelCard(name=names[role], role=role, created=1, max_model_len=512))
        for role, backend in inprocess_backends.items()
    }


@pytest.fixture
async def inprocess(shared_inprocess: dict[Role, Any]) -> AsyncGenerator[httpx.AsyncClient, None]:
    async for client in _client(shared_inprocess):
        yield client


@pytest.fixture
async def over_http(vllm_servers: dict[Role, str]) -> AsyncGenerator[httpx.AsyncClient, None]:
    async for client in _client(
        {role: VLLMHTTPBackend(role=role, base_url=url) for role, url in vllm_servers.items()}
    ):
        yield client


def _without_identity(value: Any) -> Any:
    """An answer without ids, times and what the engine's cache holds, with numbers rounded to four decimals."""
    if isinstance(value, dict):
        own = ("id", "created", "cached_tokens")
        return {key: _without_identity(item) for key, item in value.items() if key not in own}
    if isinstance(value, list):
        return [_without_identity(item) for item in value]
    return round(value, 4) if isinstance(value, float) else value


@pytest.mark.parametrize(
    "extra",
    [
        {},
        {"logprobs": 3},
        {"echo": True, "logprobs": 2},
        {"echo": True, "max_tokens": 0},
        {"n": 2},
        {"prompt": [PROMPT, "Berlin"], "n": 2, "temperature": 1, "seed": 5},
        {"prompt": [11, 12, 13], "stop": ["a"], "presence_penalty": 1},
        {"prompt": [[11, 12], [13]], "logit_bias": {"20": 100}},
        {"stream": True},
        {"stream": True, "stream_options": {"include_usage": True}, "logprobs": 1},
        {"stream": True, "echo": True, "max_tokens": 0},
        {"prompt": [7] * 600},
        {"prompt": [7] * 512},
        {"prompt": "x1" * 2000},
        {"prompt": [100000]},
        {"prompt": [100000], "stream": True},
        {"logit_bias": {"100000": 1}},
        {"best_of": 4, "n": 2, "temperature": 1, "seed": 3, "logprobs": 1},
        {"best_of": 3, "temperature": 1, "seed": 3, "echo": True},
        {"suffix": " dog", "prompt": ["fox", "cat"]},
        {"truncate_prompt_tokens": 3},
        {"truncate_prompt_tokens": 3, "echo": True, "stream": True},
        {"bad_words": [""]},
        {"truncate_prompt_tokens": 0},
        {"max_tokens": 900, "min_tokens": 800},
        {"stop_token_ids": [100000]},
        {"max_tokens": 5000},
        {"ignore_eos": True, "min_tokens": 3, "top_k": 3, "repetition_penalty": 1.2},
    ],
    ids=str,
)
async def test_completions_agree(
    inprocess: httpx.AsyncClient, over_http: httpx.AsyncClient, extra: dict[str, Any]
) -> None:
    answers = [await client.post("/v1/completions", json=COMPLETION | extra) for client in (inprocess, over_http)]
    assert answers[0].status_code == answers[1].status_code
    if "text/event-stream" in answers[0].headers["content-type"]:
        # The boundaries between chunks depend on timing, but the joined text does not.
        sums = [_sum(answer.text) for answer in answers]
    else:
        sums = [_without_identity(answer.json()) for answer in answers]
    assert sums[0] == sums[1]


TOOL = {
    "type": "function",
    "function": {
        "name": "f",
        "parameters": {"type": "object", "properties": {"a": {"enum": ["x", "y"]}}, "required": ["a"]},
    },
}
CALL = '<tool_call>\n{"name": "f", "arguments": {"a": "x"}}\n</tool_call>'
SCHEMA = {"type": "object", "properties": {"a": {"enum": ["x", "y"]}}, "required": ["a"]}
SPOKEN = {"chat_template_kwargs": {"enable_thinking": False}}
CHAT = {"model": "tiny-gen", "messages": [{"role": "user", "content": PROMPT}], "temperature": 0}


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
@pytest.mark.parametrize(
    "extra",
    [
        {},
        SPOKEN,
        {"include_reasoning": False},
        {"reasoning_effort": "none"},
        SPOKEN | {"logprobs": True, "top_logprobs": 3},
        SPOKEN | {"logprobs": True},
        SPOKEN | {"n": 2, "temperature": 1, "seed": 4},
        SPOKEN | {"n": 2},
        SPOKEN | {"tools": [TOOL]},
        SPOKEN | {"tools": [TOOL], "tool_choice": "none"},
        SPOKEN | {"tools": [TOOL], "structured_outputs": {"choice": [CALL]}, "max_tokens": 150},
        SPOKEN | {"tools": [TOOL], "structured_outputs": {"choice": ["Hm. " + CALL]}, "max_tokens": 150},
        SPOKEN | {"structured_outputs": {"choice": ["yes", "no"]}},
        SPOKEN
        | {"response_format": {"type": "json_schema", "json_schema": {"name": "s", "schema": {"type": "n"}}}},
        SPOKEN | {"guided_regex": "(a{1,1000}){1,1000}{1,1000}"},
        SPOKEN | {"stop": ["a"], "max_tokens": 40, "logit_bias": {"0": -100}},
        {"messages": [{"role": "user", "content": "x1" * 2000}]},
        {"messages": [{"role": "user", "content": "x"}, {"role": "developer", "content": "y"}]},
        SPOKEN | {"truncate_prompt_tokens": 5},
        {"max_tokens": 5000},
        {"messages": [{"role": "assistant", "content": "a"}], "continue_final_message": True},
    ],
    ids=lambda extra: str(extra)[:90],
)
async def test_chat_completions_agree(
    inprocess: httpx.AsyncClient, over_http: httpx.AsyncClient, extra: dict[str, Any], stream: bool
) -> None:
    body = CHAT | {"max_tokens": 12, "stream": stream} | extra
    if stream:
        body["stream_options"] = {"include_usage": True}
    answers = [await client.post("/v1/chat/completions", json=body) for client in (inprocess, over_http)]
    assert answers[0].status_code == answers[1].status_code, [answer.text for answer in answers]
    if "text/event-stream" in answers[0].headers["content-type"]:
        sums = [_chat_sum(answer.text) for answer in answers]
    else:
        sums = [_without_identity(answer.json()) for answer in answers]
    assert sums[0] == sums[1]


def _chat_sum(stream: str) -> list[dict[str, Any]]:
    """The joined chunks of each choice."""
    chunks = _events(stream)
    sums: dict[int, dict[str, Any]] = {}
    for choice in (choice for chunk in chunks for choice in chunk["choices"]):
        own = sums.setdefault(choice["index"], {"fields": set(), "reasons": [], "tokens": []})
        own["reasons"] += [choice["finish_reason"]] if choice["finish_reason"] else []
        own["tokens"] += [token["token"] for token in (choice["logprobs"] or {"content": []})["content"]]
        own["fields"] |= choice["delta"].keys()
        for name in ("content", "reasoning_content"):
            own[name] = own.get(name, "") + (choice["delta"].get(name) or "")
        for call in choice["delta"].get("tool_calls", []):
            key = f"call {call['index']}"
            function = call["function"]
            own[key] = own.get(key, "") + function.get("name", "") + function["arguments"]
    return [*sums.values(), _without_identity(chunks[-1]["usage"])]


def _events(stream: str) -> list[dict[str, Any]]:
    *events, done = [event.removeprefix("data: ") for event in stream.strip().split("\n\n")]
    assert done == "[DONE]"
    return [json.loads(event) for event in events]


def _sum(stream: str) -> dict[str, Any]:
    chunks = _events(stream)
    choices = [choice for chunk in chunks for choice in chunk["choices"]]
    return {
        "text": "".join(choice["text"] for choice in choices),
        "tokens": [token for choice in choices for token in (choice["logprobs"] or {}).get("tokens", [])],
        "offsets": [offset for choice in choices for offset in (choice["logprobs"] or {}).get("text_offset", [])],
        "reasons": [choice["finish_reason"] for choice in choices if choice["finish_reason"]],
        "usage": [_without_identity(chunk["usage"]) for chunk in chunks if chunk.get("usage")],
        "fields": sorted({key for chunk in chunks for key in chunk}),
    }


@pytest.mark.parametrize("encoding_format", ["float", "base64"])
async def test_embeddings_agree(
    inprocess: httpx.AsyncClient, over_http: httpx.AsyncClient, encoding_format: str
) -> None:
    body = EMBEDDING | {"encoding_format": encoding_format}
    answers = [(await client.post("/v1/embeddings", json=body)).json() for client in (inprocess, over_http)]
    rows = [[_vector(item["embedding"]) for item in answer["data"]] for answer in answers]
    for left, right in zip(*rows, strict=True):
        assert sum(a * b for a, b in zip(left, right, strict=True)) > 0.99999
    for answer in answers:
        for item in answer["data"]:
            del item["embedding"]
    assert answers[0] == answers[1]


def _vector(embedding: str | list[float]) -> list[float]:
    if isinstance(embedding, str):
        return array.array("f", base64.b64decode(embedding)).tolist()
    return embedding


@pytest.mark.parametrize(
    "extra",
    [
        {"input": [7] * 600},
        {"input": "x1" * 2000},
        {"input": [100000]},
        {"dimensions": 10},
        {"dimensions": 64},
        {"input": [[5] * 500] * 601},
        {"truncate_prompt_tokens": 600},
        {"input": []},
        {"model": "tiny-gen"},
    ],
    ids=str,
)
async def test_embedding_errors_agree(
    inprocess: httpx.AsyncClient, over_http: httpx.AsyncClient, extra: dict[str, Any]
) -> None:
    body = EMBEDDING | {"encoding_format": "base64"} | extra
    answers = [await client.post("/v1/embeddings", json=body) for client in (inprocess, over_http)]
    assert answers[0].status_code == answers[1].status_code
    if answers[0].status_code != 200:
        assert answers[0].json() == answers[1].json()


@pytest.mark.parametrize(
    "extra", [{"dimensions": 16}, {"input": [7] * 600, "truncate_prompt_tokens": -1}], ids=str
)
async def test_embeddings_with_options_agree(
    inprocess: httpx.AsyncClient, over_http: httpx.AsyncClient, extra: dict[str, Any]
) -> None:
    body = EMBEDDING | extra
    answers = [(await client.post("/v1/embeddings", json=body)).json() for client in (inprocess, over_http)]
    rows = [[item["embedding"] for item in answer["data"]] for answer in answers]
    assert [len(row) for row in rows[0]] == [len(row) for row in rows[1]]
    for left, right in zip(*rows, strict=True):
        assert sum(a * b for a, b in zip(left, right, strict=True)) > 0.99999
    assert answers[0]["usage"] == answers[1]["usage"]


@pytest.mark.parametrize(
    "body",
    [
        {"prompt": PROMPT, "return_token_strs": True},
        {"prompt": PROMPT, "model": "tiny-embed"},
        {"messages": CHAT["messages"]},
        {"messages": CHAT["messages"], "tools": [TOOL], "add_generation_prompt": False},
        {"messages": CHAT["messages"], "chat_template_kwargs": {"enable_thinking": False}},
        {"prompt": PROMPT, "model": "unknown"},
    ],
    ids=str,
)
async def test_tokenization_agrees(
    inprocess: httpx.AsyncClient, over_http: httpx.AsyncClient, body: dict[str, Any]
) -> None:
    answers = [await client.post("/tokenize", json=body) for client in (inprocess, over_http)]
    assert answers[0].status_code == answers[1].status_code
    assert answers[0].json() == answers[1].json()


async def test_models_agree(inprocess: httpx.AsyncClient, over_http: httpx.AsyncClient) -> None:
    lists = [(await client.get("/v1/models")).json() for client in (inprocess, over_http)]
    assert [model["id"] for model in lists[0]["data"]] == [model["id"] for model in lists[1]["data"]]
    assert [model["max_model_len"] for model in lists[0]["data"]] == [512, 512]
