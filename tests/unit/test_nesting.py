import pytest

from domain.errors import InvalidRequestError
from domain.openai.nesting import MAX_NESTING, check_json


def nested(levels: int, *, in_lists: bool = False):
    value = 1
    for _ in range(levels):
        value = [value] if in_lists else {"a": value}
    return value


def refusal(value) -> InvalidRequestError:
    with pytest.raises(InvalidRequestError) as caught:
        check_json(value, "the_field")
    return caught.value


@pytest.mark.parametrize("in_lists", [False, True])
def test_nesting_is_limited(in_lists):
    check_json(nested(MAX_NESTING, in_lists=in_lists), "the_field")
    error = refusal(nested(MAX_NESTING + 1, in_lists=in_lists))
    assert (error.param, error.code) == ("the_field", "invalid_value")


def test_the_deepest_branch_counts():
    refusal({"a": 1, "b": [1, nested(MAX_NESTING), 2], "c": {}})


def test_very_deep_values_are_checked_without_recursion():
    value = nested(100_000)
    refusal(value)
    # Dismantled from outside, because freeing it at once would recurse too deeply.
    while isinstance(value, dict):
        value = value.pop("a")


@pytest.mark.parametrize("value", [None, "x", 1, 1.5, True, [], {}])
def test_values_without_nesting_are_accepted(value):
    check_json(value, "the_field")


@pytest.mark.parametrize("number", [0, -(2**63), 2**64 - 1, 1e300, True])
def test_integers_of_64_bits_are_accepted(number):
    check_json({"a": [number]}, "the_field")


@pytest.mark.parametrize("number", [2**64, -(2**63) - 1, 10**400])
def test_larger_integers_are_rejected(number):
    error = refusal({"a": [{"b": number}]})
    assert (error.param, error.code) == ("the_field", "invalid_value")
