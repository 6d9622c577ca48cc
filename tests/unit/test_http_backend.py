"""What the contract can't show with a good server: one that lies, stammers or speaks another language."""

import gzip
import json
from typing import Any

import httpx
import pytest

from adapters.vllm_http.backend import VLLMHTTPBackend
from domain.backend import (
    EmbeddingRequest,
    GenerationDelta,
    GenerationRequest,
    GenerationUsage,
    RequestContext,
    Role,
    SamplingParameters,
)
from domain.errors import (
    BackendFailedError,
    BackendUnavailableError,
    ContextLengthError,
    InferenceError,
    WrongEndpointError,
)

CONTEXT = RequestContext(request_id="the-id")
MODELS = {"data": [{"id": "first", "max_model_len": 256}, {"id": "second", "max_model_len": 128}]}
CHUNK = {"choices": [{"index": 0, "text": "ab", "finish_reason": "length"}]}
USAGE = {"choices": [], "usage": {"prompt_tokens": 3, "completion_tokens": 1}}


class Server:
    """One scripted answer for each path, as an ASGI application; keeps the requests."""

    def __init__(self, **answers: tuple[int, bytes]) -> None:
        self.answers = {"models": (200, json.dumps(MODELS).encode()), "health": (200, b""), **answers}
        self.requests: list[tuple[dict[str, str], Any]] = []
        self.compresses = False

    async def __call__(self, scope, receive, send) -> None:
        body = (await receive())["body"]
        headers = {name.decode(): value.decode() for name, value in scope["headers"]}
        self.requests.append((headers, json.loads(body) if body else None))
        status, answer = self.answers[scope["path"].rpartition("/")[2]]
        sent = []
        if self.compresses and "gzip" in headers.get("accept-encoding", ""):
            answer, sent = gzip.compress(answer), [(b"content-encoding", b"gzip")]
        await send({"type": "http.response.start", "status": status, "headers": sent})
        await send({"type": "http.response.body", "body": answer})


def backend(server: Server, role: Role = Role.GENERATE, **options: Any) -> VLLMHTTPBackend:
    transport = httpx.ASGITransport(server)
    return VLLMHTTPBackend(role=role, base_url="http://server/v1", transport=transport, **options)


def events(*parts: Any) -> bytes:
    texts = [part if isinstance(part, str) else json.dumps(part) for part in parts]
    return "".join(f"data: {text}\n\n" for text in texts).encode()


async def generated(server: Server, *, stream: bool = True, max_tokens: int = 1) -> list:
    engine = backend(server)
    await engine.start()
    request = GenerationRequest(prompt="x", stream=stream, sampling=SamplingParameters(max_tokens=max_tokens))
    return [event async for event in engine.generate(request, CONTEXT)]


async def embedded(server: Server) -> Any:
    engine = backend(server, Role.EMBED)
    await engine.start()
    return await engine.embed(EmbeddingRequest(inputs=["x"]), CONTEXT)


async def test_without_a_name_the_first_model_of_the_server_is_served():
    card = await backend(Server()).start()
    assert (card.name, card.max_model_len, card.role) == ("first", 256, Role.GENERATE)


async def test_a_name_picks_the_servers_model():
    card = await backend(Server(), model="second").start()
    assert (card.name, card.max_model_len) == ("second", 128)


async def test_a_model_that_the_server_lacks_is_told_with_those_that_it_has():
    with pytest.raises(BackendUnavailableError, match=r"'third'.*first, second"):
        await backend(Server(), model="third").start()


async def test_a_server_without_any_model_is_told_in_a_whole_sentence():
    with pytest.raises(BackendUnavailableError) as caught:
        await backend(Server(models=(200, b'{"data": []}'))).start()
    assert "None" not in caught.value.message


@pytest.mark.parametrize("status", [502, 503, 504])
async def test_a_proxy_whose_server_is_still_starting_is_worth_another_try(status):
    with pytest.raises(BackendUnavailableError):
        await backend(Server(models=(status, b"<html>Bad Gateway</html>"))).start()


@pytest.mark.parametrize(
    "answer", [(200, b"<html>"), (200, b"[]"), (200, b'{"data": "\xff"}'), (404, b"{}"), (401, b"{}")]
)
async def test_something_else_than_a_vllm_server_has_failed(answer):
    with pytest.raises(BackendFailedError):
        await backend(Server(models=answer)).start()


async def test_nothing_is_sent_before_the_start():
    server = Server()
    with pytest.raises(BackendUnavailableError):
        await backend(server, Role.EMBED).embed(EmbeddingRequest(inputs=["x"]), CONTEXT)
    assert server.requests == []


async def test_the_key_and_the_request_id_are_sent():
    server = Server(completions=(200, events(CHUNK, USAGE, "[DONE]")))
    engine = backend(server, api_key="the-key")
    await engine.start()
    [
        _
        async for _ in engine.generate(
            GenerationRequest(prompt="x", sampling=SamplingParameters(), stream=True), CONTEXT
        )
    ]
    headers = [headers for headers, _ in server.requests]
    assert [one["authorization"] for one in headers] == ["Bearer the-key"] * 2
    assert headers[1]["x-request-id"] == "the-id"


