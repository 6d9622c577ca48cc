"""Adds values to the content of a TOML or JSON file and keeps everything else in it."""

import json
import tomllib
from collections.abc import Callable, Mapping, MutableMapping
from typing import Any

import tomlkit
from tomlkit.exceptions import TOMLKitError
from tomlkit.items import InlineTable

from domain.errors import ConfigurationError

ADD_BY_HAND = "Add the configuration by hand; without --write it is printed."
Values = Mapping[str, Any]


def merge_toml(content: str, values: Values, defaults: Values) -> tuple[str, list[str]]:
    """Add values to TOML; comments and order stay.

    Args:
        content: what there is.
        values: nested mappings; these replace what there is.
        defaults: the same, for what is absent only.

    Returns:
        The new content, and the dotted names of the values that were replaced.

    Raises:
        ConfigurationError: the content is not valid, or can't be changed.
    """
    try:
        expected = tomllib.loads(content)
        document = tomlkit.parse(content)
    except (ValueError, RecursionError) as error:
        raise ConfigurationError(f"is not valid TOML: {error}. Correct it first. {ADD_BY_HAND}") from None
    for wanted, is_default in ((values, False), (defaults, True)):
        _merge(expected, wanted, _new_dict, is_default=is_default)
    try:
        replaced = _merge(document, values, _new_table)
        _merge(document, defaults, _new_table, is_default=True)
        merged = tomlkit.dumps(document)
        is_right = tomllib.loads(merged) == expected
    except (TOMLKitError, ValueError):
        is_right = False
    # Some forms can't be added to, such as dotted keys; then the file stays as it is.
    if not is_right:
        raise ConfigurationError(f"is written in a way that can't be changed without a risk. {ADD_BY_HAND}")
    return merged, replaced


def merge_json(content: str, values: Values) -> tuple[str, list[str]]:
    """Add values to JSON, which is indented again.

    Args:
        content: what there is.
        values: nested mappings; these replace what there is.

    Returns:
        The new content, and the dotted names of the values that were replaced.

    Raises:
        ConfigurationError: the content is no JSON object, or can't be changed.
    """
    try:
        document = json.loads(content) if content.strip() else {}
    except (ValueError, RecursionError) as error:
        raise ConfigurationError(
            f"is not valid JSON: {error}. Comments are not understood here. {ADD_BY_HAND}"
        ) from None
    if not isinstance(document, dict):
        raise ConfigurationError(f"is not a JSON object. {ADD_BY_HAND}")
    replaced = _merge(document, values, _new_dict)
    return f"{json.dumps(document, indent=2, ensure_ascii=False)}\n", replaced


def _new_table(parent: Any, values: Values) -> Any:
    if isinstance(parent, InlineTable):
        return tomlkit.inline_table()
    return tomlkit.table(is_super_table=all(isinstance(value, Mapping) for value in values.values()))


def _new_dict(_parent: Any, _values: Values) -> Any:
    return {}


def _merge(
    document: MutableMapping[str, Any],
    values: Values,
    new_table: Callable[[Any, Values], Any],
    *,
    is_default: bool = False,
    path: str = "",
) -> list[str]:
    """Set values in nested mappings; returns the dotted names of those that were replaced."""
    replaced: list[str] = []
    for name, value in values.items():
        dotted = f"{path}{name}"
        if isinstance(value, Mapping):
            if name not in document:
                document[name] = new_table(document, value)
            child = document[name]
            if not isinstance(child, MutableMapping):
                raise ConfigurationError(f"has a value for '{dotted}' that is not a table. {ADD_BY_HAND}")
            replaced += _merge(child, value, new_table, is_default=is_default, path=f"{dotted}.")
        elif name not in document:
            document[name] = value
        elif document[name] != value and not is_default:
            document[name] = value
            replaced.append(dotted)
    return replaced
