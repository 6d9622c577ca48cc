"""The HTTP backend with servers that fail, send invalid responses or are not vLLM."""

import array
import asyncio
import base64
import gzip
import json
import struct
from typing import Any

import httpx
import pytest

from adapters.vllm.dialect.pattern import length_pattern
from adapters.vllm.http.backend import VLLMHTTPBackend
from adapters.vllm.http.embedding import BATCH_SIZE
from adapters.vllm.http.server import Timeouts
from domain.conversation import Conversation, Function, ToolChoice, UserMessage
from domain.errors import (
    BackendBusyError,
    BackendFailedError,
    BackendUnavailableError,
    ContextLengthError,
    InferenceError,
    InvalidRequestError,
    TooManyTokensError,
    WrongEndpointError,
)
from domain.port import RequestContext
from domain.requests import (
    MAX_EMBEDDING_TOKENS,
    DetokenizeRequest,
    EmbeddingRequest,
    GenerationRequest,
    ScoreRequest,
    TokenizeRequest,
)
from domain.results import GenerationDelta, GenerationUsage, Tokenization, ToolCallDelta
from domain.roles import Role
from domain.sampling import SamplingParameters, StructuredOutputs
from tests.calls import events_of

CONTEXT = RequestContext(request_id="the-id")
MODELS = {"data": [{"id": "first", "max_model_len": 4096}, {"id": "second", "max_model_len": 128}]}
CHUNK = {"choices": [{"index": 0, "text": "ab", "finish_reason": "length"}]}
USAGE = {"choices": [], "usage": {"prompt_tokens": 3, "completion_tokens": 1}}


class Server:
    """An ASGI application with one scripted response per path, which records requests."""

    def __init__(self, **answers: tuple[int, bytes]) -> None:
        self.answers = {"models": (200, json.dumps(MODELS).encode()), "health": (200, b""), **answers}
        self.requests: list[tuple[dict[str, str], Any]] = []
        self.compresses = False

    async def __call__(self, scope, receive, send) -> None:
        body = (await receive())["body"]
        headers = {name.decode(): value.decode() for name, value in scope["headers"]}
        self.requests.append((headers, json.loads(body) if body else None))
        status, answer = self.answers.get(scope["path"].rpartition("/")[2], (404, b"{}"))
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


async def generate(server: Server, *, stream: bool = True, max_tokens: int = 1) -> list:
    engine = backend(server)
    await engine.start()
    request = GenerationRequest(prompt="x", sampling=SamplingParameters(max_tokens=max_tokens))
    return await events_of(engine, request, CONTEXT, streams=stream)


async def embed(server: Server) -> Any:
    engine = backend(server, Role.EMBED)
    await engine.start()
    return await engine.call(EmbeddingRequest(inputs=["x"]), CONTEXT)


async def score(answer: bytes, status: int = 200, **fields: Any) -> tuple[Any, Any]:
    """The scores of a server that answers in this way, and the request that it got."""
    server = Server(score=(status, answer))
    engine = backend(server, Role.RERANK)
    await engine.start()
    result = await engine.call(ScoreRequest(queries=["q"], documents=["a", "b"], **fields), CONTEXT)
    return result, server.requests[-1][1]


def scores_of(*scores: Any) -> bytes:
    data = [{"index": index, "object": "score", "score": value} for index, value in enumerate(scores)]
    return json.dumps({"data": data, "usage": {"prompt_tokens": 7, "total_tokens": 7}}).encode()


async def test_scores_are_asked_for_under_the_names_that_servers_of_all_versions_know():
    result, body = await score(scores_of(0.25, 1), max_tokens_per_doc=5, max_tokens_per_query=9999)
    assert (result.scores, result.prompt_tokens) == ([0.25, 1.0], 7)
    assert body == {"model": "first", "text_1": ["q"], "text_2": ["a", "b"], "max_tokens_per_doc": 5}


