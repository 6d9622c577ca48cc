"""The input of a custom tool, unwrapped from a function's arguments in parts."""

import itertools
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from domain.openai.responses.custom_input import CustomInput


def read(parts: list[str]) -> str:
    reader = CustomInput()
    return "".join([reader.feed(part) for part in parts] + [reader.rest()])


@given(st.text(st.characters(codec="utf-8")), st.booleans(), st.lists(st.integers(0, 200), max_size=8))
def test_any_text_comes_out_as_it_is_in_parts_of_any_size(text, is_ascii, cuts):
    arguments = json.dumps({"input": text}, ensure_ascii=is_ascii)
    places = [0, *sorted(min(cut, len(arguments)) for cut in cuts), len(arguments)]
    parts = [arguments[begin:end] for begin, end in itertools.pairwise(places)]
    assert read(parts) == text
    assert read(list(arguments)) == text


def test_text_comes_as_soon_as_it_is_complete():
    reader = CustomInput()
    assert [reader.feed(part) for part in ('{"inp', 'ut": "a', "b\\", "n", '\\ud83d', '\\ude00c"}', " ")] == [
        "", "a", "b", "\n", "", "😀c", "",
    ]  # fmt: skip


@pytest.mark.parametrize("arguments", ["", "{}", "plain text", '{"other": "x"}', '["input"]'])
def test_other_arguments_are_the_input_themselves(arguments):
    assert read([arguments]) == arguments


def test_a_single_surrogate_can_be_encoded():
    assert read(['{"input": "a\\ud83d b"}']) == "a\ufffd b"
