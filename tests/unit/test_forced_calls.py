"""Forced calls are parsed by their grammar, complete or incrementally."""

import json
from itertools import count

import pytest

from adapters.vllm.dialect.forced_calls import CallReader, hermes_shapes, parse_calls, shapes_from_tag

SHAPES = hermes_shapes(["f", "ff"])


def ids():
    numbers = count()
    return lambda: f"id{next(numbers)}"


def read(text: str, size: int) -> tuple[list[tuple[str, str, str]], bool]:
    """Id, name and arguments of each call, parsed in parts of the given size."""
    reader = CallReader(SHAPES, ids())
    calls: dict[int, list[str]] = {}
    for start in range(0, len(text), size):
        for delta in reader.feed(text[start : start + size]):
            if delta.name is not None:
                assert delta.index == len(calls)
                calls[delta.index] = [delta.id, delta.name, ""]
            calls[delta.index][2] += delta.arguments
    return [tuple(call) for call in calls.values()], reader.has_failed


def written(name: str, arguments: str, line_end: str = "\n") -> str:
    return f'<tool_call>{line_end}{{"name": "{name}", "arguments": {arguments}}}{line_end}</tool_call>'


CASES = [
    (written("f", '{"a": 1}'), [("id0", "f", '{"a": 1}')]),
    (written("ff", '{"a":[{"b":"}"}]}', ""), [("id0", "ff", '{"a":[{"b":"}"}]}')]),
    (written("f", "{}") + written("ff", "{ }", ""), [("id0", "f", "{}"), ("id1", "ff", "{ }")]),
    (written("f", "{}") + "\n" + written("f", "{}"), [("id0", "f", "{}"), ("id1", "f", "{}")]),
    (written("f", '{"a": "</tool_call> <tool_call>"}'), [("id0", "f", '{"a": "</tool_call> <tool_call>"}')]),
    (written("f", r'{"a": "\"}\\"}'), [("id0", "f", r'{"a": "\"}\\"}')]),
    (written("f", "true"), [("id0", "f", "true")]),
    (written("f", '"}"'), [("id0", "f", '"}"')]),
    # Truncated.
    ("", []),
    ("<tool", []),
    ('<tool_call>\n{"name":', []),
    ('<tool_call>\n{"name": "f', []),
    ('<tool_call>\n{"name": "f"', [("id0", "f", "")]),
    ('<tool_call>\n{"name": "f", "argum', [("id0", "f", "")]),
    ('<tool_call>\n{"name": "f", "arguments": {"a": "x', [("id0", "f", '{"a": "x')]),
    ('<tool_call>\n{"name": "f", "arguments": {"a": "x"}', [("id0", "f", '{"a": "x"}')]),
    ('<tool_call>\n{"name": "f", "arguments": {"a": "x"}}\n</tool', [("id0", "f", '{"a": "x"}')]),
    (written("f", "{}") + "<tool_call>", [("id0", "f", "{}")]),
]


@pytest.mark.parametrize(("text", "calls"), CASES)
@pytest.mark.parametrize("size", [1, 2, 3, 7, 1000])
def test_calls_are_parsed_incrementally(text, calls, size):
    assert read(text, size) == (calls, False)


@pytest.mark.parametrize(("text", "calls"), CASES)
def test_calls_are_parsed_from_a_complete_text(text, calls):
    found = parse_calls(text, SHAPES, ids())
    assert [(call.id, call.name, call.arguments) for call in found] == [
        (call_id, name, arguments.replace('{"a":[{"b":"}"}]}', '{"a": [{"b": "}"}]}').replace("{ }", "{}"))
        for call_id, name, arguments in calls
    ]


@pytest.mark.parametrize("text", ["hello", '<tool_call>\n{"name": "g"', "[TOOL_CALLS]"])
def test_other_text_is_rejected(text):
    assert parse_calls(text, SHAPES, ids()) is None
    assert read(text, 1) == ([], True)


def tag(**changes) -> dict:
    content = {"type": "json_schema", "json_schema": {}, "style": "json"} | changes.pop("content", {})
    return {"type": "tag", "begin": '<c>{"name": "f", "args": ', "content": content, "end": "}</c>"} | changes


def test_shapes_are_read_from_the_grammar():
    form = {"type": "tags_with_separator", "tags": [tag()], "separator": ""}
    (shape,) = shapes_from_tag(json.dumps({"format": form}))
    assert shape == ("f", '<c>{"name": "f"', ', "args": ', "}</c>")


@pytest.mark.parametrize(
    "form",
    [
        {"type": "triggered_tags", "tags": [tag()]},
        {"type": "tags_with_separator", "tags": [tag(), tag(begin="<function=f>")]},
        {"type": "tags_with_separator", "tags": [tag(content={"style": "qwen_xml"})]},
        {"type": "tags_with_separator", "tags": [tag(content={"type": "any_text"})]},
        {"type": "tags_with_separator", "tags": [tag(end=["a", "b"])]},
        {"type": "any_text"},
    ],
)
def test_other_grammars_have_no_shapes(form):
    assert shapes_from_tag(json.dumps({"format": form})) == []
    assert shapes_from_tag(None) == []