@pytest.mark.parametrize(
    "answer", [scores_of(0.5), scores_of(0.5, None), scores_of(0.5, float("nan")), b"{}", b"<html>"]
)
async def test_incomplete_scores_are_a_failure(answer):
    with pytest.raises(BackendFailedError):
        await score(answer)


@pytest.mark.parametrize("cause", ["Sequence to truncate too short to respect it", "Second sequence not provided"])
async def test_a_query_without_room_for_a_document_is_the_clients_mistake(cause):
    """vLLM answers it with status 500, which would open the circuit breaker."""
    answer = json.dumps({"error": {"message": f"Truncation error: {cause}", "type": "InternalServerError"}})
    with pytest.raises(InvalidRequestError) as caught:
        await score(answer.encode(), 500)
    assert caught.value.param == "max_tokens_per_doc"


async def test_a_server_whose_model_cant_score_is_reported():
    """vLLM has the endpoint only if the model can score."""
    with pytest.raises(BackendFailedError, match="'first', serves it for another purpose"):
        await score(b'{"detail":"Not Found"}', 404)


async def test_without_a_name_the_first_model_is_used():
    card = await backend(Server()).start()
    assert (card.name, card.max_model_len, card.role) == ("first", 4096, Role.GENERATE)


async def test_a_name_selects_the_model():
    card = await backend(Server(), model="second").start()
    assert (card.name, card.max_model_len) == ("second", 128)


async def test_an_unknown_model_error_lists_the_available_models():
    with pytest.raises(BackendUnavailableError, match=r"'third'.*first, second"):
        await backend(Server(), model="third").start()


async def test_a_server_without_models_is_reported():
    with pytest.raises(BackendUnavailableError) as caught:
        await backend(Server(models=(200, b'{"data": []}'))).start()
    assert "None" not in caught.value.message


@pytest.mark.parametrize("status", [502, 503, 504])
async def test_a_proxy_error_during_start_is_retryable(status):
    with pytest.raises(BackendUnavailableError):
        await backend(Server(models=(status, b"<html>Bad Gateway</html>"))).start()


@pytest.mark.parametrize(
    "answer", [(200, b"<html>"), (200, b"[]"), (200, b'{"data": "\xff"}'), (404, b"{}"), (401, b"{}")]
)
async def test_a_server_other_than_vllm_fails(answer):
    with pytest.raises(BackendFailedError):
        await backend(Server(models=answer)).start()


async def test_nothing_is_sent_before_the_start():
    server = Server()
    with pytest.raises(BackendUnavailableError):
        await backend(server, Role.EMBED).call(EmbeddingRequest(inputs=["x"]), CONTEXT)
    assert server.requests == []


async def test_api_key_and_request_id_are_sent():
    server = Server(completions=(200, events(CHUNK, USAGE, "[DONE]")))
    engine = backend(server, api_key="the-key")
    await engine.start()
    await events_of(engine, GenerationRequest(prompt="x", sampling=SamplingParameters()), CONTEXT)
    headers = [headers for headers, _ in server.requests]
    assert [one["authorization"] for one in headers] == ["Bearer the-key"] * 2
    assert headers[1]["x-request-id"] == "the-id"


async def test_without_an_api_key_no_authorization_is_sent():
    server = Server()
    await backend(server).start()
    assert "authorization" not in server.requests[0][0]


async def test_a_stream_becomes_deltas_and_one_usage():
    delta, usage = await generate(Server(completions=(200, events(CHUNK, USAGE, "[DONE]"))))
    assert (type(delta), delta.text) == (GenerationDelta, "ab")
    assert usage == GenerationUsage(prompt_tokens=3, completion_tokens=1)


async def test_a_whole_answer_becomes_one_delta_and_one_usage():
    server = Server(completions=(200, json.dumps(USAGE | CHUNK).encode()))
    delta, usage = await generate(server, stream=False)
    assert delta.text == "ab"
    assert usage == GenerationUsage(prompt_tokens=3, completion_tokens=1)