async def test_without_a_key_none_is_sent():
    server = Server()
    await backend(server).start()
    assert "authorization" not in server.requests[0][0]


async def test_a_stream_becomes_deltas_and_one_usage():
    delta, usage = await generated(Server(completions=(200, events(CHUNK, USAGE, "[DONE]"))))
    assert (type(delta), delta.text) == (GenerationDelta, "ab")
    assert usage == GenerationUsage(prompt_tokens=3, completion_tokens=1)


async def test_a_whole_answer_becomes_one_delta_and_one_usage():
    server = Server(completions=(200, json.dumps(USAGE | CHUNK).encode()))
    delta, usage = await generated(server, stream=False)
    assert delta.text == "ab"
    assert usage == GenerationUsage(prompt_tokens=3, completion_tokens=1)


async def test_the_step_for_an_echo_alone_is_nobodys_completion_token():
    events_ = await generated(Server(completions=(200, events(CHUNK, USAGE, "[DONE]"))), max_tokens=0)
    assert events_[-1].completion_tokens == 0


async def test_a_compressed_stream_is_understood_or_not_asked_for():
    server = Server(completions=(200, events(CHUNK, USAGE, "[DONE]")))
    server.compresses = True
    assert len(await generated(server)) == 2


@pytest.mark.parametrize(
    "answer",
    [
        events(CHUNK, USAGE),
        events(CHUNK, "[DONE]"),
        b"",
        b"<html>",
        events("{"),
        events({"choices": [{"text": "no index"}]}),
        events({"choices": [{"index": 0, "text": "x", "finish_reason": "abort"}]}),
        events(CHUNK, {"error": {"message": "Broken.", "code": 500}}),
        events(
            {"choices": [{"index": 0, "logprobs": {"tokens": ["a"], "token_logprobs": [], "top_logprobs": []}}]}
        ),
    ],
    ids=["no end", "no usage", "empty", "html", "no json", "no index", "abort", "error", "uneven lists"],
)
async def test_a_stream_that_is_not_whole_is_a_failure(answer):
    with pytest.raises(BackendFailedError):
        await generated(Server(completions=(200, answer)))


async def test_a_refusal_inside_a_stream_is_a_refusal():
    error = {"error": {"message": "This model's maximum context length is 256 tokens.", "code": 400}}
    with pytest.raises(ContextLengthError):
        await generated(Server(completions=(200, events(error))))


@pytest.mark.parametrize(
    "answer",
    [
        b"<html>",
        b'{"data": [], "usage": {"prompt_tokens": 1}}',
        b'{"data": [{"index": 0, "embedding": [0.5]}], "usage": {"prompt_tokens": 1}}',
        b'{"data": [{"index": 0, "embedding": "AAAAA"}], "usage": {"prompt_tokens": 1}}',
        b'{"data": [{"index": 0, "embedding": "AAA="}], "usage": {"prompt_tokens": 1}}',
    ],
    ids=["html", "no vector", "numbers", "no base64", "half a number"],
)
async def test_vectors_that_are_not_whole_are_a_failure(answer):
    with pytest.raises(BackendFailedError):
        await embedded(Server(embeddings=(200, answer)))


async def test_dimensions_that_are_the_models_own_are_not_sent():
    # vLLM refuses the parameter for models of one size, even where it says that size.
    answer = b'{"data": [{"index": 0, "embedding": "AACAPwAAAAA="}], "usage": {"prompt_tokens": 1}}'
    server = Server(embeddings=(200, answer))
    engine = backend(server, Role.EMBED)
    await engine.start()
    for dimensions in (None, 2, 3):
        await engine.embed(EmbeddingRequest(inputs=["x"], dimensions=dimensions), CONTEXT)
    assert [body.get("dimensions") for _, body in server.requests[1:]] == [None, None, 3]


async def test_an_unhealthy_server_fails_its_probe():
    server = Server()
    engine = backend(server)
    await engine.probe()
    server.answers["health"] = (500, b"")
    with pytest.raises(BackendUnavailableError):
        await engine.probe()


@pytest.mark.parametrize("role", Role)
async def test_a_method_for_the_other_role_is_refused(role):
    engine = backend(Server(), role)
    await engine.start()
    generation = GenerationRequest(prompt="x", sampling=SamplingParameters())
    work = {
        Role.EMBED: lambda: anext(engine.generate(generation, CONTEXT)),
        Role.GENERATE: lambda: engine.embed(EmbeddingRequest(inputs=["x"]), CONTEXT),
    }
    with pytest.raises(WrongEndpointError):
        await work[role]()


async def test_a_stopped_backend_raises_the_domains_errors_alone():
    engine = backend(Server(), Role.EMBED)
    await engine.start()
    await engine.stop()
    await engine.stop()
    with pytest.raises(InferenceError):
        await engine.embed(EmbeddingRequest(inputs=["x"]), CONTEXT)
    with pytest.raises(InferenceError):
        await engine.probe()
