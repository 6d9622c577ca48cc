import contextlib
import json
from dataclasses import dataclass
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.http.codec import BodyDecoder, encode
from app.http.errors import error_body
from domain.errors import InvalidRequestError
from domain.openai.chat import ChatBody
from domain.openai.common import Usage
from domain.openai.completions import CompletionBody
from domain.openai.embeddings import EmbeddingBody
from tests.unit.responses_serving import RESPONSES, responses_serving
from tests.unit.serving import error_of

completions = BodyDecoder(CompletionBody)
embeddings = BodyDecoder(EmbeddingBody)
chats = BodyDecoder(ChatBody)


class Anything(msgspec.Struct):
    """Accepts so much that only the syntax of a body can be wrong."""

    model: Any = None
    content: Any = None


@dataclass(frozen=True)
class Endpoint:
    decoder: BodyDecoder
    to_domain: Any

    def take(self, body: bytes) -> Any:
        return self.to_domain(self.decoder.decode(body))


ENDPOINTS = {
    "completions": Endpoint(completions, CompletionBody.to_requests),
    "embeddings": Endpoint(embeddings, EmbeddingBody.to_request),
}
NAMES = ["stop", "n", "best_of", "max_tokens", "logit_bias", "stream_options", "seed", "temperature", "top_p"]
NAMES += ["logprobs", "echo", "stream", "dimensions", "encoding_format", "suffix", "user", "prompt", "input"]

scalars = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8)
json_values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=6,
)
near_bodies = st.builds(
    lambda field, odd: {"model": "m", field: "x", **odd},
    st.sampled_from(["prompt", "input"]),
    st.dictionaries(st.sampled_from(NAMES), json_values, max_size=3),
)


@pytest.fixture(params=ENDPOINTS)
def endpoint(request) -> Endpoint:
    return ENDPOINTS[request.param]


def refusal(body: bytes, decoder: BodyDecoder = completions) -> InvalidRequestError:
    with pytest.raises(InvalidRequestError) as caught:
        decoder.decode(body)
    return caught.value


def chat(*messages: dict, **fields: Any) -> bytes:
    return json.dumps({"model": "m", "messages": messages, **fields}).encode()


def completion(**fields: Any) -> bytes:
    return json.dumps({"model": "m", "prompt": "x", **fields}).encode()


@pytest.mark.parametrize("name", ENDPOINTS)
@given(value=json_values | near_bodies)
@settings(max_examples=20, deadline=None)
def test_no_json_raises_anything_but_a_refusal(name, value):
    try:
        ENDPOINTS[name].take(json.dumps(value).encode())
    except InvalidRequestError as error:
        # A message that can't be encoded would turn a 400 into a 500.
        error_body(error)


@pytest.mark.parametrize("name", ENDPOINTS)
@given(body=st.binary(max_size=60))
@settings(max_examples=20, deadline=None)
def test_no_bytes_raise_anything_but_a_refusal(name, body):
    # Some are good requests: Hypothesis also tries what it finds in the source code around.
    with contextlib.suppress(InvalidRequestError):
        ENDPOINTS[name].take(body)


@pytest.mark.parametrize(
    "body",
    [
        b"{",
        b"\xff\xfe",
        b'{"model": "\xff"}',
        b'{"model": "\\ud800"}',
        b'{"model": NaN}',
        b"{} x",
        b"\xef\xbb\xbf{}",
    ],
    ids=["cut", "no utf-8", "no utf-8 inside", "half a surrogate pair", "NaN", "tail", "byte order mark"],
)
def test_what_is_not_json_is_refused(body):
    assert "parse the JSON" in refusal(body, BodyDecoder(Anything)).message


@pytest.mark.parametrize("opening", [b"[", b'{"a":'], ids=["arrays", "objects"])
def test_nesting_deeper_than_the_stack_is_refused(opening):
    error = refusal(b'{"model": "m", "content": ' + opening * 100_000, BodyDecoder(Anything))
    assert "parse the JSON" in error.message


def test_no_body_is_refused():
    assert "no body" in refusal(b"").message


@pytest.mark.parametrize("body", [b"[]", b'"text"', b"1", b"null"])
def test_a_body_that_is_no_object_is_refused(endpoint, body):
    error = refusal(body, endpoint.decoder)
    assert "must be a JSON object" in error.message
    assert error.param is None


def test_a_missing_parameter_is_named():
    error = refusal(b'{"prompt": "x"}')
    assert (error.param, error.code) == ("model", "missing_required_parameter")
    assert "'model'" in error.message


def test_an_unknown_parameter_is_named_with_the_one_it_resembles():
    error = refusal(completion(temperatur=1))
    assert (error.param, error.code) == ("temperatur", "unknown_parameter")
    assert "Did you mean 'temperature'?" in error.message


def test_an_unknown_parameter_like_no_other_gets_no_advice():
    assert "Did you mean" not in refusal(completion(zzzzzz=1)).message


def test_an_unknown_parameter_inside_another_is_named_with_its_path():
    assert refusal(completion(stream_options={"usage": True})).param == "stream_options.usage"


@pytest.mark.parametrize(
    ("message", "name", "meant"),
    [
        ({"role": "user", "contnt": "x"}, "contnt", "content"),
        ({"role": "user", "content": [{"type": "text", "txt": "x"}]}, "content[0].txt", "text"),
        ({"role": "tool", "content": "x", "tool_cal_id": "1"}, "tool_cal_id", "tool_call_id"),
    ],
)
def test_an_unknown_parameter_inside_another_is_named_with_the_one_it_resembles(message, name, meant):
    error = refusal(chat({"role": "system", "content": "x"}, message), chats)
    assert error.param == f"messages[1].{name}"
    assert f"Did you mean '{meant}'?" in error.message


