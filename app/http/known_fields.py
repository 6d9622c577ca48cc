"""Finds the fields that a request type knows, at any depth of a body, and drops those that it does not know."""

import re
from functools import cache
from typing import Any

from msgspec import inspect

_STEP = re.compile(r"[^.\[\]]+")


def without_unknown(value: Any, body_type: Any) -> Any:
    """A decoded JSON value without the fields that its type does not know, at any depth.

    Values that violate the type in another way stay as they are: the decoder reports them.
    """
    return _pruned(value, _type_info(body_type))


def names_at(value: Any, body_type: Any, path: str) -> list[str]:
    """The names of the fields that a body's type knows at a path.

    Args:
        value: the decoded body, which selects the member of a union; not needed at the top.
        body_type: its type.
        path: such as `messages[0].content[1]`; empty for the body itself.
    """
    kind: inspect.Type | None = _type_info(body_type)
    for step in _STEP.findall(path):
        kind = _chosen(value, kind)
        if isinstance(kind, inspect.StructType) and isinstance(value, dict):
            value, kind = value.get(step), _fields(kind).get(step)
        elif isinstance(kind, inspect.ListType) and isinstance(value, list) and int(step) < len(value):
            value, kind = value[int(step)], kind.item_type
        else:
            # A body may contain the same field twice, and then the decoder meant the other one.
            return []
    kind = _chosen(value, kind)
    return list(_fields(kind)) if isinstance(kind, inspect.StructType) else []


@cache
def _type_info(body_type: Any) -> inspect.Type:
    return inspect.type_info(body_type)


def _fields(kind: inspect.StructType) -> dict[str, inspect.Type]:
    return {field.encode_name: field.type for field in kind.fields}


def _pruned(value: Any, kind: inspect.Type | None) -> Any:
    kind = _chosen(value, kind)
    if isinstance(kind, inspect.StructType) and isinstance(value, dict):
        known = _fields(kind)
        kept = {name: _pruned(item, known[name]) for name, item in value.items() if name in known}
        if kind.tag_field is not None and kind.tag_field in value:
            kept[kind.tag_field] = value[kind.tag_field]
        return kept
    if isinstance(kind, inspect.ListType) and isinstance(value, list):
        return [_pruned(item, kind.item_type) for item in value]
    return value


def _chosen(value: Any, kind: inspect.Type | None) -> inspect.Type | None:
    """The type without its constraints; of a union, the member that the value fits, or None if it fits none."""
    if isinstance(kind, inspect.Metadata):
        return _chosen(value, kind.type)
    if isinstance(kind, inspect.UnionType):
        return next((inner for one in kind.types if _fits(value, inner := _chosen(value, one))), None)
    return kind


def _fits(value: Any, kind: inspect.Type | None) -> bool:
    """Whether an object or array has this type, judged by its tag; other values contain no unknown fields."""
    if isinstance(kind, inspect.StructType):
        return isinstance(value, dict) and (kind.tag_field is None or value.get(kind.tag_field) == kind.tag)
    if isinstance(kind, inspect.DictType):
        return isinstance(value, dict)
    return isinstance(kind, inspect.ListType) and isinstance(value, list)
