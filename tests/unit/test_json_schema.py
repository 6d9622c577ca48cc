"""Schemas that the engine would not follow are refused; what it makes of the others: contract/test_json_forms."""

import contextlib
import json
import time

import msgspec
import pytest

from domain.errors import InvalidRequestError
from domain.openai.chat import ChatBody
from domain.openai.completions import CompletionBody
from domain.openai.json_pattern import of_length
from domain.openai.json_schema import followed, followed_tag
from domain.sampling import StructuredOutputs

INTEGER, STRING = {"type": "integer"}, {"type": "string"}


def obj(**properties) -> dict:
    return {"type": "object", "properties": properties, "required": [*properties], "additionalProperties": False}


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "object", "properties": {"a": INTEGER}, "required": ["b"], "additionalProperties": False},
        {"type": "object", "properties": {"a": INTEGER}, "required": ["b"]},
        {"required": ["a"]},
        {"not": STRING},
        {"type": "object", "dependentRequired": {"a": ["b"]}},
        {"type": "object", "dependentSchemas": {"a": {}}},
        {"type": "object", "dependencies": {"a": ["b"]}},
        {"if": STRING, "then": {"maxLength": 1}},
        {"type": "integer", "multipleOf": 2},
        {"type": "array", "items": INTEGER, "uniqueItems": True},
        {"type": "array", "contains": INTEGER},
        {"allOf": [INTEGER, {"minimum": 2}]},
        {"allOf": [{"minimum": 2}], "type": "integer"},
        {"allOf": []},
        {"anyOf": []},
        {"anyOf": [INTEGER, STRING], "minimum": 3},
        {"anyOf": [INTEGER, STRING], "type": "integer"},
        {"anyOf": [{"required": ["a"]}, {"required": ["b"]}], "type": "object", "properties": {"a": {}, "b": {}}},
        {"oneOf": [INTEGER, {"type": "number"}]},
        {"oneOf": [obj(a=INTEGER), obj(a=STRING, b=STRING), {}]},
        {"oneOf": [{"const": number} for number in range(1000)]},
        {"$ref": "#/$defs/x", "minimum": 3, "$defs": {"x": INTEGER}},
        {"$ref": "https://example.com/schema"},
        {"$ref": "other.json"},
        {"$ref": "#anchor", "$defs": {"x": {"$anchor": "anchor"}}},
        {"$ref": "#/$defs/gone"},
        {"$dynamicRef": "#x"},
        {"type": "object", "properties": {"a": {"$id": "https://example.com/a", "type": "integer"}}},
        {"const": 1, "type": "string"},
        {"enum": ["a", 1], "type": "string"},
        {"enum": ["abc"], "maxLength": 1},
        {"const": 1, "enum": [1]},
        {"type": []},
        {"minimum": 1, "maxLength": 1},
        {"type": "string", "pattern": "^(?!a).$"},
        {"type": "string", "pattern": "^a\\\\b$"},
        {"type": "string", "pattern": "^a$", "maxLength": 1},
        {"type": "string", "format": "date", "maxLength": 10},
        {"type": "string", "format": "made-up"},
        {"type": "string", "minLength": 3, "maxLength": 2},
        {"type": "string", "maxLength": -1},
        {"type": "object", "properties": {"a": {}}, "patternProperties": {"^b$": {}}},
        {"type": "object", "patternProperties": {"^(?!b).$": {}}},
        {"type": "object", "patternProperties": {"^a$": {}, "^b$": {}}},
        {"type": "object", "properties": {"a": {}}, "propertyNames": {"maxLength": 1}},
        obj(a={"items": [{"anyOf": [{"not": {}}]}]}),
    ],
    ids=str,
)  # fmt: skip
def test_what_the_engine_would_pass_over_is_refused(schema: dict) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        followed(schema, "response_format")
    assert (caught.value.param, caught.value.code) == ("response_format", "invalid_value")
    assert caught.value.message.startswith("The schema in 'response_format' ")


@pytest.mark.parametrize(
    "tag",
    [
        {"type": "structural_tag", "format": {"type": "tag", "begin": "<", "end": ">",
         "content": {"type": "json_schema", "json_schema": {"type": "string", "maxLength": 3}}}},
        {"structures": [{"begin": "<", "schema": {"type": "string", "maxLength": 3}, "end": ">"}],
        "triggers": ["<"]},
    ],
    ids=["new", "old"],
)  # fmt: skip
def test_schemas_in_structural_tags_are_followed_too(tag: dict) -> None:
    text = json.dumps(tag)
    changed = json.dumps(followed_tag(tag, "structured_outputs"))
    assert json.dumps(tag) == text
    assert ("maxLength" in changed, "pattern" in changed) == (False, True)
    with pytest.raises(InvalidRequestError):
        followed_tag(json.loads(text.replace('"maxLength": 3', '"multipleOf": 3')), "structured_outputs")


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "string", "pattern": "." * 60_000},
        {"type": "string", "pattern": "(" * 30_000 + ")" * 30_000},
        {"type": "string", "pattern": "[" + "".join(chr(0x100 + 2 * number) for number in range(20_000)) + "]"},
        {"oneOf": [{"enum": [f"{number}-{other}" for other in range(100)]} for number in range(90)]},
        {"oneOf": [{"$ref": "#/$defs/a"}] * 2,
         "$defs": {"a": obj(**{f"p{number}": {"$ref": "#/$defs/a"} for number in range(40)})}},
    ],
    ids=["dots", "groups", "class", "branches", "references"],
)  # fmt: skip
def test_it_takes_no_long_time(schema: dict) -> None:
    began = time.process_time()
    with contextlib.suppress(InvalidRequestError):
        followed(schema, "response_format")
    assert time.process_time() - began < 1


@pytest.mark.parametrize("form", ["guided_json", "structured_outputs"])
def test_a_form_is_sent_to_the_engine_as_it_follows_it(form: str) -> None:
    schema = {"type": "string", "maxLength": 3}
    value = schema if form == "guided_json" else {"json": json.dumps(schema)}
    body = msgspec.convert({"model": "m", "prompt": "x", form: value}, CompletionBody)
    sampling = body.to_sampling(max_tokens=1, logprobs=None)
    assert sampling.structured_outputs == StructuredOutputs(json={"type": "string", "pattern": of_length(0, 3)})


@pytest.mark.parametrize(
    ("choice", "strict", "is_refused"),
    [("auto", None, False), ("auto", True, True), ("required", None, True), ("required", False, False),
     ("none", True, False)],
)  # fmt: skip
def test_schemas_of_tools_are_refused_where_calls_must_follow_them(choice, strict, is_refused) -> None:
    tool = {"name": "f", "parameters": {"type": "object", "not": {}}} | (
        {} if strict is None else {"strict": strict}
    )
    body = {
        "model": "m",
        "messages": [{"role": "user", "content": "x"}],
        "tools": [{"type": "function", "function": tool}],
        "tool_choice": choice,
    }
    if not is_refused:
        assert msgspec.convert(body, ChatBody).to_conversation()
        return
    with pytest.raises(InvalidRequestError) as caught:
        msgspec.convert(body, ChatBody).to_conversation()
    assert caught.value.param == "tools[0].function.parameters"
