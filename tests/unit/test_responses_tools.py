"""Tools of the Responses API, as the functions that the model gets."""

import json
from typing import Any

import msgspec
import pytest

from domain.conversation import ToolChoice
from domain.errors import InvalidRequestError
from domain.openai.responses.tools import CallableTools, Choice, callable_tools, read_tools
from tests.unit.responses_parts import decode, refuse

F = {"type": "function", "name": "f", "parameters": {"type": "object", "properties": {"a": {"type": "string"}}}}
G = {"type": "function", "name": "g", "description": "G", "strict": True}
FREE = {"type": "custom", "name": "free", "description": "Runs."}
REGEX = {"type": "custom", "name": "re", "format": {"type": "grammar", "syntax": "regex", "definition": "a|b"}}
LARK = {
    "type": "custom",
    "name": "lark",
    "format": {"type": "grammar", "syntax": "lark", "definition": 'start: "x"'},
}
SEARCH = {"type": "web_search"}
ALLOWED = {"type": "allowed_tools", "mode": "auto"}


def tools(*values: Any, choice: Any = None, ignored: list[str] | None = None) -> CallableTools:
    def ignore(path: str, name: str) -> None:
        if ignored is None:
            refuse(path, name)
        else:
            ignored.append(f"{path} {name}")

    read = read_tools([json.dumps(value).encode() for value in values], decode, ignore)
    return callable_tools(read, msgspec.convert(choice, Choice | None))


def test_functions_are_passed_on_with_their_fields():
    found = tools(F, G)
    assert found.choice is ToolChoice.AUTO
    assert [(function.name, function.strict) for function in found.functions] == [("f", None), ("g", True)]
    assert found.functions[0].parameters == F["parameters"]
    assert found.functions[1].parameters == {"type": "object", "properties": {}}
    assert found.params == ["tools[0].parameters", "tools[1].parameters"]


def test_a_custom_tool_is_a_strict_function_with_one_text():
    found = tools(FREE)
    (function,) = found.functions
    assert (function.name, function.description, function.strict) == ("free", "Runs.", True)
    assert function.parameters == {
        "type": "object",
        "properties": {"input": {"type": "string"}},
        "required": ["input"],
        "additionalProperties": False,
    }
    assert found.custom == {"free"}


def test_a_regex_constrains_the_text():
    (function,) = tools(REGEX).functions
    assert (function.parameters or {})["properties"]["input"]["pattern"] == "^(?:a|b)$"


def test_a_lark_grammar_is_described_and_constrains_a_forced_call():
    (function,) = tools(LARK).functions
    assert 'start: "x"' in (function.description or "")
    forced = tools(LARK, choice={"type": "custom", "name": "lark"})
    assert forced.grammar is not None
    assert forced.grammar.grammar == 'start: "x"'
    assert (forced.choice, forced.name) == (ToolChoice.AUTO, "lark")


@pytest.mark.parametrize(
    ("choice", "expected", "names"),
    [
        (None, ToolChoice.AUTO, ["f", "free"]),
        ("auto", ToolChoice.AUTO, ["f", "free"]),
        ("required", ToolChoice.REQUIRED, ["f", "free"]),
        ("none", ToolChoice.NONE, []),
        ({"type": "function", "name": "f"}, ToolChoice.NAMED, ["f", "free"]),
        ({"type": "custom", "name": "free"}, ToolChoice.NAMED, ["f", "free"]),
        (
            {"type": "allowed_tools", "mode": "required", "tools": [{"type": "function", "name": "f"}]},
            ToolChoice.REQUIRED,
            ["f"],
        ),
        ({"type": "allowed_tools", "mode": "auto", "tools": [{"type": "web_search"}]}, ToolChoice.NONE, []),
    ],
)
def test_every_choice(choice, expected, names):
    found = tools(F, FREE, choice=choice)
    assert found.choice is expected
    assert [function.name for function in found.functions] == names


def test_forced_calls_follow_their_schema():
    assert [function.strict for function in tools(F, choice="required").functions] == [True]


def test_tools_of_openai_are_ignored():
    ignored: list[str] = []
    assert [function.name for function in tools(SEARCH, F, ignored=ignored).functions] == ["f"]
    assert ignored == ["tools[0] web_search"]


@pytest.mark.parametrize(
    ("values", "choice", "param"),
    [
        ([F, F], None, "tools[1].name"),
        ([{"name": "f"}], None, "tools[0].type"),
        ([7], None, "tools[0]"),
        ([{"type": "function"}], None, "tools[0]"),
        ([{"type": "function", "name": "a b"}], None, "tools[0]"),
        ([F | {"parameters": {"type": "array"}}], None, "tools[0].parameters"),
        ([], "required", "tool_choice"),
        (
            [F],
            {"type": "allowed_tools", "mode": "required", "tools": [{"type": "web_search"}]},
            "tool_choice",
        ),
        ([F], {"type": "function", "name": "g"}, "tool_choice"),
        ([F], {"type": "custom", "name": "f"}, "tool_choice"),
        (
            [F],
            {"type": "allowed_tools", "mode": "auto", "tools": [{"type": "function", "name": "x"}]},
            "tool_choice",
        ),
        ([F | {"name": f"f{number}"} for number in range(129)], None, "tools"),
        ([SEARCH], None, "tools[0]"),
    ],
)
def test_what_is_refused(values, choice, param):
    with pytest.raises(InvalidRequestError) as refused:
        tools(*values, choice=choice)
    assert refused.value.param == param
