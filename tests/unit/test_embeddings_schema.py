import array
import base64
import math
import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from domain.errors import InvalidRequestError
from domain.openai.embeddings import MAX_INPUTS, EmbeddingBody, embedding_response
from domain.results import EmbeddingResult

floats32 = st.floats(width=32, allow_nan=False)
matrices = st.integers(1, 6).flatmap(
    lambda width: st.lists(st.lists(floats32, min_size=width, max_size=width), min_size=1, max_size=4)
)


def result_of(rows: list[list[float]], prompt_tokens: int = 1) -> EmbeddingResult:
    vectors = b"".join(struct.pack(f"<{len(row)}f", *row) for row in rows)
    return EmbeddingResult(vectors=vectors, dimensions=len(rows[0]), prompt_tokens=prompt_tokens)


@given(matrices)
@settings(max_examples=20, deadline=None)
def test_base64_and_numbers_are_the_same_vectors(rows):
    numbers = embedding_response(result_of(rows), "m", "float")
    encoded = embedding_response(result_of(rows), "m", "base64")
    for row, as_numbers, as_text in zip(rows, numbers.data, encoded.data, strict=True):
        assert as_numbers.embedding == row
        assert array.array("f", base64.b64decode(as_text.embedding)).tolist() == row


def test_the_default_format_is_float():
    assert embedding_response(result_of([[0.5, 0.25]]), "m", None).data[0].embedding == [0.5, 0.25]


def test_vectors_are_in_the_order_of_the_inputs():
    response = embedding_response(result_of([[1.0], [2.0], [3.0]]), "m", "float")
    assert [(item.index, item.embedding) for item in response.data] == [(0, [1.0]), (1, [2.0]), (2, [3.0])]


def test_a_response_has_model_and_usage():
    response = embedding_response(result_of([[1.0]], prompt_tokens=7), "the-model", "float")
    assert response.model == "the-model"
    assert (response.usage.prompt_tokens, response.usage.total_tokens) == (7, 7)
    assert (response.object, response.data[0].object) == ("list", "embedding")


def test_unit_vectors_stay_unit_vectors():
    row = [math.sqrt(1 / 3)] * 3
    sent = embedding_response(result_of([row]), "m", "float").data[0].embedding
    assert math.isclose(math.hypot(*sent), 1.0, abs_tol=1e-6)


def test_a_request_has_inputs_and_dimensions():
    request = EmbeddingBody(model="m", input=["a", "b"], dimensions=4).to_request()
    assert (request.inputs, request.dimensions) == (["a", "b"], 4)


def test_a_request_has_the_models_defaults():
    request = EmbeddingBody(model="m", input="a").to_request()
    assert (request.dimensions, request.truncate_prompt_tokens, request.add_special_tokens) == (None, None, True)


def test_inputs_may_be_truncated_and_have_no_special_tokens():
    body = EmbeddingBody(model="m", input="a", truncate_prompt_tokens=-1, add_special_tokens=False)
    request = body.to_request()
    assert (request.truncate_prompt_tokens, request.add_special_tokens) == (-1, False)


def test_the_maximum_number_of_inputs_is_accepted():
    assert len(EmbeddingBody(model="m", input=["a"] * MAX_INPUTS).to_request().inputs) == MAX_INPUTS


def test_more_inputs_are_rejected():
    with pytest.raises(InvalidRequestError, match="2049 items") as caught:
        EmbeddingBody(model="m", input=["a"] * (MAX_INPUTS + 1)).to_request()
    assert (caught.value.param, caught.value.code) == ("input", "array_above_max_length")


def test_one_input_of_many_tokens_is_one_input():
    assert len(EmbeddingBody(model="m", input=[1] * (MAX_INPUTS + 1)).to_request().inputs) == 1


def test_an_empty_input_is_rejected():
    with pytest.raises(InvalidRequestError) as caught:
        EmbeddingBody(model="m", input="").to_request()
    assert caught.value.param == "input"


def test_truncation_to_nothing_is_rejected():
    with pytest.raises(InvalidRequestError) as caught:
        EmbeddingBody(model="m", input="a", truncate_prompt_tokens=0).to_request()
    assert (caught.value.param, caught.value.code) == ("truncate_prompt_tokens", "integer_below_min_value")