@pytest.mark.parametrize(("prompt_token_ids", "echoed"), [([1, 2], "cut"), ([1], "x")])
async def test_an_echo_is_decoded_from_the_truncated_tokens(prompt_token_ids, echoed):
    first = {"choices": [{"index": 0, "text": "a", "prompt_token_ids": prompt_token_ids}]}
    server = Server(
        completions=(200, events(first, CHUNK, USAGE, "[DONE]")), detokenize=(200, b'{"prompt": "cut"}')
    )
    engine = backend(server)
    await engine.start()
    request = GenerationRequest(prompt="x", echo=True, truncate_prompt_tokens=2, sampling=SamplingParameters())
    *deltas, _ = await events_of(engine, request, CONTEXT)
    assert [delta.text for delta in deltas] == [f"{echoed}a", "ab"]
    (asked,) = [body for _, body in server.requests if body and "prompt" in body]
    assert asked["return_token_ids"] is True


@pytest.mark.parametrize(("n", "streams"), [(2, False), (1, True)])
async def test_requests_that_the_server_can_not_stream_are_sent_unstreamed(n, streams):
    answer = events(CHUNK, USAGE, "[DONE]") if streams else json.dumps(USAGE | CHUNK).encode()
    server = Server(completions=(200, answer))
    engine = backend(server)
    await engine.start()
    sampling = SamplingParameters(n=n, logprobs=1)
    request = GenerationRequest(prompt="x", echo=True, sampling=sampling)
    delta, _ = await events_of(engine, request, CONTEXT)
    assert delta.text == "ab"
    body = server.requests[-1][1]
    assert (body["stream"], "stream_options" in body) == (streams, streams)


async def test_the_step_for_an_echo_is_not_counted_as_completion_token():
    events_ = await generate(Server(completions=(200, events(CHUNK, USAGE, "[DONE]"))), max_tokens=0)
    assert events_[-1].completion_tokens == 0


async def test_compression_is_not_requested():
    server = Server(completions=(200, events(CHUNK, USAGE, "[DONE]")))
    server.compresses = True
    assert len(await generate(server)) == 2


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
async def test_an_incomplete_stream_is_an_error(answer):
    with pytest.raises(BackendFailedError):
        await generate(Server(completions=(200, answer)))


async def test_a_client_error_in_a_stream_is_a_client_error():
    error = {"error": {"message": "This model's maximum context length is 256 tokens.", "code": 400}}
    with pytest.raises(ContextLengthError):
        await generate(Server(completions=(200, events(error))))


@pytest.mark.parametrize(("code", "kind"), [(400, BackendFailedError), (503, BackendUnavailableError)])
async def test_an_error_after_the_first_chunk_is_no_client_error(code, kind):
    error = {"error": {"message": "zip() argument 2 is shorter than argument 1", "code": code}}
    with pytest.raises(kind) as caught:
        await generate(Server(completions=(200, events(CHUNK, error))))
    assert "zip" not in caught.value.message


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
async def test_incomplete_vectors_are_an_error(answer):
    with pytest.raises(BackendFailedError):
        await embed(Server(embeddings=(200, answer)))


async def test_native_dimensions_are_not_sent():
    # vLLM rejects the parameter for models that are not Matryoshka models, even with the native dimensions.
    answer = b'{"data": [{"index": 0, "embedding": "AACAPwAAAAA="}], "usage": {"prompt_tokens": 1}}'
    server = Server(embeddings=(200, answer))
    engine = backend(server, Role.EMBED)
    await engine.start()
    for dimensions in (None, 2, 3):
        await engine.call(EmbeddingRequest(inputs=["x"], dimensions=dimensions), CONTEXT)
    assert [body.get("dimensions") for _, body in server.requests[1:]] == [None, None, 3]


async def test_an_unhealthy_server_fails_its_probe():
    server = Server()
    engine = backend(server)
    await engine.probe()
    server.answers["health"] = (500, b"")
    with pytest.raises(BackendUnavailableError):
        await engine.probe()


