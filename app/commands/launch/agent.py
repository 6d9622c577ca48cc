"""Describes how to configure an agent."""

from collections.abc import Callable, Mapping
from pathlib import Path

import msgspec

from app.commands.launch.target import Target

SMALL_CONTEXT = 65_536
"""Tokens. With a shorter context agents are configured to send fewer tools."""
MAX_ANSWER = 32_000
"""Tokens that Claude Code and OpenCode ask for by default."""
DEFAULT_ANSWER = 4096


class Configuration(msgspec.Struct, frozen=True, kw_only=True):
    """How one agent is made to use the service."""

    shown: str
    """What is printed: the part of a file, or commands."""
    usage: str
    """A sentence about what to do with that."""
    path: Path
    """The file that the agent reads."""
    merge: Callable[[str], tuple[str, list[str]]]
    """Adds the configuration to the file's content; returns the new content, and the names of replaced values.

    Raises ConfigurationError for what it can't read or change.
    """
    hints: list[str]
    """What else the user has to do or know."""


Configure = Callable[[Target, Mapping[str, str]], Configuration]
"""Makes the configuration, from the service and the environment."""


def is_small(target: Target) -> bool:
    """Whether the context is too short for what agents send by default."""
    return target.context is not None and target.context < SMALL_CONTEXT


def answer_tokens(target: Target) -> int:
    """The longest answer that an agent should ask for: an eighth of the context, to leave most for its input."""
    if target.context is None:
        return DEFAULT_ANSWER
    return max(1, min(MAX_ANSWER, target.context // 8))


def home(environ: Mapping[str, str]) -> Path:
    """The user's home folder."""
    return Path(environ.get("HOME") or Path.home())
