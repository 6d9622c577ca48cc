"""Passing over fields that a request type does not know."""

from functools import cache
from typing import Any

from msgspec import inspect


def without_unknown(value: Any, body_type: Any) -> Any:
    """A decoded JSON value without what its type does not know, at any depth.

    What does not fit the type in another way stays as it is: to say so is the decoder's business.
    """
    return _pruned(value, _type_info(body_type))


@cache
def _type_info(body_type: Any) -> inspect.Type:
    return inspect.type_info(body_type)


def _pruned(value: Any, kind: inspect.Type) -> Any:
    if isinstance(kind, inspect.Metadata):
        return _pruned(value, kind.type)
    if isinstance(kind, inspect.UnionType):
        return _pruned_by_one_of(value, kind.types)
    if isinstance(kind, inspect.StructType) and isinstance(value, dict):
        known = {field.encode_name: field.type for field in kind.fields}
        kept = {name: _pruned(item, known[name]) for name, item in value.items() if name in known}
        if kind.tag_field is not None and kind.tag_field in value:
            kept[kind.tag_field] = value[kind.tag_field]
        return kept
    if isinstance(kind, inspect.ListType) and isinstance(value, list):
        return [_pruned(item, kind.item_type) for item in value]
    return value


def _pruned_by_one_of(value: Any, kinds: tuple[inspect.Type, ...]) -> Any:
    """Prune by the one kind of a union that the value is of."""
    for kind in kinds:
        inner = kind.type if isinstance(kind, inspect.Metadata) else kind
        if isinstance(inner, inspect.StructType) and isinstance(value, dict):
            if inner.tag_field is None or value.get(inner.tag_field) == inner.tag:
                return _pruned(value, inner)
        elif isinstance(inner, inspect.DictType) and isinstance(value, dict):
            return value
        elif isinstance(inner, inspect.ListType) and isinstance(value, list):
            return _pruned(value, inner)
    return value
