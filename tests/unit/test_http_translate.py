import base64
import struct

import pytest

from adapters.vllm_http.errors import translated
from adapters.vllm_http.translate import completion_body, delta, embedding_body, embedding_result
from adapters.vllm_http.wire import (
    ServerChoice,
    ServerEmbedding,
    ServerEmbeddings,
    ServerLogprobs,
    ServerUsage,
)
from domain.backend import EmbeddingRequest, FinishReason, GenerationRequest, SamplingParameters, TokenLogprob
from domain.errors import BackendFailedError


def packed(*numbers: float) -> bytes:
    return struct.pack(f"<{len(numbers)}f", *numbers)


def answer(*vectors: tuple[int, bytes]) -> ServerEmbeddings:
    data = [ServerEmbedding(index, base64.b64encode(vector).decode()) for index, vector in vectors]
    return ServerEmbeddings(data=data, usage=ServerUsage(prompt_tokens=9))


def body(*, echo: bool = False, stream: bool = False, prompt="x", **sampling) -> dict:
    request = GenerationRequest(prompt=prompt, sampling=SamplingParameters(**sampling), echo=echo, stream=stream)
    return completion_body(request, model="m")


def test_embeddings_are_asked_for_as_exact_bytes():
    request = EmbeddingRequest(inputs=["a", "b"])
    assert embedding_body(request, model="m", dimensions=None) == {
        "model": "m",
        "input": ["a", "b"],
        "encoding_format": "base64",
    }


def test_dimensions_are_asked_for_only_where_they_differ_from_the_models_own():
    request = EmbeddingRequest(inputs=[[1, 2]], dimensions=4)
    assert embedding_body(request, model="m", dimensions=4)["dimensions"] == 4
    assert "dimensions" not in embedding_body(request, model="m", dimensions=None)


def test_vectors_come_in_the_order_of_their_indices():
    result = embedding_result(answer((1, packed(3, 4)), (0, packed(1, 2))), expected=2)
    assert result.vectors == packed(1, 2, 3, 4)
    assert (result.dimensions, result.prompt_tokens) == (2, 9)


@pytest.mark.parametrize(
    "incomplete",
    [
        answer(),
        answer((0, packed(1, 2))),
        answer((0, packed(1)), (1, packed(1)), (2, packed(1))),
        answer((0, packed(1, 2)), (1, packed(1))),
        answer((0, packed(1)), (0, packed(1))),
        answer((0, packed(1)), (2, packed(1))),
    ],
    ids=["none", "too few", "too many", "different lengths", "one twice", "a gap"],
)
def test_an_incomplete_set_of_vectors_is_a_failure(incomplete):
    with pytest.raises(BackendFailedError):
        embedding_result(incomplete, expected=2)


@pytest.mark.parametrize("vector", [b"", b"12345"], ids=["empty", "cut"])
def test_what_is_no_row_of_float32_is_a_failure(vector):
    with pytest.raises(BackendFailedError):
        embedding_result(answer((0, vector)), expected=1)


@pytest.mark.parametrize("text", ["AAAAA", "é"], ids=["padding", "alphabet"])
def test_what_is_no_base64_is_a_failure(text):
    wrong = ServerEmbeddings(data=[ServerEmbedding(0, text)], usage=ServerUsage(prompt_tokens=1))
    with pytest.raises(BackendFailedError), translated("embedding"):
        embedding_result(wrong, expected=1)


def test_what_a_request_leaves_open_is_left_to_the_servers_model():
    assert body() == {
        "model": "m",
        "prompt": "x",
        "max_tokens": 16,
        "n": 1,
        "stop": [],
        "echo": False,
        "stream": False,
    }


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("max_tokens", 0),
        ("n", 3),
        ("temperature", 0.0),
        ("top_p", 0.5),
        ("stop", ["a", "b"]),
        ("seed", 0),
        ("logprobs", 0),
        ("presence_penalty", 0.0),
        ("frequency_penalty", -1.0),
    ],
)
def test_what_a_request_says_is_sent_even_if_it_is_zero(name, value):
    assert body(**{name: value})[name] == value


def test_token_ids_are_sent_as_they_are():
    assert body(prompt=[1, 2, 3])["prompt"] == [1, 2, 3]


def test_the_keys_of_biases_become_texts():
    assert body(logit_bias={7: -1.5})["logit_bias"] == {"7": -1.5}


def test_a_stream_asks_for_its_usage():
    streaming = body(stream=True, echo=True)
    assert (streaming["stream"], streaming["echo"]) == (True, True)
    assert streaming["stream_options"] == {"include_usage": True}


@pytest.mark.parametrize(
    ("said", "reason"), [(None, None), ("stop", FinishReason.STOP), ("length", FinishReason.LENGTH)]
)
def test_a_choice_becomes_a_delta(said, reason):
    got = delta(ServerChoice(index=2, text="abc", finish_reason=said))
    assert (got.index, got.text, got.logprobs, got.finish_reason) == (2, "abc", None, reason)


def test_a_choice_that_the_engine_gave_up_is_a_failure():
    with pytest.raises(BackendFailedError):
        delta(ServerChoice(index=0, text="ab", finish_reason="abort"))


def test_parallel_lists_become_one_list_of_tokens():
    lists = ServerLogprobs(["a", "b"], [None, -0.5], [None, {"b": -0.5, "c": -1.0}])
    assert delta(ServerChoice(index=0, logprobs=lists)).logprobs == [
        TokenLogprob("a", None, None),
        TokenLogprob("b", -0.5, [("b", -0.5), ("c", -1.0)]),
    ]


def test_parallel_lists_of_different_lengths_are_a_failure():
    lists = ServerLogprobs(["a", "b"], [-0.5], [None, None])
    with pytest.raises(BackendFailedError), translated("generation"):
        delta(ServerChoice(index=0, logprobs=lists))
