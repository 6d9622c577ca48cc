"""Progress reports of long-running work."""

from collections.abc import Callable

Progress = Callable[[str, float | None], None]
"""Called with the current step and the completed share of it, 0 … 1, or None if unknown."""


def ignore_progress(_step: str, _share: float | None) -> None:
    """Ignore progress reports."""
