"""Prompt and answer together, over HTTP: what is counted, and on what."""

import json
from typing import Any

import httpx
import pytest

from adapters.vllm.dialect.context_length import MAX_COUNTED_CHARACTERS, needs_counting
from adapters.vllm.http.backend import VLLMHTTPBackend
from adapters.vllm.http.tracing import TRACE
from domain.conversation import Conversation, UserMessage
from domain.errors import BackendUnreachableError, ContextLengthError
from domain.port import RequestContext
from domain.requests import GenerationRequest
from domain.roles import Role
from domain.sampling import SamplingParameters
from tests.calls import events_of
from tests.unit.test_http_backend import CHUNK, CONTEXT, USAGE, Server, backend, events

LIMIT = 4096
TOO_LONG = (
    "This model's maximum context length is 4096 tokens. However, your prompt contains at least 4097 input tokens."
)
COMPLETION = (200, json.dumps(USAGE | CHUNK).encode())


def request(prompt: Any, *, max_tokens: int | None, **fields: Any) -> GenerationRequest:
    return GenerationRequest(prompt=prompt, sampling=SamplingParameters(max_tokens=max_tokens), **fields)


def talk(text: str, **fields: Any) -> Conversation:
    return Conversation(messages=[UserMessage(content=text)], **fields)


def tokens(count: int) -> tuple[int, bytes]:
    return 200, json.dumps({"tokens": [1] * count}).encode()


class RecordingServer(Server):
    """Also records the paths."""

    def __init__(self, **answers: tuple[int, bytes]) -> None:
        super().__init__(**{"completions": COMPLETION, **answers})
        self.paths: list[str] = []

    async def __call__(self, scope, receive, send) -> None:
        self.paths.append(scope["path"])
        await super().__call__(scope, receive, send)


async def run(server: RecordingServer, asked: GenerationRequest, *, stream: bool = False) -> list:
    engine = backend(server)
    await engine.start()
    server.paths.clear()
    return await events_of(engine, asked, CONTEXT, streams=stream)


@pytest.mark.parametrize("prompt", ["x" * 1000, [1] * 3000, talk("x" * 500)], ids=["text", "tokens", "chat"])
async def test_a_request_that_fits_in_any_case_is_not_counted(prompt):
    server = RecordingServer()
    await run(server, request(prompt, max_tokens=1000))
    assert len(server.paths) == 1


@pytest.mark.parametrize("asked", [{"max_tokens": None}, {"max_tokens": 9999, "truncate_prompt_tokens": -1}])
async def test_an_answer_that_takes_what_is_left_is_not_counted(asked):
    server = RecordingServer()
    await run(server, request("x" * 5000, **asked))
    assert server.paths == ["/v1/completions"]


@pytest.mark.parametrize("stream", [False, True])
async def test_an_answer_that_does_not_fit_never_reaches_the_engine(stream):
    server = RecordingServer(tokenize=tokens(3000))
    for prompt, param in (("x" * 9000, "prompt"), (talk("x" * 9000), "messages")):
        with pytest.raises(ContextLengthError) as caught:
            await run(server, request(prompt, max_tokens=1097), stream=stream)
        assert caught.value.param == param
        assert f"4097 tokens (3000 in the {param}, 1097 in the completion)" in caught.value.message
        assert server.paths == ["/tokenize"]


async def test_an_answer_that_just_fits_is_generated():
    server = RecordingServer(tokenize=tokens(3000), completions=(200, events(CHUNK, USAGE, "[DONE]")))
    await run(server, request("x" * 9000, max_tokens=1096), stream=True)
    assert server.paths == ["/tokenize", "/v1/completions"]


async def test_token_ids_are_counted_here():
    server = RecordingServer()
    with pytest.raises(ContextLengthError, match="3000 in the prompt"):
        await run(server, request([1] * 3000, max_tokens=1097))
    assert server.paths == []


async def test_only_the_generation_is_traced():
    server = RecordingServer(tokenize=tokens(1))
    traced: list[tuple[str, bool]] = []

    class Transport(httpx.ASGITransport):
        async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
            traced.append((request.url.path, TRACE in request.extensions))
            return await super().handle_async_request(request)

    engine = VLLMHTTPBackend(role=Role.GENERATE, base_url="http://server", transport=Transport(server))
    await engine.start()
    context = RequestContext(request_id="a", trace={"traceparent": "00-1-1-01"})
    await engine.call(request("x" * 9000, max_tokens=10), context)
    assert traced[1:] == [("/tokenize", False), ("/v1/completions", True)]


@pytest.mark.parametrize("refusal", [(404, b"{}"), (400, b'{"error": {"message": "No template."}}')])
async def test_a_server_that_can_not_count_generates(refusal):
    server = RecordingServer(tokenize=refusal)
    await run(server, request("x" * 9000, max_tokens=1097))
    assert server.paths == ["/tokenize", "/v1/completions"]


async def test_a_prompt_is_counted_as_the_template_renders_it():
    server = RecordingServer(tokenize=tokens(1))
    asked = talk("x" * 9000, reasoning_effort="none", documents=[{"text": "d"}], template_arguments={"a": 1})
    # The response is a completion's, which has neither message nor delta.
    await run(server, request(asked, max_tokens=10, add_special_tokens=True))
    ((_, counted),) = [sent for sent in server.requests if "return_token_strs" in (sent[1] or {})]
    assert counted["chat_template_kwargs"] == {
        "reasoning_effort": "none",
        "enable_thinking": False,
        "documents": [{"text": "d"}],
        "a": 1,
    }
    assert counted["add_special_tokens"] is True


@pytest.mark.parametrize("stream", [False, True])
async def test_the_servers_refusal_gets_the_number_of_tokens(stream):
    refused = (400, json.dumps({"error": {"message": TOO_LONG}}).encode())
    server = RecordingServer(tokenize=tokens(5000), completions=refused)
    for prompt, param in (("x" * 9000, "prompt"), (talk("x" * 9000), "messages")):
        with pytest.raises(ContextLengthError) as caught:
            await run(server, request(prompt, max_tokens=None), stream=stream)
        assert f"Your {param} resulted in 5000 tokens." in caught.value.message


async def test_without_a_count_the_servers_refusal_remains():
    refused = (400, json.dumps({"error": {"message": TOO_LONG}}).encode())
    with pytest.raises(ContextLengthError, match="resulted in more than 4096 tokens"):
        await run(RecordingServer(completions=refused), request("x" * 9000, max_tokens=None))
    server = RecordingServer(completions=refused, tokenize=tokens(5000))
    with pytest.raises(ContextLengthError, match="resulted in more than 4096 tokens"):
        await run(server, request("x" * (MAX_COUNTED_CHARACTERS + 1), max_tokens=1))
    assert server.paths == ["/v1/completions"]


async def test_a_server_that_goes_away_while_it_counts_is_unreachable():
    class Gone(RecordingServer):
        async def __call__(self, scope, receive, send) -> None:
            if scope["path"] == "/tokenize":
                raise httpx.ConnectError("refused")
            await super().__call__(scope, receive, send)

    with pytest.raises(BackendUnreachableError):
        await run(Gone(), request("x" * 9000, max_tokens=1097))


def test_a_text_has_at_most_as_many_tokens_as_bytes():
    assert not needs_counting(request("x" * 80, max_tokens=4), "x" * 80, 100)
    assert needs_counting(request("é" * 80, max_tokens=4), "é" * 80, 100)
