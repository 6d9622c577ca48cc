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


@pytest.mark.parametrize(
    ("written", "text"),
    [
        (r"ls \uZZZZ foo", r"ls \uZZZZ foo"),
        (r"ls \u12", r"ls \u12"),
        (r"a\d+ \n b\\d", "a\\d+ \n b\\d"),
        (r"\ud83d\uZZ \t", "\ufffd\\uZZ \t"),
        (r"\ud8\ud83d\ude00", "\\ud8😀"),
    ],
)
def test_an_escape_that_json_does_not_have_stands_for_itself(written, text):
    arguments = f'{{"input": "{written}"}}'
    assert read([arguments]) == text
    assert read(list(arguments)) == text


def test_long_white_space_before_the_text_is_read_once():
    # If each part had to be matched with all before it, this would take minutes.
    blank = [" "] * 300_000
    assert read([*blank, "{", *blank, '"input"', *blank, ":", *blank, '"x"}']) == "x"


@pytest.mark.parametrize(
    "arguments", ["", "{}", "plain text", " \n", ' {"inputs": "x"}', '{"other": "x"}', '["input"]']
)
def test_other_arguments_are_the_input_themselves(arguments):
    assert read([arguments]) == arguments


def test_a_single_surrogate_can_be_encoded():
    assert read(['{"input": "a\\ud83d b"}']) == "a\ufffd b"
