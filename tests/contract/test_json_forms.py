"""The engine's grammars accept only JSON that follows the client's schema. No engine is started."""

import json
import re
from collections.abc import Callable

import pytest
from jsonschema import Draft202012Validator

from adapters.vllm.dialect.pattern import length_pattern, rewrite_pattern
from adapters.vllm.dialect.schema_support import FORMATS, normalize_schema

pytestmark = pytest.mark.integration

INTEGER, STRING = {"type": "integer"}, {"type": "string"}
VALUES = [
    None, True, 0, 1, 2, 5, 1.5, "", "a", "ab", "abc", "é漢😀", "a\tb", 'a"b', "\n", [], [1], ["a"], [1, 1],
    [1, 2, 3],
    {}, {"a": 1}, {"b": 1}, {"a": 1, "b": 1}, {"a": "x"}, {"a": "abc"}, {"a": "\t"}, {"a": {"a": 1}}, {"k": "x"},
    {"k": "x", "a": 1}, {"k": "y"}, {"\t": 1}, {"ab": 1},
]  # fmt: skip


TEXTS = [
    "", "a", "aa", "ab", "abc", "b", "A1", " ", "a b", "é", "漢", "😀", "a-b", "[", "]", "^", "-", "/",
    "2020-01", "{", "\x7f",
    '"', "\\", 'a"b', "a\\b", "a\tb", "\n", "\x00", "\x1f",
]  # fmt: skip


def grammar(schema: dict) -> Callable[[str], bool]:
    """A function that returns whether the grammar of a schema accepts a text."""
    import xgrammar
    from xgrammar.testing import _is_grammar_accept_string

    compiled = xgrammar.Grammar.from_json_schema(json.dumps(schema))
    return lambda text: _is_grammar_accept_string(compiled, text)


def obj(**properties) -> dict:
    return {"type": "object", "properties": properties, "required": [*properties], "additionalProperties": False}


def accepted(schema) -> list:
    """Encoded VALUES, properly escaped and not, that the grammar of a schema accepts."""
    allows = grammar(schema)
    encoded = [json.dumps(value, ensure_ascii=False) for value in VALUES]
    raw = [text.replace("\\t", "\t").replace("\\n", "\n").replace('\\"', '"') for text in encoded]
    return [text for text in dict.fromkeys(encoded + raw) if allows(text)]


@pytest.mark.parametrize(
    "schema",
    [
        {"maxLength": 2},
        {"type": "string", "maxLength": 2},
        {"type": "string", "minLength": 1},
        {"type": "string", "format": "password", "maxLength": 2},
        {"type": "string", "minLength": 1, "maxLength": 3},
        {"type": ["string", "null"], "maxLength": 1},
        {"type": "string", "pattern": "^[^z]{0,3}$"},
        {"type": "string", "pattern": "a"},
        {"minimum": 2},
        {"type": ["integer", "string"], "maximum": 1, "maxLength": 1},
        {"properties": {"a": {"maxLength": 2}}, "required": ["a"]},
        obj(a={"$ref": "#/$defs/short"}) | {"$defs": {"short": {"type": "string", "maxLength": 1}}},
        {"type": "object", "propertyNames": {"maxLength": 1}},
        {"type": "object", "patternProperties": {"^.$": {"type": "integer"}}},
        {"type": "object", "properties": {"a": {"$ref": "#"}}},
        {"type": "array", "items": {"type": "integer", "exclusiveMaximum": 3}, "maxItems": 2},
        {"anyOf": [{"type": "string", "maxLength": 1}, INTEGER], "title": "t", "description": "d", "default": 1},
        {"anyOf": [STRING, {"type": "null"}], "type": ["string", "null"]},
        {"allOf": [{"$ref": "#/$defs/x"}], "description": "d", "$defs": {"x": INTEGER}},
        {"oneOf": [STRING, INTEGER, obj(k={"const": "x"}), obj(k={"const": "y"})]},
        {"oneOf": [{"$ref": "#/$defs/x"}, {"$ref": "#/$defs/y"}], "discriminator": {"propertyName": "k"},
         "$defs": {"x": obj(k={"const": "x", "type": "string"}), "y": obj(k={"enum": ["y", "z"]})}},
        {"enum": ["a", None, 1], "type": ["string", "null", "integer"]},
        {"const": "ab"},
        {"type": "array", "items": INTEGER, "uniqueItems": False},
        {"type": "number", "maximum": 2},
    ],
    ids=str,
)  # fmt: skip
def test_accepted_texts_are_json_that_follows_the_schema(schema: dict) -> None:
    before = json.dumps(schema)
    texts = accepted(normalize_schema(schema, "the_field"))
    assert texts
    for text in texts:
        Draft202012Validator(schema).validate(json.loads(text))
    assert json.dumps(schema) == before
    assert normalize_schema(normalize_schema(schema, "x"), "x") == normalize_schema(schema, "x")