@pytest.mark.parametrize("role", Role)
async def test_an_operation_of_the_other_role_is_rejected(role):
    engine = backend(Server(), role)
    await engine.start()
    generation = GenerationRequest(prompt="x", sampling=SamplingParameters())
    work = {
        Role.EMBED: lambda: events_of(engine, generation, CONTEXT),
        Role.GENERATE: lambda: engine.call(EmbeddingRequest(inputs=["x"]), CONTEXT),
        Role.RERANK: lambda: engine.call(EmbeddingRequest(inputs=["x"]), CONTEXT),
    }
    with pytest.raises(WrongEndpointError):
        await work[role]()


async def test_a_stopped_backend_raises_only_domain_errors():
    engine = backend(Server(), Role.EMBED)
    await engine.start()
    await engine.stop()
    await engine.stop()
    with pytest.raises(InferenceError):
        await engine.call(EmbeddingRequest(inputs=["x"]), CONTEXT)
    with pytest.raises(InferenceError):
        await engine.probe()


# Chat

TALK = Conversation(messages=[UserMessage(content="hi")])


async def chat(server: Server, *, stream: bool = True, conversation: Conversation = TALK, **sampling) -> list:
    engine = backend(server)
    await engine.start()
    request = GenerationRequest(prompt=conversation, sampling=SamplingParameters(**sampling))
    return await events_of(engine, request, CONTEXT, streams=stream)


def part(finish_reason: str | None = None, **delta: Any) -> dict:
    return {"choices": [{"index": 0, "delta": delta, "finish_reason": finish_reason}]}


async def test_a_streamed_chat_becomes_deltas_and_one_usage():
    call = {"index": 0, "id": "c", "type": "function", "function": {"name": "f", "arguments": ""}}
    answer = events(
        part(role="assistant", content=""),
        part(reasoning="Hm."),
        part(content="Hi"),
        part(tool_calls=[call]),
        part("tool_calls", tool_calls=[{"index": 0, "function": {"arguments": "{}"}}]),
        USAGE | {"usage": {"prompt_tokens": 3, "completion_tokens": 4}},
        "[DONE]",
    )
    server = Server(completions=(200, answer))
    *deltas, usage = await chat(server)
    # The first chunk has only the role; empty deltas are dropped.
    assert [delta.reasoning for delta in deltas] == ["Hm.", "", "", ""]
    assert [delta.text for delta in deltas] == ["", "Hi", "", ""]
    assert [delta.tool_calls for delta in deltas[2:]] == [
        [ToolCallDelta(index=0, id="c", name="f")],
        [ToolCallDelta(index=0, arguments="{}")],
    ]
    assert [delta.finish_reason for delta in deltas] == [None] * 3 + ["stop"]
    assert usage == GenerationUsage(prompt_tokens=3, completion_tokens=4)
    assert server.requests[-1][1]["messages"] == [{"role": "user", "content": "hi"}]


async def test_a_whole_chat_becomes_one_delta_and_one_usage():
    message = {"role": "assistant", "content": "Hi", "reasoning": "Hm."}
    answer = {
        "choices": [{"index": 0, "message": message, "finish_reason": "length"}],
        "usage": {
            "prompt_tokens": 3,
            "completion_tokens": 4,
            "completion_tokens_details": {"reasoning_tokens": 2, "audio_tokens": None},
        },
    }
    delta, usage = await chat(Server(completions=(200, json.dumps(answer).encode())), stream=False)
    assert (delta.text, delta.reasoning, delta.finish_reason) == ("Hi", "Hm.", "length")
    assert usage == GenerationUsage(prompt_tokens=3, completion_tokens=4, reasoning_tokens=2)


def logprobs_of(*tokens: str) -> dict:
    return {"logprobs": {"content": [{"token": token, "logprob": -1.0, "top_logprobs": []} for token in tokens]}}


