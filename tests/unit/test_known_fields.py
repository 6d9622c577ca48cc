"""Passing over fields that a request type does not know."""

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.http.codec import BodyDecoder
from app.http.known_fields import without_unknown
from domain.errors import InvalidRequestError
from domain.openai.chat import ChatBody
from domain.openai.completions import CompletionBody
from domain.openai.embeddings import EmbeddingBody
from domain.openai.tokenize import DetokenizeBody, TokenizeBody
from tests.unit.serving import BODIES, CHAT, error_of

chat = BodyDecoder(ChatBody)
TYPES = [ChatBody, CompletionBody, EmbeddingBody, TokenizeBody, DetokenizeBody]
HELLO = {"role": "user", "content": "Hello"}
NEW = "zz_new"
"""A field that no type knows."""
CALL = {"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}
TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object", NEW: 1}}}
FULL = {
    "model": "m",
    "messages": [
        {"role": "system", "content": "Be kind."},
        {"role": "developer", "content": [{"type": "text", "text": "Be kind."}]},
        {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}], "name": "Ann"},
        {"role": "assistant", "content": None, "tool_calls": [CALL], "annotations": [{NEW: 1}]},
        {"role": "tool", "content": "1", "tool_call_id": "c"},
        {"role": "assistant", "content": [{"type": "refusal", "refusal": "No."}]},
    ],
    "stream": True,
    "stream_options": {"include_usage": True},
    "tools": [TOOL],
    "tool_choice": {
        "type": "allowed_tools",
        "allowed_tools": {"mode": "auto", "tools": [{"type": "function", "function": {"name": "f"}}]},
    },
    "response_format": {"type": "json_schema", "json_schema": {"name": "n", "schema": {"type": "object", NEW: 1}}},
    "logit_bias": {"5": 1},
    "metadata": {NEW: "1"},
    "chat_template_kwargs": {NEW: {NEW: 1}},
    "documents": [{NEW: "1"}],
    "stop": ["a"],
}
"""Whatever has a place for one more field, and much where names are the client's own."""
# What is inside these is the client's, names included.
FREE = {"metadata", "logit_bias", "chat_template_kwargs", "documents", "annotations", "parameters", "schema"}


def decoded(body: Any, decoder: BodyDecoder = chat, *, allow_unknown: bool = True) -> Any:
    return decoder.decode(json.dumps(body).encode(), allow_unknown=allow_unknown)


def places(value: Any, path: tuple = ()) -> list[tuple]:
    """Where objects of the API are, by the way that leads there."""
    found = [path] if isinstance(value, dict) else []
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return found + [place for key, item in items if key not in FREE for place in places(item, (*path, key))]


def with_new(value: Any, at: set[tuple], path: tuple = ()) -> Any:
    """The value with a field that nobody knows at some places."""
    if isinstance(value, dict):
        own = {key: with_new(item, at, (*path, key)) for key, item in value.items()}
        return {NEW: {"deep": [1]}, **own} if path in at else own
    if isinstance(value, list):
        return [with_new(item, at, (*path, index)) for index, item in enumerate(value)]
    return value


def test_a_full_body_is_good_in_itself():
    body = decoded(FULL, allow_unknown=False)
    assert body.to_request(body.to_conversation())


@pytest.mark.parametrize("place", places(FULL), ids=str)
def test_a_new_field_is_ignored_wherever_it_is(place):
    assert decoded(with_new(FULL, {place})) == decoded(FULL, allow_unknown=False)


@pytest.mark.parametrize("place", places(FULL), ids=str)
def test_a_new_field_is_refused_with_its_place_unless_it_is_allowed(place):
    with pytest.raises(InvalidRequestError) as caught:
        decoded(with_new(FULL, {place}), allow_unknown=False)
    path = "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in place).removeprefix(".")
    assert caught.value.code == "unknown_parameter"
    assert caught.value.param == (f"{path}.{NEW}" if path else NEW)


@given(st.sets(st.sampled_from(places(FULL))))
@settings(max_examples=30, deadline=None)
def test_new_fields_in_any_places_change_nothing(at):
    assert decoded(with_new(FULL, at)) == decoded(FULL, allow_unknown=False)


def test_what_has_names_of_the_clients_own_is_kept():
    body = decoded({NEW: 1, **FULL})
    assert body.metadata == {NEW: "1"}
    assert body.chat_template_kwargs == {NEW: {NEW: 1}}
    assert body.documents == [{NEW: "1"}]
    assert body.tools[0].function.parameters[NEW] == 1
    assert body.response_format.json_schema.schema[NEW] == 1
    assert body.messages[3].annotations == [{NEW: 1}]


@pytest.mark.parametrize("body_type", TYPES)
def test_a_body_of_nothing_unknown_is_left_as_it_is(body_type):
    least = {"model": "m", "messages": [HELLO]}
    known = {name: item for name, item in least.items() if name in body_type.__struct_fields__}
    assert without_unknown(known, body_type) == known
    assert without_unknown({**known, NEW: 1}, body_type) == known


