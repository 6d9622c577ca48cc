"""Anthropic's SDK, loaded when a test first uses it.

It takes more than a second to load, and each process of the tests loads every module of tests.
"""

import importlib
from typing import Any


class _Lazy:
    """A module that is imported when one of its attributes is needed."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __getattr__(self, attribute: str) -> Any:
        # pytest looks for its own marks at every name of a module.
        if attribute.startswith("_"):
            raise AttributeError(attribute)
        return getattr(importlib.import_module(self._name), attribute)


anthropic = _Lazy("anthropic")
"""The package `anthropic`."""