def test_what_another_kind_of_message_has_is_no_advice():
    error = refusal(chat({"role": "user", "content": "x", "tool_cal_id": "1"}), chats)
    assert "Did you mean" not in error.message


@pytest.mark.parametrize("rest", [b'"messages": []', b'"messages": 1', b'"x": nope', b'"x": ' + b"[" * 99_999])
def test_an_unknown_parameter_is_named_whatever_else_is_wrong(rest):
    error = refusal(b'{"messages": [{"role": "user", "contnt": "x"}], ' + rest + b"}", chats)
    assert (error.param, error.code) == ("messages[0].contnt", "unknown_parameter")


def test_an_unknown_parameters_name_is_cut():
    error = refusal(completion(**{"z" * 5000: 1}))
    assert error.param == "z" * 100
    assert len(error.message) < 200


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"model": 1}, "model"),
        ({"n": "2"}, "n"),
        ({"n": True}, "n"),
        ({"n": 1.5}, "n"),
        ({"stream": 1}, "stream"),
        ({"prompt": None}, "prompt"),
        ({"prompt": {"text": "x"}}, "prompt"),
        ({"prompt": ["x", 1.5]}, "prompt[1]"),
        ({"prompt": [[1, "x"]]}, "prompt[0][1]"),
        ({"stop": ["x", 1]}, "stop[1]"),
        ({"stream_options": {"include_usage": 1}}, "stream_options.include_usage"),
        ({"logit_bias": []}, "logit_bias"),
    ],
)
def test_a_wrong_type_is_named_with_its_place(fields, param):
    error = refusal(completion(**fields))
    assert (error.param, error.code) == (param, "invalid_type")
    assert f"Invalid '{param}': expected" in error.message


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("n", 0),
        ("n", 129),
        ("best_of", 21),
        ("max_tokens", -1),
        ("max_tokens", 2**31),
        ("max_tokens", 10**30),
        ("logprobs", 6),
        ("logprobs", -1),
        ("temperature", -0.1),
        ("temperature", 2.1),
        ("top_p", 1.1),
        ("top_p", -0.1),
        ("presence_penalty", 2.1),
        ("frequency_penalty", -2.1),
        ("seed", 2**63),
    ],
)
def test_a_value_out_of_range_is_named(name, value):
    error = refusal(completion(**{name: value}))
    assert (error.param, error.code) == (name, "invalid_value")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("n", 128),
        ("best_of", 0),
        ("max_tokens", 2**31 - 1),
        ("logprobs", 5),
        ("temperature", 2),
        ("temperature", 0),
        ("top_p", 0),
        ("top_p", 1),
        ("presence_penalty", -2),
        ("frequency_penalty", 2),
        ("seed", -(2**63)),
        ("seed", 2**63 - 1),
    ],
)
def test_the_ends_of_a_range_are_accepted(name, value):
    assert getattr(completions.decode(completion(**{name: value})), name) == value


def test_a_bias_out_of_range_is_refused():
    assert refusal(completion(logit_bias={"1": 100.5})).param.startswith("logit_bias")


def test_a_key_that_is_too_long_is_told_with_what_it_is_a_key_of():
    error = refusal(chat({"role": "user", "content": "x"}, metadata={"k" * 65: "x"}), chats)
    assert (error.param, error.code) == ("metadata", "invalid_value")
    assert error.message == "Invalid key in 'metadata': expected `str` of length <= 64."


@pytest.mark.parametrize("dimensions", [0, -1, 2**31])
def test_impossible_dimensions_are_refused(dimensions):
    body = json.dumps({"model": "m", "input": "x", "dimensions": dimensions}).encode()
    assert refusal(body, embeddings).param == "dimensions"


def test_an_unknown_encoding_format_is_refused():
    error = refusal(b'{"model": "m", "input": "x", "encoding_format": "hex"}', embeddings)
    assert (error.param, error.code) == ("encoding_format", "invalid_value")


def test_null_is_as_good_as_absent_for_what_is_optional():
    optional = {name: None for name in CompletionBody.__struct_fields__ if name not in ("model", "prompt")}
    assert completions.decode(completion(**optional)) == completions.decode(completion())


def test_an_answer_is_encoded_as_json():
    usage = Usage(prompt_tokens=1, completion_tokens=2, total_tokens=3)
    assert json.loads(encode(usage)) == {"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3}


@pytest.mark.parametrize(
    "fields",
    [
        b'"input": "Hi", "tools": [{"type": "\xff"}]',
        b'"input": "Hi", "tools": [{"type": "function", "name": "f", "description": "\xff"}]',
        b'"input": "Hi", "tools": [{"type": "web_search", "country": "\xff"}]',
        b'"input": [{"type": "\xff"}]',
        b'"input": [{"role": "user", "content": "\xff"}]',
        b'"input": [{"role": "user", "content": "Hi"}, {"type": "web_search_call", "action": "\xff"}]',
    ],
)
async def test_malformed_json_in_a_part_that_is_decoded_by_itself_is_refused_as_elsewhere(fields):
    body = b'{"model": "fake-write", ' + fields + b"}"
    async with responses_serving() as api:
        for path in (RESPONSES, f"{RESPONSES}/input_tokens"):
            answer = await api.http.post(path, content=body)
            assert answer.status_code == 400
            elsewhere = await api.http.post(path, content=b'{"model": "\xff"}')
            assert error_of(answer) == error_of(elsewhere)