async def test_logprobs_of_a_chat_are_those_of_its_text():
    said = {"role": "assistant", "content": "Hi you", "reasoning": "Hm."}
    spoken = logprobs_of("<think>", "Hm", ".", "</think>", "Hi", " you", "<|im_end|>")
    whole = {"choices": [{"index": 0, "message": said, "finish_reason": "stop"} | spoken], "usage": USAGE["usage"]}
    server = Server(completions=(200, json.dumps(whole).encode()))
    delta, _ = await chat(server, stream=False, logprobs=0)
    assert [token.token for token in delta.logprobs] == ["Hi", " you"]
    steps = [
        part(reasoning="Hm.") | logprobs_of("<think>", "Hm", "."),
        part() | logprobs_of("</think>"),
        part(content="Hi") | logprobs_of("Hi", " you"),
        part("stop", content=" you") | logprobs_of("<|im_end|>"),
    ]
    for step in steps:
        step["choices"][0]["logprobs"] = step.pop("logprobs")
    *deltas, _ = await chat(Server(completions=(200, events(*steps, USAGE, "[DONE]"))), logprobs=0)
    assert [[token.token for token in delta.logprobs] for delta in deltas] == [[], ["Hi"], [" you"]]


@pytest.mark.parametrize(
    "answer",
    [
        events(part(content="x")),
        events(part(content="x"), "[DONE]"),
        events(part("abort", content="x"), USAGE, "[DONE]"),
        events({"choices": [{"delta": {}}]}, USAGE, "[DONE]"),
        events({"choices": [{"index": 0, "delta": {"content": 5}}]}),
    ],
    ids=["no end", "no usage", "abort", "no index", "no text"],
)
async def test_an_incomplete_chat_is_an_error(answer):
    with pytest.raises(BackendFailedError):
        await chat(Server(completions=(200, answer)))


@pytest.mark.parametrize("stream", [True, False])
async def test_too_long_a_conversation_is_reported_for_messages(stream):
    answer = (400, b'{"error": {"message": "This model\'s maximum context length is 256 tokens."}}')
    with pytest.raises(ContextLengthError) as caught:
        await chat(Server(completions=answer), stream=stream)
    assert caught.value.param == "messages"


@pytest.mark.parametrize("stream", [True, False])
async def test_a_server_error_with_structured_outputs_is_reported_for_their_field(stream):
    form = StructuredOutputs(json={"$ref": "#"})
    with pytest.raises(InvalidRequestError) as caught:
        await chat(
            Server(completions=(500, b"{}")),
            stream=stream,
            structured_outputs=form,
            structured_outputs_param="response_format",
        )
    assert caught.value.param == "response_format"


@pytest.mark.parametrize(
    ("reasoning_tokens", "error"), [(3, BackendFailedError), (0, InvalidRequestError), (None, InvalidRequestError)]
)
@pytest.mark.parametrize("stream", [True, False])
async def test_after_reasoning_structured_outputs_are_not_at_fault(stream, reasoning_tokens, error):
    usage = {"prompt_tokens": 1, "completion_tokens": 4}
    if reasoning_tokens is not None:
        usage["completion_tokens_details"] = {"reasoning_tokens": reasoning_tokens}
    choice = {"index": 0, "message": {"content": "x"}, "finish_reason": "length"}

    class Failing(Server):
        """Fails on the chat, but not on the short one that checks for reasoning."""

        async def __call__(self, scope, receive, send):
            chats = [body for _, body in self.requests if body and "messages" in body]
            self.answers["completions"] = (500, b"{}") if not chats else (200, json.dumps(short).encode())
            await super().__call__(scope, receive, send)

    short = {"choices": [choice], "usage": usage}
    with pytest.raises(error, match="try again" if error is BackendFailedError else "can't satisfy"):
        await chat(Failing(completions=(500, b"{}")), stream=stream, structured_outputs=StructuredOutputs(json={}))


async def test_without_structured_outputs_it_is_the_servers_error():
    with pytest.raises(BackendFailedError):
        await chat(Server(completions=(500, b"{}")))


# Structured outputs of completions, which a server with a reasoning parser would ignore


