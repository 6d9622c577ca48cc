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
def test_so_many_levels_are_taken_and_one_more_is_refused(in_lists):
    check_json(nested(MAX_NESTING, in_lists=in_lists), "the_field")
    error = refusal(nested(MAX_NESTING + 1, in_lists=in_lists))
    assert (error.param, error.code) == ("the_field", "invalid_value")


def test_the_deepest_branch_counts():
    refusal({"a": 1, "b": [1, nested(MAX_NESTING), 2], "c": {}})


def test_no_depth_is_too_much_to_be_looked_at():
    value = nested(100_000)
    refusal(value)
    # Taken apart from outside: to let go of it all at once takes the stack.
    while isinstance(value, dict):
        value = value.pop("a")


@pytest.mark.parametrize("value", [None, "x", 1, 1.5, True, [], {}])
def test_what_does_not_nest_is_taken(value):
    check_json(value, "the_field")


@pytest.mark.parametrize("number", [0, -(2**63), 2**64 - 1, 1e300, True])
def test_numbers_of_64_bits_are_taken(number):
    check_json({"a": [number]}, "the_field")


@pytest.mark.parametrize("number", [2**64, -(2**63) - 1, 10**400])
def test_larger_ones_are_refused(number):
    error = refusal({"a": [{"b": number}]})
    assert (error.param, error.code) == ("the_field", "invalid_value")
