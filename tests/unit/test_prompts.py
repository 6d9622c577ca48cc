import re

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from domain.errors import InvalidRequestError
from domain.openai.common import MAX_TOKEN_ID, UsageCounter, as_prompts, new_id
from domain.results import GenerationUsage

texts = st.text(min_size=1, max_size=5)
token_lists = st.lists(st.integers(0, MAX_TOKEN_ID), min_size=1, max_size=5)


def refusal(value) -> InvalidRequestError:
    with pytest.raises(InvalidRequestError) as caught:
        as_prompts(value, "input")
    return caught.value


@given(texts)
@settings(max_examples=20, deadline=None)
def test_a_text_is_one_prompt(text):
    assert as_prompts(text, "prompt") == [text]


@given(token_lists)
@settings(max_examples=20, deadline=None)
def test_token_ids_are_one_prompt(tokens):
    assert as_prompts(tokens, "prompt") == [tokens]


@given(st.lists(texts, min_size=1, max_size=5) | st.lists(token_lists, min_size=1, max_size=5))
@settings(max_examples=20, deadline=None)
def test_several_texts_or_token_lists_are_as_many_prompts_in_their_order(several):
    assert as_prompts(several, "prompt") == several


@given(st.lists(texts | st.integers(0, 9) | token_lists, min_size=2, max_size=5))
@settings(max_examples=20, deadline=None)
def test_mixed_kinds_are_refused(mixed):
    kinds = {type(item) for item in mixed}
    if len(kinds) > 1:
        assert refusal(mixed).code == "invalid_type"
    else:
        assert as_prompts(mixed, "input")


@pytest.mark.parametrize(
    ("value", "param", "code"),
    [
        ([], "input", "empty_array"),
        ("", "input", "empty_input"),
        ([""], "input", "empty_input"),
        ([[]], "input", "empty_input"),
        (["a", "", "b"], "input[1]", "empty_input"),
        ([[1], [2], []], "input[2]", "empty_input"),
        ([-1], "input", "invalid_value"),
        ([MAX_TOKEN_ID + 1], "input", "invalid_value"),
        ([[1], [1, -1]], "input[1]", "invalid_value"),
        ([10**30], "input", "invalid_value"),
    ],
)
def test_an_impossible_prompt_is_refused_and_its_place_told(value, param, code):
    error = refusal(value)
    assert (error.param, error.code) == (param, code)
    assert f"'{param}'" in error.message


def test_truth_values_are_no_token_ids():
    assert refusal([True, False]).code == "invalid_type"


def usage_of(*counted: GenerationUsage) -> dict:
    counter = UsageCounter()
    for usage in counted:
        counter.add(usage)
    return msgspec.to_builtins(counter.total())


def test_the_total_counts_prompt_and_completion():
    usage = usage_of(GenerationUsage(prompt_tokens=3, completion_tokens=4))
    assert usage == {"prompt_tokens": 3, "completion_tokens": 4, "total_tokens": 7}


def test_nothing_counted_is_nothing():
    assert usage_of() == {"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0}


def test_reasoning_tokens_are_added_up_and_told_apart():
    usage = usage_of(
        GenerationUsage(prompt_tokens=1, completion_tokens=5, reasoning_tokens=2),
        GenerationUsage(prompt_tokens=1, completion_tokens=5),
        GenerationUsage(prompt_tokens=1, completion_tokens=5, reasoning_tokens=4),
    )
    assert (usage["completion_tokens"], usage["total_tokens"]) == (15, 18)
    assert usage["completion_tokens_details"] == {"reasoning_tokens": 6}


def test_a_reasoning_model_that_did_not_reason_says_so():
    usage = usage_of(GenerationUsage(prompt_tokens=1, completion_tokens=1, reasoning_tokens=0))
    assert usage["completion_tokens_details"] == {"reasoning_tokens": 0}


def test_cached_tokens_of_all_prompts_are_added_up():
    usage = usage_of(
        GenerationUsage(prompt_tokens=40, completion_tokens=1, cached_tokens=32),
        GenerationUsage(prompt_tokens=40, completion_tokens=1),
        GenerationUsage(prompt_tokens=40, completion_tokens=1, cached_tokens=16),
    )
    assert usage["prompt_tokens_details"] == {"cached_tokens": 48, "audio_tokens": 0}


def test_an_empty_cache_is_not_an_unknown_one():
    usage = usage_of(GenerationUsage(prompt_tokens=1, completion_tokens=1, cached_tokens=0))
    assert usage["prompt_tokens_details"] == {"cached_tokens": 0, "audio_tokens": 0}
    assert "prompt_tokens_details" not in usage_of(GenerationUsage(prompt_tokens=1, completion_tokens=1))


def test_ids_have_their_prefix_and_are_never_the_same():
    first, second = new_id("cmpl"), new_id("cmpl")
    assert first != second
    assert re.fullmatch(r"cmpl-[0-9a-f]{32}", first)
