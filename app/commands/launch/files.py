"""Writes an agent's configuration file, preserving its content and keeping a backup."""

import itertools
import os
import shutil
import tempfile
from pathlib import Path

import msgspec

from app.commands.launch.agent import Configuration
from domain.errors import ConfigurationError

BACKUP = ".before-memoria"


class Written(msgspec.Struct, frozen=True, kw_only=True):
    """What was written."""

    path: Path
    is_changed: bool
    backup: Path | None
    """A copy of the file as it was."""
    replaced: list[str]
    """Names of the values that were replaced."""


def write(configuration: Configuration) -> Written:
    """Add a configuration to the agent's file.

    Raises:
        ConfigurationError: the file can't be read, understood or written.
    """
    # The file that a link leads to, so that the link stays.
    path = configuration.path.resolve()
    try:
        before = path.read_bytes().decode() if path.exists() else None
        after, replaced = configuration.merge(before or "")
        if after == before:
            return Written(path=path, is_changed=False, backup=None, replaced=[])
        path.parent.mkdir(parents=True, exist_ok=True)
        backup = _back_up(path) if before is not None else None
        _replace(path, after)
    except UnicodeError:
        raise ConfigurationError(f"{path} is not text in UTF-8. Correct it first.") from None
    except OSError as error:
        where = f" ({error.filename})" if error.filename not in (None, str(path), path) else ""
        raise ConfigurationError(f"{path} can't be changed: {error.strerror or error}{where}.") from None
    except ConfigurationError as error:
        raise ConfigurationError(f"{path} {error}") from None
    return Written(path=path, is_changed=True, backup=backup, replaced=replaced)


def _back_up(path: Path) -> Path:
    """Copy a file; copies that are there stay."""
    for number in itertools.count(1):
        backup = path.with_name(f"{path.name}{BACKUP}{'' if number == 1 else f'-{number}'}")
        if not backup.exists():
            break
    shutil.copy2(path, backup)
    return backup


def _replace(path: Path, content: str) -> None:
    """Write a file at once, so that it is never incomplete; a new one is readable only for its user."""
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content.encode())
        if path.exists():
            shutil.copymode(path, name)
        os.replace(name, path)
    except BaseException:
        os.unlink(name)
        raise
