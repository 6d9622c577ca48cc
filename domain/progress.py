"""How work that takes a while reports how far it is."""

from collections.abc import Callable

Progress = Callable[[str, float | None], None]
"""Called with what is being done and how much of it is done, 0 … 1, or None if that is not known."""


def ignore_progress(_step: str, _share: float | None) -> None:
    """Report to nobody."""
