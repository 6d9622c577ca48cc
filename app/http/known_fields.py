"""Finds the fields that a request type declares, at any depth of a body, and drops all others.

Lists that are marked as tolerant (`domain/tolerance.py`) also lose members of an unknown type.
"""

import re
from collections.abc import Iterator
from functools import cache
from typing import Any

from msgspec import inspect

from domain.tolerance import TOLERANT

_STEP = re.compile(r"[^.\[\]]+")
_POSITION = re.compile(r"\[(\d+)\]")
TYPE = "type"
"""The field of a tolerant list's members that says what they are."""


def without_unknown(
    value: Any,
    body_type: Any,
    dropped: list[str] | None = None,
    *,
    drop_members: bool = False,
    kept: dict[str, list[int]] | None = None,
) -> Any:
    """A decoded JSON value without the fields that its type does not know, at any depth.

    Values that violate the type in another way stay as they are: the decoder reports them.

    Args:
        value: the decoded value.
        body_type: its type.
        dropped: receives what was dropped, such as `messages[0].foo` and `tools[1] (web_search)`.
        drop_members: also drop members of unknown type from lists that tolerate them.
        kept: receives, by path, the positions of the other members of a list that lost some.
    """
    pruning = _Pruning([] if dropped is None else dropped, {} if kept is None else kept, drop_members)
    return pruning.pruned(value, _type_info(body_type), "")


def original_path(path: str, kept: dict[str, list[int]]) -> str:
    """The path in a body as received for one in the value that `without_unknown` returned.

    Args:
        path: such as `tools[0].name`.
        kept: from `without_unknown`.
    """
    found = ""
    # Every other part is a position.
    for number, part in enumerate(_POSITION.split(path)):
        found += f"[{kept[found][int(part)] if found in kept else part}]" if number % 2 else part
    return found


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


class _Pruning:
    """One pass over a body."""

    def __init__(self, dropped: list[str], kept: dict[str, list[int]], drop_members: bool) -> None:
        self._dropped = dropped
        self._kept = kept
        self._drop_members = drop_members

    def pruned(self, value: Any, kind: inspect.Type | None, path: str) -> Any:
        """The value without what its type does not know; `path` is that of the value."""
        tolerant = self._drop_members and _is_tolerant(kind)
        kind = _chosen(value, kind)
        if isinstance(kind, inspect.StructType) and isinstance(value, dict):
            return self._object(value, kind, path)
        if isinstance(kind, inspect.ListType) and isinstance(value, list):
            known = set(_types(kind.item_type)) if tolerant else set()
            kept = {
                position: self.pruned(item, kind.item_type, f"{path}[{position}]")
                for position, item in enumerate(value)
                if not (tolerant and self._drops(item, known, f"{path}[{position}]"))
            }
            if len(kept) < len(value):
                self._kept[path] = list(kept)
            return list(kept.values())
        return value

    def _object(self, value: dict[str, Any], kind: inspect.StructType, path: str) -> dict[str, Any]:
        known = _fields(kind)
        kept = {}
        for name, item in value.items():
            inner = f"{path}.{name}" if path else name
            if name in known:
                kept[name] = self.pruned(item, known[name], inner)
            elif name == kind.tag_field:
                kept[name] = item
            else:
                self._dropped.append(inner)
        return kept

    def _drops(self, item: Any, known: set[Any], path: str) -> bool:
        """Whether a member of a tolerant list is of an unknown type, which it has to name."""
        own = item.get(TYPE) if isinstance(item, dict) else None
        if not isinstance(own, str) or own in known:
            return False
        self._dropped.append(f"{path} ({own})")
        return True


@cache
def _type_info(body_type: Any) -> inspect.Type:
    return inspect.type_info(body_type)


def _fields(kind: inspect.StructType) -> dict[str, inspect.Type]:
    return {field.encode_name: field.type for field in kind.fields}


def _is_tolerant(kind: inspect.Type | None) -> bool:
    """Whether a field's list, which may be optional, is marked as tolerant."""
    if isinstance(kind, inspect.Metadata):
        return bool((kind.extra or {}).get(TOLERANT)) or _is_tolerant(kind.type)
    return isinstance(kind, inspect.UnionType) and any(map(_is_tolerant, kind.types))


def _types(kind: inspect.Type) -> Iterator[Any]:
    """The types of objects that a list's members may be: their tags, or the values of a field `type`."""
    if isinstance(kind, inspect.Metadata):
        yield from _types(kind.type)
    elif isinstance(kind, inspect.UnionType):
        for one in kind.types:
            yield from _types(one)
    elif isinstance(kind, inspect.LiteralType):
        yield from kind.values
    elif isinstance(kind, inspect.StructType):
        if kind.tag_field == TYPE:
            yield kind.tag
        elif (field := _fields(kind).get(TYPE)) is not None:
            yield from _types(field)


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
