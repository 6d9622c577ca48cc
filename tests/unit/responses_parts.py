"""Decodes parts of Responses bodies for tests, as the endpoint does."""

import json
from typing import Any

import msgspec

from domain.errors import InvalidRequestError
from domain.openai.responses.body import ResponseBody
from domain.openai.responses.items import ResponseItem, read_items


def decode(raw: bytes, kind: type[Any], path: str) -> Any:
    try:
        return msgspec.json.decode(raw, type=kind)
    except msgspec.ValidationError as error:
        raise InvalidRequestError(f"{path}: {error}", param=path) from None


def refuse(path: str, name: str) -> None:
    raise InvalidRequestError(f"unknown {name}", param=path)


def items(*values: Any) -> list[ResponseItem]:
    found: Any = read_items([json.dumps(value).encode() for value in values], decode, refuse)
    return found


def body(**fields: Any) -> ResponseBody:
    return msgspec.json.decode(json.dumps({"model": "m", "input": "hi"} | fields), type=ResponseBody)