FORMAT_CASES = {
    "email": (["a@b.co", "a.b+c@x-y.org"], ["a", "a@", "a b@c.de", "a@b..de", "a\\@b.de"]),
    "date": (["2020-01-31", "2024-02-29"], ["2020-02-30", "2021-02-29", "1900-02-29", "2020-04-31", "2020-13-01"]),
    "date-time": (["2020-01-31T10:00:00Z", "2020-12-31T23:59:59.5+02:00"], ["2020-02-30T10:00:00Z", "2020-01-31"]),
    "ipv4": (["1.2.3.4", "255.10.0.99"], ["256.1.1.1", "01.2.3.4", "1.2.3"]),
    "json-pointer": (["", "/a/b", "/a~1"], ["a", "/~2", '/"', "/\\", "/\t"]),
    "relative-json-pointer": (["0", "1/a", "0#"], ["-1", "01", '0/"']),
}


@pytest.mark.parametrize("name", [name for name, pattern in FORMATS.items() if pattern])
def test_formats_accept_only_valid_values(name: str) -> None:
    allows = grammar(normalize_schema({"type": "string", "format": name}, "x"))
    good, bad = FORMAT_CASES[name]
    assert [text for text in good if not allows(f'"{text}"')] == []
    assert [text for text in bad if allows(f'"{text}"')] == []


def matched(pattern: str) -> set[str]:
    """Those of TEXTS that the pattern's grammar accepts unescaped."""
    allows = grammar({"type": "string", "pattern": pattern})
    return {text for text in TEXTS if allows(f'"{text}"')}


def is_plain(text: str) -> bool:
    return json.dumps(text, ensure_ascii=False) == f'"{text}"'


@pytest.mark.parametrize(
    "pattern",
    [
        "", "^$", "^a$", "^a+$", "^(a|b)+$", "^a$|^b$", "(^a$)|(^b$)", "^(?:a|)b?$", "^(?P<name>a)b?$", "^.$",
        "^.*$",
        "^.{0,20000}$", "^[^a]{1,20000}$", r"^[\s\S]{0,20000}$", r"^[^\n]*$", r"^\S+( \S+)*$", r"^\s$", r"^\D+$",
        r"^[\d-]+$", "^[a-]$", "^[-a]$", r"^[\]\[]$", r"^[\^\-]$", r"^\x61\x62c?$", r"^\u00e9$", "^[é漢]$", "^é$",
        "^[ -~]{1,9}$", "^[!-~]+$", r"^\d{4}-\d{2}$", r"^\/$", r"^[\/]$", r"^\{$", "^[^a-z]+$", "^[\x7f-\xff]$",
    ],
)  # fmt: skip
def test_rewritten_patterns_match_the_same_plain_texts(pattern: str) -> None:
    # fullmatch, because $ also matches before a trailing newline in Python; ASCII classes as in JavaScript.
    expected = {text for text in TEXTS if is_plain(text) and re.fullmatch(pattern, text, re.ASCII)}
    if r"\s" not in pattern.lower():
        assert matched(rewrite_pattern(pattern)) == expected
    assert all(map(is_plain, matched(rewrite_pattern(pattern))))
    assert rewrite_pattern(rewrite_pattern(pattern)) == rewrite_pattern(pattern)


@pytest.mark.parametrize(
    ("least", "most", "wanted"),
    [(0, 0, {""}), (0, 1, {0, 1}), (2, 2, {2}), (1, None, {1, 2, 3, 7}), (0, 10**12, {0, 1, 2, 3, 7})],
    ids=str,
)
def test_a_length_pattern_counts_characters(least: int, most: int | None, wanted: set) -> None:
    pattern = length_pattern(least, most)
    lengths = {len(text) for text in matched(pattern)}
    assert lengths == {length if isinstance(length, int) else len(length) for length in wanted}
    assert matched(pattern) == {text for text in TEXTS if is_plain(text) and len(text) in lengths}
    assert rewrite_pattern(pattern) == pattern


def test_a_length_pattern_compiles_to_a_counter() -> None:
    """Compiling an automaton for this many characters would take the engine 15 seconds."""
    import xgrammar

    schema = json.dumps({"type": "string", "pattern": length_pattern(0, 8000)})
    assert "Regex(" not in str(xgrammar.Grammar.from_json_schema(schema))
