"""What is declared of a setting."""

from collections.abc import Callable
from typing import Any

import msgspec


class SecretValueError(ValueError):
    """What was written can't be used, and is not to be repeated."""


class Variable(msgspec.Struct, frozen=True, kw_only=True):
    """One environment variable."""

    name: str
    default: str
    """As it would be written; empty means unset."""
    parse: Callable[[str], Any]
    """Raises ValueError with a sentence that says what is allowed."""
    about: str
    """What it is for, with its unit."""
    is_secret: bool = False


class Group(msgspec.Struct, frozen=True, kw_only=True):
    """Variables that stand under one heading."""

    title: str
    about: str
    """One sentence."""
    guide: str = ""
    """Page that says more, as a path in the project."""
    variables: tuple[Variable, ...]
