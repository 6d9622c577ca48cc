"""Builds the stores that the settings describe."""

from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from domain.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Callable

    from sqlalchemy import URL

    from domain.batches import BatchStore
    from domain.files import FileStore
    from domain.state import StateStore

FILE_NAME = "state.sqlite3"


class StateOptions(msgspec.Struct, frozen=True, kw_only=True):
    """Where responses and conversations are kept, and how long."""

    is_on: bool = True
    folder: Path
    """Holds the SQLite file if there is no URL; created if missing."""
    database: str | None = None
    """URL of the database: `sqlite:///path`, `postgresql://…` or `postgres://…`."""
    max_age_days: int = 30
    """0 for no limit."""
    max_bytes: int = 2**30
    """0 for no limit."""

    def __repr__(self) -> str:
        """A representation without the URL, which may contain a password."""
        return f"StateOptions(is_on={self.is_on}, folder={str(self.folder)!r})"


class Stores(msgspec.Struct, frozen=True, kw_only=True):
    """The stores on one database."""

    state: "StateStore"
    """Starting and stopping it opens and closes the database for all of them."""
    files: "FileStore"
    batches: "BatchStore"


def build_state(options: StateOptions, *, interrupted: "Callable[[bytes], bytes]") -> Stores | None:
    """Build the stores without opening their database; None if nothing is kept.

    Args:
        options: the settings.
        interrupted: turns the body of an unfinished response into that of a failed one. Called in threads.

    Raises:
        ConfigurationError: the URL is none.
    """
    if not options.is_on:
        return None
    # Loaded only if needed: it takes about as long as the rest of the service's libraries.
    from adapters.state.retention import Limits
    from adapters.state.store import DatabaseStateStore

    limits = Limits(max_age_days=options.max_age_days, max_bytes=options.max_bytes)
    store = DatabaseStateStore(_url(options), interrupted=interrupted, limits=limits)
    return Stores(state=store, files=store.files, batches=store.batches)


class StateFacts(msgspec.Struct, frozen=True, kw_only=True):
    """A database as it is before the service opens it."""

    where: str
    """The path of an SQLite file; else host, port and database."""
    path: Path | None
    """The SQLite file."""
    size_bytes: int | None
    """Of an SQLite file; None if there is none yet."""


def inspect_state(options: StateOptions) -> StateFacts | None:
    """Look at the database without changing it; None if nothing is kept. Blocks.

    Raises:
        ConfigurationError: the service could not use it; the message names the setting.
    """
    if not options.is_on:
        return None
    from adapters.state.database import Database
    from adapters.state.failures import address

    url = _url(options)
    database = Database(url)
    try:
        database.inspect()
    finally:
        database.close()
    path = database.path
    size_bytes = path.stat().st_size if path is not None and path.exists() else None
    return StateFacts(where=address(url) if path is None else str(path), path=path, size_bytes=size_bytes)


def _url(options: StateOptions) -> "URL":
    """SQLAlchemy's URL of the database, with the driver that is used here."""
    from sqlalchemy import URL, make_url
    from sqlalchemy.exc import ArgumentError

    if options.database is None:
        return URL.create("sqlite", database=str(options.folder / FILE_NAME))
    try:
        url = make_url(options.database)
    except (ArgumentError, ValueError) as error:
        # The message may contain the URL.
        raise ConfigurationError(
            "STATE_DATABASE is not a URL. Percent-encode special characters of user and password."
        ) from error
    return url.set(drivername="sqlite" if url.get_backend_name() == "sqlite" else "postgresql+psycopg")