class ReasoningServer:
    """A server that may report reasoning tokens in chat completions."""

    def __init__(self, chat: dict | None, *, status: int = 200) -> None:
        self.chat = chat
        self.status = status
        self.asked: list[str] = []

    def __call__(self, request: httpx.Request) -> httpx.Response:
        if request.method == "GET":
            return httpx.Response(200, json=MODELS)
        self.asked.append(request.url.path)
        if request.url.path == "/v1/chat/completions":
            return httpx.Response(self.status, json=self.chat)
        return httpx.Response(200, json=USAGE | CHUNK)


async def completed(server: ReasoningServer, form: StructuredOutputs | None, *, times: int = 1) -> None:
    engine = VLLMHTTPBackend(role=Role.GENERATE, base_url="http://server", transport=httpx.MockTransport(server))
    await engine.start()
    sampling = SamplingParameters(structured_outputs=form, structured_outputs_param="guided_regex")
    for _ in range(times):
        assert await engine.call(GenerationRequest(prompt="x", sampling=sampling), CONTEXT)


STRUCTURED = StructuredOutputs(regex="a+")
WITH_REASONING_TOKENS = {"usage": {"prompt_tokens": 1, "completion_tokens_details": {"reasoning_tokens": 0}}}


async def test_structured_outputs_that_would_be_ignored_are_rejected():
    server = ReasoningServer(WITH_REASONING_TOKENS)
    with pytest.raises(InvalidRequestError) as caught:
        await completed(server, STRUCTURED)
    assert (caught.value.param, caught.value.code) == ("guided_regex", "unsupported_parameter")
    assert "/v1/completions" not in server.asked


@pytest.mark.parametrize(
    "server",
    [
        ReasoningServer({"usage": {"prompt_tokens": 1}}),
        ReasoningServer({"usage": {"prompt_tokens": 1, "completion_tokens_details": None}}),
        ReasoningServer({"error": {"message": "default chat template is no longer allowed"}}, status=400),
    ],
    ids=["no reasoning", "null", "no chat"],
)
async def test_a_server_without_reasoning_parser_is_checked_once(server):
    await completed(server, STRUCTURED, times=2)
    assert server.asked == ["/v1/chat/completions", "/v1/completions", "/v1/completions"]


async def test_without_structured_outputs_nothing_is_checked():
    server = ReasoningServer(WITH_REASONING_TOKENS)
    await completed(server, None)
    assert server.asked == ["/v1/completions"]


# Tokens


async def test_tokenize_returns_strings():
    server = Server(tokenize=(200, b'{"tokens": [5, 6], "token_strs": ["a", "b"], "count": 2}'))
    engine = backend(server)
    await engine.start()
    found = await engine.call(TokenizeRequest(prompt="ab", with_strings=True), CONTEXT)
    assert found == Tokenization(token_ids=[5, 6], strings=["a", "b"])
    assert server.requests[-1][0]["x-request-id"] == "the-id"


@pytest.mark.parametrize("role", Role)
async def test_both_roles_detokenize(role):
    server = Server(detokenize=(200, b'{"prompt": "ab"}'))
    engine = backend(server, role)
    await engine.start()
    assert await engine.call(DetokenizeRequest(token_ids=[5, 6]), CONTEXT) == "ab"
    assert server.requests[-1][1] == {"model": "first", "tokens": [5, 6]}


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ((200, b"<html>"), BackendFailedError),
        ((200, b"{}"), BackendFailedError),
        ((500, b"{}"), BackendFailedError),
        ((503, b"{}"), BackendUnavailableError),
        ((400, b'{"error": {"message": "Token id 999 is out of vocabulary"}}'), InvalidRequestError),
    ],
    ids=str,
)
async def test_tokenizer_failures_are_domain_errors(answer, expected):
    engine = backend(Server(tokenize=answer, detokenize=answer))
    await engine.start()
    with pytest.raises(expected):
        await engine.call(TokenizeRequest(prompt="x"), CONTEXT)
    with pytest.raises(expected) as caught:
        await engine.call(DetokenizeRequest(token_ids=[999]), CONTEXT)
    assert expected is not InvalidRequestError or caught.value.param == "tokens"


# Many inputs, and shorter vectors


