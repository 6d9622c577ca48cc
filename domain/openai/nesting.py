"""Limits of JSON that clients design themselves: schemas and template variables.

Several libraries walk such a value, each recursively in its own way, and it travels to the engine in MessagePack,
which has no integers of more than 64 bits.
"""

from typing import Any

from domain.errors import InvalidRequestError

MAX_NESTING = 64
"""Levels of objects and arrays; vLLM allows as many in a schema (vllm.sampling_params.check_json_nesting)."""


def check_json(value: Any, param: str) -> None:
    """Check a decoded JSON value, in one walk.

    Args:
        value: the value; anything that is no object or array nests at no level.
        param: the request field that has it.

    Raises:
        InvalidRequestError: it nests deeper than MAX_NESTING levels, or holds an integer of more than 64 bits.
    """
    level, has_large_number = [value], False
    for _ in range(MAX_NESTING + 1):
        inner: list[Any] = []
        for item in level:
            if isinstance(item, dict):
                inner += item.values()
            elif isinstance(item, list):
                inner += item
            elif isinstance(item, int) and not -(2**63) <= item < 2**64:
                has_large_number = True
        if not inner:
            break
        level = inner
    else:
        raise InvalidRequestError(
            f"'{param}' is nested too deeply: objects and arrays may nest at most {MAX_NESTING} levels.",
            param=param,
            code="invalid_value",
        )
    if has_large_number:
        raise InvalidRequestError(
            f"'{param}' holds a whole number of more than 64 bits. Write it with a decimal point, or leave it "
            "out.",
            param=param,
            code="invalid_value",
        )
