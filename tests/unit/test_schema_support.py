"""Unsupported schemas are rejected; contract/test_json_forms tests the engine's output for the others."""

import contextlib
import json
import time

import pytest

from adapters.vllm.dialect import schema_support
from adapters.vllm.dialect.pattern import length_pattern
from adapters.vllm.dialect.schema_support import normalize_schema, normalize_tag
from domain.errors import InvalidRequestError

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
def test_unsupported_schemas_are_rejected(schema: dict) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        normalize_schema(schema, "response_format")
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
def test_schemas_in_structural_tags_are_normalized(tag: dict) -> None:
    text = json.dumps(tag)
    normalize_tag(tag, "structured_outputs")
    changed = json.dumps(tag)
    assert ("maxLength" in changed, "pattern" in changed) == (False, True)
    with pytest.raises(InvalidRequestError):
        normalize_tag(json.loads(text.replace('"maxLength": 3', '"multipleOf": 3')), "structured_outputs")


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
def test_normalizing_is_fast(schema: dict) -> None:
    began = time.process_time()
    with contextlib.suppress(InvalidRequestError):
        normalize_schema(schema, "response_format")
    assert time.process_time() - began < 1


PLACES = [
    *({keyword: {"a": "HERE"}} for keyword in ("properties", "$defs", "definitions")),
    {"patternProperties": {"^a$": "HERE"}},
    *({keyword: ["HERE"]} for keyword in ("anyOf", "oneOf", "allOf", "prefixItems", "items")),
    *({keyword: "HERE"} for keyword in ("additionalProperties", "unevaluatedProperties", "propertyNames")),
    *({keyword: "HERE"} for keyword in ("items", "unevaluatedItems")),
]


@pytest.mark.parametrize("place", PLACES, ids=str)
def test_a_schema_is_normalized_under_every_keyword(place: dict) -> None:
    def put(schema: dict) -> dict:
        return json.loads(json.dumps(place).replace('"HERE"', json.dumps(schema)))

    normalized = str(normalize_schema(put({"type": "string", "maxLength": 3}), "x"))
    assert ("maxLength" in normalized, "{0,3}" in normalized) == (False, True)
    with pytest.raises(InvalidRequestError):
        normalize_schema(put({"type": "integer", "multipleOf": 3}), "x")


def test_a_schema_reached_only_by_reference_is_normalized() -> None:
    schema = {"$ref": "#/components/short", "components": {"short": {"type": "string", "maxLength": 3}}}
    short = normalize_schema(schema, "x")["components"]["short"]
    assert short == {"type": "string", "pattern": length_pattern(0, 3)}


def test_each_part_of_a_schema_is_visited_once(monkeypatch: pytest.MonkeyPatch) -> None:
    visited = []
    monkeypatch.setattr(schema_support, "check_part", lambda part, _: visited.append(id(part)))
    text = {"type": "string", "maxLength": 3}
    schema = obj(a={"$ref": "#/$defs/t"}, b={"$ref": "#/$defs/t"}, c={"$ref": "#"}) | {"$defs": {"t": text}}
    normalize_schema(schema, "x")
    assert len(visited) == len(set(visited)) == 5