class Embedder:
    """A server that returns the number in each text as the first element of its vector."""

    def __init__(self, model: dict | None = None, *, tokens_each: int = 1) -> None:
        self.model = {"id": "m", **(model or {})}
        self.tokens_each = tokens_each
        self.bodies: list[dict] = []
        self.at_once = self.most_at_once = 0
        self.status = 200

    async def __call__(self, request: httpx.Request) -> httpx.Response:
        if request.method == "GET":
            return httpx.Response(200, json={"data": [self.model]})
        body = json.loads(request.content)
        self.bodies.append(body)
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        # Later batches finish earlier.
        for _ in range(max(50, 90 - 10 * len(self.bodies))):
            await asyncio.sleep(0)
        self.at_once -= 1
        if self.status != 200 and "0" not in body["input"]:
            return httpx.Response(self.status, json={"error": {"message": "maximum context length"}})
        rows = [struct.pack("<3f", float(text), 3.0, 4.0) for text in body["input"]]
        data = [{"index": index, "embedding": base64.b64encode(row).decode()} for index, row in enumerate(rows)]
        usage = {"prompt_tokens": self.tokens_each * len(rows)}
        return httpx.Response(200, json={"data": data, "usage": usage})


async def asked(server: Embedder, inputs: list, dimensions: int | None = None):
    transport = httpx.MockTransport(server)
    engine = VLLMHTTPBackend(role=Role.EMBED, base_url="http://server", transport=transport)
    await engine.start()
    return await engine.call(EmbeddingRequest(inputs=inputs, dimensions=dimensions), CONTEXT)


def rows_of(result) -> list[list[float]]:
    flat = array.array("f", result.vectors).tolist()
    return [flat[start : start + result.dimensions] for start in range(0, len(flat), result.dimensions)]


@pytest.mark.parametrize("count", [1, BATCH_SIZE, BATCH_SIZE + 1, 2048])
async def test_many_inputs_are_batched_and_keep_their_order(count):
    server = Embedder()
    result = await asked(server, [str(number) for number in range(count)])
    assert [row[0] for row in rows_of(result)] == [float(number) for number in range(count)]
    assert result.prompt_tokens == count
    assert max(len(body["input"]) for body in server.bodies) <= BATCH_SIZE
    assert sum(len(body["input"]) for body in server.bodies) == count
    assert server.most_at_once == min(4, len(server.bodies))


async def test_one_rejected_batch_rejects_the_request():
    server = Embedder()
    server.status = 400
    with pytest.raises(ContextLengthError) as caught:
        await asked(server, [str(number) for number in range(3 * BATCH_SIZE)])
    assert caught.value.param == "input"


