"""Limits nesting and integers of client-defined JSON: schemas and template variables.

Several libraries walk such a value recursively, and it is sent to the engine as MessagePack, which has no integers
of more than 64 bits.
"""

from typing import Any

from domain.errors import InvalidRequestError

MAX_NESTING = 64
"""Levels of objects and arrays, the limit of vLLM for schemas (vllm.sampling_params.check_json_nesting)."""


def check_json(value: Any, param: str) -> None:
    """Check a decoded JSON value in a single walk.

    Args:
        value: the value; scalars have no nesting levels.
        param: the request field of the value.

    Raises:
        InvalidRequestError: it has more than MAX_NESTING levels, or an integer of more than 64 bits.
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
            f"'{param}' contains an integer of more than 64 bits. Write it with a decimal point, or omit it.",
            param=param,
            code="invalid_value",
        )
