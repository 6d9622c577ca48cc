"""How deep JSON of a client's own design may nest, and how large its whole numbers may be.

Schemas and template variables are walked by several libraries, each in its own way recursively, and travel to
the engine in MessagePack, which knows no whole number of more than 64 bits.
"""

from typing import Any

from domain.errors import InvalidRequestError

MAX_NESTING = 64
"""Levels of objects and arrays; vLLM allows as many in a schema (vllm.sampling_params.check_json_nesting)."""


def check_nesting(value: Any, param: str) -> None:
    """Raise InvalidRequestError if a decoded JSON value nests deeper than MAX_NESTING levels."""
    level = [value]
    for _ in range(MAX_NESTING + 1):
        level = [item for container in level for item in _items(container)]
        if not level:
            return
    raise InvalidRequestError(
        f"'{param}' is nested too deeply: objects and arrays may nest at most {MAX_NESTING} levels.",
        param=param,
        code="invalid_value",
    )


def check_numbers(value: Any, param: str) -> None:
    """Raise InvalidRequestError if a decoded JSON value holds a whole number of more than 64 bits."""
    left = [value]
    while left:
        item = left.pop()
        left += _items(item)
        if isinstance(item, int) and not -(2**63) <= item < 2**64:
            raise InvalidRequestError(
                f"'{param}' holds a whole number of more than 64 bits. Write it with a decimal point, or leave it "
                "out.",
                param=param,
                code="invalid_value",
            )


def _items(value: Any) -> list[Any]:
    if isinstance(value, dict):
        return list(value.values())
    return value if isinstance(value, list) else []