async def test_too_many_token_ids_are_rejected_before_sending():
    server = Embedder()
    with pytest.raises(TooManyTokensError):
        await asked(server, [[5] * 1000] * (MAX_EMBEDDING_TOKENS // 1000 + 1))
    assert server.bodies == []


async def test_too_many_tokens_are_rejected_by_the_servers_count():
    server = Embedder(tokens_each=MAX_EMBEDDING_TOKENS // 2)
    assert (await asked(server, ["0", "1"])).prompt_tokens == MAX_EMBEDDING_TOKENS
    with pytest.raises(TooManyTokensError):
        await asked(server, ["0", "1", "2"])


@pytest.mark.parametrize(
    "model", [{"id": "Qwen3-Embedding-0.6B"}, {"root": "models/qwen3-embedding-0.6b"}], ids=str
)
async def test_vectors_of_matryoshka_models_are_shortened_here(model):
    server = Embedder(model)
    result = await asked(server, ["0"], dimensions=2)
    assert rows_of(result) == [pytest.approx([0.0, 1.0])]
    assert "dimensions" not in server.bodies[0]


async def test_vectors_can_not_be_lengthened():
    with pytest.raises(InvalidRequestError) as caught:
        await asked(Embedder({"id": "qwen3-embedding"}), ["0"], dimensions=4)
    assert (caught.value.param, caught.value.code) == ("dimensions", "unsupported_value")


async def test_other_models_get_the_dimensions_parameter():
    server = Embedder()
    await asked(server, ["0"], dimensions=2)
    assert server.bodies[0]["dimensions"] == 2


@pytest.mark.parametrize("status", [429, 503])
async def test_retry_after_of_a_busy_server_is_passed_on(status):
    engine = backend(Server(embeddings=(status, b"{}"), tokenize=(404, b"")), Role.EMBED)
    await engine.start()
    engine._server._transport = httpx.MockTransport(
        lambda _request: httpx.Response(status, headers={"retry-after": "7"}, content=b"{}")
    )
    with pytest.raises(BackendBusyError) as caught:
        await engine.call(EmbeddingRequest(inputs=["x"]), CONTEXT)
    assert caught.value.retry_after_s == 7


async def test_timeouts_are_as_configured_and_short_for_checks():
    seen = {}

    def answer(request: httpx.Request) -> httpx.Response:
        seen[request.url.path] = request.extensions["timeout"]
        return httpx.Response(200, json=MODELS if request.url.path.endswith("models") else {})

    engine = VLLMHTTPBackend(
        role=Role.GENERATE,
        base_url="http://server",
        timeouts=Timeouts(connect_s=2, read_s=300),
        transport=httpx.MockTransport(answer),
    )
    await engine.start()
    await engine.probe()
    with pytest.raises(InferenceError):
        await engine.call(TokenizeRequest(prompt="x"), CONTEXT)
    limits = {path: (one["connect"], one["read"]) for path, one in seen.items()}
    assert limits == {"/v1/models": (2, 10), "/health": (2, 10), "/tokenize": (2, 300)}


STRICT = Function(name="f", parameters={"type": "object", "not": {}}, strict=True)
UNSUPPORTED = [
    (
        "x",
        {"structured_outputs": StructuredOutputs(json={"not": {}}), "structured_outputs_param": "guided_json"},
        "guided_json",
    ),
    (
        "x",
        {"structured_outputs": StructuredOutputs(regex="a?" * 100), "structured_outputs_param": "guided_regex"},
        "guided_regex",
    ),
    (TALK, {"structured_outputs": StructuredOutputs(json='{"not": {}}')}, "structured_outputs"),
    (TALK, {"bad_words": [f"w{number}" for number in range(129)]}, "bad_words"),
    (
        Conversation(
            messages=TALK.messages, tools=[STRICT], tool_params=["tools[7]"], tool_choice=ToolChoice.AUTO
        ),
        {},
        "tools[7]",
    ),
]


@pytest.mark.parametrize("streams", [False, True])
@pytest.mark.parametrize(("prompt", "sampling", "param"), UNSUPPORTED, ids=lambda value: str(value)[:20])
async def test_unsupported_constraints_are_rejected_before_sending(prompt, sampling, param, streams):
    server = Server()
    engine = backend(server)
    await engine.start()
    request = GenerationRequest(prompt=prompt, sampling=SamplingParameters(**sampling))
    with pytest.raises(InvalidRequestError) as caught:
        await events_of(engine, request, CONTEXT, streams=streams)
    assert caught.value.param == param
    assert [body for _, body in server.requests] == [None], "only the models were requested"


async def test_schemas_are_sent_normalized():
    server = Server(completions=(200, events(part("stop", content="Hi"), USAGE, "[DONE]")))
    short = {"type": "string", "maxLength": 3}
    tool = Function(name="f", parameters={"type": "object", "properties": {"a": short}}, strict=True)
    talk = Conversation(messages=TALK.messages, tools=[tool], tool_choice=ToolChoice.AUTO)
    await chat(server, conversation=talk, structured_outputs=StructuredOutputs(json=short))
    body = server.requests[-1][1]
    normalized = {"type": "string", "pattern": length_pattern(0, 3)}
    assert body["structured_outputs"] == {"json": normalized}
    assert body["tools"][0]["function"]["parameters"]["properties"]["a"] == normalized
