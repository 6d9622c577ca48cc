"""Structured outputs that take too long to compile are rejected, and checking them is fast."""

import time

import pytest

from adapters.vllm.dialect.grammar_size import (
    MAX_CHOICE_LENGTH,
    MAX_OPTIONAL_PARTS,
    MAX_PROPERTIES,
    MAX_PROPERTIES_WITH_COUNT,
    check_schema,
)
from adapters.vllm.dialect.prepare import prepare
from domain.errors import InvalidRequestError
from domain.requests import GenerationRequest
from domain.sampling import SamplingParameters, StructuredOutputs

MANY = MAX_OPTIONAL_PARTS + 1
LONG = 6_000
MAX_S = 0.5


def properties(count: int) -> dict:
    return {"properties": {f"p{number}": {} for number in range(count)}}


def refusal(**form) -> InvalidRequestError | None:
    sampling = SamplingParameters(
        structured_outputs=StructuredOutputs(**form), structured_outputs_param="the_field"
    )
    try:
        prepare(GenerationRequest(prompt="x", sampling=sampling))
    except InvalidRequestError as error:
        return error
    return None


@pytest.mark.parametrize(
    "form",
    [
        {"regex": "(a|b)+[0-9]{3,5}x?"},
        {"regex": "a?" * MAX_OPTIONAL_PARTS},
        {"regex": r"\?" * MANY},
        {"regex": "[?*]" * MANY},
        {"regex": "(?:ab)" * MANY},
        {"grammar": 'root ::= "a" | "b"?'},
        {"grammar": "root ::= " + '"?" ' * MANY},
        {"grammar": "".join(f'r{number} ::= "a"? "b"*\n' for number in range(MANY))},
        {"choice": ["x" * MAX_CHOICE_LENGTH] * 3},
        {"json": properties(MAX_PROPERTIES)},
        {"json": properties(MAX_PROPERTIES_WITH_COUNT) | {"minProperties": 1}},
        {"json": "{not json"},
        {"json_object": True},
        {"structural_tag": "{}"},
    ],
    ids=lambda form: str(form)[:50],
)
def test_usual_structured_outputs_are_accepted(form):
    assert refusal(**form) is None


@pytest.mark.parametrize(
    "form",
    [
        {"regex": "a?" * MANY},
        {"regex": "a*" * MANY},
        {"regex": "a{0,5}" * MANY},
        {"regex": "(|a)" * MANY},
        {"grammar": "root ::= " + '"a"? ' * MANY},
        {"choice": ["a", "x" * (MAX_CHOICE_LENGTH + 1)]},
        {"json": {"enum": ["x" * (MAX_CHOICE_LENGTH + 1)]}},
        {"json": properties(MAX_PROPERTIES + 1)},
        {"json": properties(MAX_PROPERTIES_WITH_COUNT + 1) | {"maxProperties": 1}},
        {"json": {"pattern": "a?" * MANY}},
        {"json": {"patternProperties": {"a?" * MANY: {}}}},
        {"json": {"items": [{"anyOf": [{"pattern": "a?" * MANY}]}]}},
        {"json": '{"pattern": "' + "a?" * MANY + '"}'},
        {"structural_tag": '{"format": {"pattern": "' + "a?" * MANY + '"}}'},
    ],
    ids=lambda form: str(form)[:50],
)
def test_expensive_structured_outputs_are_rejected(form):
    error = refusal(**form)
    assert error is not None
    assert (error.param, error.code) == ("the_field", "invalid_value")


@pytest.mark.parametrize(
    "odd",
    [None, "x", 5, [], {}, {"properties": None}, {"enum": 5}, [[{"pattern": {}}]],
     {"pattern": 5, "properties": [], "enum": "x"}],
)  # fmt: skip
def test_invalid_schemas_are_ignored(odd):
    check_schema(odd, "the_field")


@pytest.mark.parametrize(
    "form",
    [
        {"regex": "[" * LONG},
        {"regex": "[a" * LONG},
        {"regex": "\\" * LONG},
        {"regex": "{" + " " * 4 * LONG},
        {"regex": "(" * LONG},
        {"regex": "|" + " " * LONG},
        {"grammar": '"' * LONG},
        {"grammar": '"a\\' * LONG},
        {"grammar": "\n" * LONG},
        {"grammar": "\n" + "a" * LONG},
        {"json": {"pattern": "[" * LONG}},
        {"json": '{"pattern": "' + "[" * LONG + '"}'},
    ],
    ids=lambda form: str(form)[:20],
)
def test_checking_takes_linear_time(form):
    # The check blocks the event loop, and inputs may have 100,000 bytes: quadratic time would block the service.
    began = time.process_time()
    refusal(**form)
    assert time.process_time() - began < MAX_S


@pytest.mark.parametrize(
    "schema", [{"not": {"pattern": "a?" * MANY}}, {"x": [{"enum": ["x" * (MAX_CHOICE_LENGTH + 1)]}]}]
)
def test_unnormalized_schemas_are_checked_under_every_keyword(schema):
    with pytest.raises(InvalidRequestError) as caught:
        check_schema(schema, "the_field")
    assert caught.value.param == "the_field"
