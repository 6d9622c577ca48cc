import json

import httpx
import pytest

from adapters.vllm.dialect.fill_in_the_middle import KNOWN, not_supported
from adapters.vllm.http.backend import VLLMHTTPBackend
from domain.errors import BackendFailedError, InvalidRequestError
from domain.port import RequestContext
from domain.requests import GenerationRequest
from domain.roles import Role
from domain.sampling import SamplingParameters

CONTEXT = RequestContext(request_id="the-id")
ANSWER = {"choices": [{"index": 0, "text": "x", "finish_reason": "stop"}], "usage": {"prompt_tokens": 3}}
FAMILIES = {
    "<|fim_prefix|>": "<|fim_prefix|>before<|fim_suffix|>after<|fim_middle|>",
    "<fim_prefix>": "<fim_prefix>before<fim_suffix>after<fim_middle>",
    "<fim-prefix>": "<fim-prefix>before<fim-suffix>after<fim-middle>",
    "<｜fim▁begin｜>": "<｜fim▁begin｜>before<｜fim▁hole｜>after<｜fim▁end｜>",
}
"""The prompts that the model cards show, by the first marker of each family."""


class Server:
    """A vLLM server with some markers in its vocabulary."""

    def __init__(self, *markers: str) -> None:
        self.markers = markers
        self.tokenized: list[dict] = []
        self.completed: list[dict] = []
        self.tokenize_status = 200

    def __call__(self, request: httpx.Request) -> httpx.Response:
        if request.method == "GET":
            return httpx.Response(200, json={"data": [{"id": "m", "max_model_len": 256}]})
        body = json.loads(request.content)
        if request.url.path == "/tokenize":
            self.tokenized.append(body)
            tokens = [1] if body["prompt"] in self.markers else [1, 2, 3]
            return httpx.Response(self.tokenize_status, json={"tokens": tokens})
        self.completed.append(body)
        return httpx.Response(200, json=ANSWER)


async def completed(server: Server, *requests: GenerationRequest) -> VLLMHTTPBackend:
    transport = httpx.MockTransport(server)
    engine = VLLMHTTPBackend(role=Role.GENERATE, base_url="http://server", transport=transport)
    await engine.start()
    for request in requests:
        assert await engine.call(request, CONTEXT)
    return engine


def request(suffix: str | None = "after", prompt="before") -> GenerationRequest:
    return GenerationRequest(prompt=prompt, suffix=suffix, sampling=SamplingParameters())


def test_every_family_is_known():
    assert [markers.prefix for markers in KNOWN] == list(FAMILIES)


@pytest.mark.parametrize("markers", KNOWN, ids=lambda markers: markers.prefix)
def test_a_prompt_is_rendered_with_the_markers(markers):
    assert markers.render("before", "after") == FAMILIES[markers.prefix]


@pytest.mark.parametrize("markers", KNOWN, ids=lambda markers: markers.prefix)
async def test_the_markers_are_found_in_the_vocabulary(markers):
    server = Server(*markers)
    await completed(server, request())
    assert server.completed[0]["prompt"] == FAMILIES[markers.prefix]
    assert "suffix" not in server.completed[0]


async def test_markers_are_tokenized_without_special_tokens():
    server = Server(*KNOWN[0])
    await completed(server, request())
    assert all(body["add_special_tokens"] is False for body in server.tokenized)


async def test_the_vocabulary_is_checked_once():
    server = Server(*KNOWN[1])
    await completed(server, request(), request("other"))
    assert server.completed[1]["prompt"] == "<fim_prefix>before<fim_suffix>other<fim_middle>"
    before = len(server.tokenized)
    await completed(server, request())
    assert len(server.tokenized) == 2 * before


@pytest.mark.parametrize("markers", [(), ("<fim_prefix>",), ("<fim_prefix>", "<fim_suffix>")], ids=str)
async def test_a_model_without_markers_is_reported(markers):
    server = Server(*markers)
    with pytest.raises(InvalidRequestError) as caught:
        await completed(server, request())
    assert (caught.value.param, caught.value.code) == ("suffix", "unsupported_parameter")
    assert "'m'" in caught.value.message
    assert server.completed == []


async def test_without_a_suffix_the_vocabulary_is_not_checked():
    server = Server(*KNOWN[0])
    await completed(server, request(None), request(None, prompt=[1, 2]))
    assert server.tokenized == []
    assert [body["prompt"] for body in server.completed] == ["before", [1, 2]]


async def test_a_tokenizer_failure_is_no_client_error():
    server = Server(*KNOWN[0])
    server.tokenize_status = 500
    with pytest.raises(BackendFailedError):
        await completed(server, request())


def test_the_error_names_the_model():
    assert "'the-model'" in not_supported("the-model").message
