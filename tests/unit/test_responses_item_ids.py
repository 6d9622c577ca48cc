"""Ids of items have a length that every database can index."""

import pytest

from domain.errors import InvalidRequestError
from domain.openai.responses.items import MAX_ID_LENGTH
from tests.unit.responses_parts import items

KINDS = [
    {"role": "user", "content": "Hi"},
    {"type": "function_call", "call_id": "call_1", "name": "look", "arguments": "{}"},
    {"type": "function_call_output", "call_id": "call_1", "output": "Nothing."},
    {"type": "reasoning", "summary": []},
    {"type": "item_reference"},
]


@pytest.mark.parametrize("kind", KINDS)
def test_an_id_that_is_too_long_is_refused(kind):
    with pytest.raises(InvalidRequestError) as caught:
        items({"role": "user", "content": "Hi"}, kind | {"id": "x" * (MAX_ID_LENGTH + 1)})
    assert (caught.value.param, caught.value.code) == ("input[1].id", "string_above_max_length")
    assert "512" in caught.value.message


@pytest.mark.parametrize("kind", KINDS)
def test_an_id_of_the_largest_length_is_accepted(kind):
    longest = "\N{GRINNING FACE}" * MAX_ID_LENGTH
    (item,) = items(kind | {"id": longest})
    assert item.id == longest


@pytest.mark.parametrize("missing", [{}, {"id": None}, {"id": ""}])
def test_an_id_may_be_missing(missing):
    assert len(items({"role": "user", "content": "Hi"} | missing)) == 1