@pytest.mark.parametrize("value", [[], "x", 1, None, [{NEW: 1}]])
def test_what_is_no_body_stays_as_it_is(value):
    assert without_unknown(value, ChatBody) == value


@pytest.mark.parametrize(
    ("fields", "param", "code"),
    [
        ({"n": "2"}, "n", "invalid_type"),
        ({"n": 0}, "n", "invalid_value"),
        ({"messages": [{"role": "user", NEW: 1}]}, "messages[0].content", "missing_required_parameter"),
        ({"messages": [{"role": "wizard", NEW: 1}]}, "messages[0].role", "invalid_value"),
        ({"messages": [{NEW: 1}]}, "messages[0].role", "missing_required_parameter"),
        ({"messages": [NEW]}, "messages[0]", "invalid_type"),
        ({"messages": []}, "messages", "invalid_value"),
        ({"tools": [{"type": "custom", NEW: 1}]}, "tools[0].type", "invalid_value"),
        ({"tool_choice": {"type": "function", NEW: 1}}, "tool_choice.function", "missing_required_parameter"),
        ({"response_format": {NEW: 1}}, "response_format.type", "missing_required_parameter"),
        ({"logit_bias": {"1": 101}}, "logit_bias[...]", "invalid_value"),
        ({"stream_options": {"include_usage": 1, NEW: 1}}, "stream_options.include_usage", "invalid_type"),
    ],
    ids=str,
)
def test_what_else_is_wrong_is_told_as_ever(fields, param, code):
    with pytest.raises(InvalidRequestError) as caught:
        decoded({NEW: 1, "model": "m", "messages": [HELLO], **fields})
    assert (caught.value.param, caught.value.code) == (param, code)


def test_a_misspelled_necessary_field_is_told_to_be_missing():
    with pytest.raises(InvalidRequestError) as caught:
        decoded({"modle": "m", "messages": [HELLO]})
    assert (caught.value.param, caught.value.code) == ("model", "missing_required_parameter")


@pytest.mark.parametrize(
    "rest",
    [b"", b'"model": "m"', b'"x": \xff}', b'"x": "\\ud800"}', b'"x": NaN}', b'"model": "m"} x', b'"x": 1e999}'],
    ids=["cut", "not closed", "no utf-8", "half a surrogate pair", "NaN", "tail", "infinite"],
)
def test_what_is_no_json_behind_an_unknown_field_is_refused(rest):
    with pytest.raises(InvalidRequestError):
        chat.decode(b'{"zz_new": 1, ' + rest, allow_unknown=True)


@pytest.mark.parametrize("opening", [b"[", b'{"a":'], ids=["arrays", "objects"])
def test_nesting_deeper_than_the_stack_behind_an_unknown_field_is_refused(opening):
    with pytest.raises(InvalidRequestError):
        chat.decode(b'{"zz_new": 1, "x": ' + opening * 100_000, allow_unknown=True)


scalars = st.none() | st.booleans() | st.integers(-3, 10**20) | st.floats(-3, 3) | st.text(max_size=3)
json_values = st.recursive(
    scalars,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["type", "role", "content", "function", "name", NEW]), inner, max_size=3)
    ),
    max_leaves=8,
)


def outcome(body: Any, *, allow_unknown: bool) -> Any:
    try:
        return decoded(body, allow_unknown=allow_unknown)
    except InvalidRequestError as error:
        # Words differ in places: one reads JSON, the other what was read.
        return error.param


@given(st.dictionaries(st.sampled_from(ChatBody.__struct_fields__), json_values, max_size=3))
@settings(max_examples=40, deadline=None)
def test_lenient_decoding_is_strict_decoding_of_what_is_known(fields):
    body = {"model": "m", "messages": [HELLO], **fields}
    pruned = without_unknown(body, ChatBody)
    lenient, strict = outcome({NEW: 1, **body}, allow_unknown=True), outcome(pruned, allow_unknown=False)
    assert lenient == strict


# Through the application


@pytest.mark.parametrize("path", BODIES)
async def test_the_setting_decides(api, lenient_api, path):
    strict, lenient = await api.post(path, zz_new=1), await lenient_api.post(path, zz_new=1)
    assert (strict.status_code, lenient.status_code) == (400, 200)
    assert error_of(strict)["param"] == NEW


async def test_new_fields_inside_others_are_ignored_too(lenient_api):
    part = {"type": "text", "text": "hi", "cache_control": {"type": "ephemeral"}}
    response = await lenient_api.post(CHAT, messages=[{"role": "user", "content": [part], "id": "x"}])
    assert response.status_code == 200


@pytest.mark.parametrize("path", BODIES)
@pytest.mark.parametrize(
    "body",
    [b'{"zz_new": 1', b'{"zz_new": "\xff"}', b'{"zz_new": ' + b"[" * 2000, b'{"zz_new": "\\ud800"}', b'{"a":1}x'],
    ids=["cut", "no utf-8", "deep", "half a surrogate pair", "tail"],
)
async def test_no_body_is_a_failure_of_the_service(lenient_api, path, body):
    response = await lenient_api.http.post(path, content=body)
    assert response.status_code == 400
    assert error_of(response)["type"] == "invalid_request_error"
