"""Opens the database, and hides what differs between SQLite and PostgreSQL."""

import contextlib
import os
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from sqlalchemy import (
    URL,
    BigInteger,
    ColumnElement,
    Connection,
    Engine,
    Table,
    cast,
    create_engine,
    event,
    func,
    select,
    text,
)
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import SQLAlchemyError

from adapters.state.failures import open_error
from adapters.state.migrate import is_current, migrate
from adapters.state.tables import metadata
from domain.errors import ConfigurationError

READERS = 4
"""Threads that read; a further one writes."""
BUSY_TIMEOUT_S = 10.0
"""How long SQLite waits for another process that writes."""
LOCK_TIMEOUT_S = 300.0
"""How long a start waits for other processes that open or migrate the database."""
WAL_LIMIT = 64 * 2**20
"""Bytes that SQLite leaves in its write-ahead log."""
MIGRATION_LOCK = 0x6D656D6F726961
"""Key of PostgreSQL's advisory lock around migrations."""
UNUSABLE = (SQLAlchemyError, sqlite3.Error, OSError, UnicodeError)
"""What drivers and files raise if a database can't be used."""
CONNECT_ARGUMENTS = {
    "connect_timeout": "5",
    # Milliseconds without acknowledgment after which a connection is closed.
    "tcp_user_timeout": "10000",
    "keepalives_idle": "15",
    "keepalives_interval": "5",
    "keepalives_count": "3",
    "application_name": "memoria-vllm",
}
"""libpq's parameters for connections, unless the URL sets them."""


class Database:
    """One database. All methods block, and are called in threads."""

    def __init__(self, url: URL) -> None:
        """Describe a database, without opening it.

        Args:
            url: SQLAlchemy's URL; its driver is `sqlite` or `postgresql+psycopg`.
        """
        self.url = url
        self.is_sqlite = url.get_backend_name() == "sqlite"
        self.path = Path(url.database or "").absolute() if self.is_sqlite else None
        self.engine = _sqlite_engine(url) if self.is_sqlite else _postgresql_engine(url)
        # A response and its items are read by several statements.
        self._reading = self.engine.execution_options(
            **({} if self.is_sqlite else {"isolation_level": "REPEATABLE READ"})
        )
        self._writing = self.engine.execution_options(is_write=True)

    def open(self) -> None:
        """Create the file if there is none, and bring the tables to this version.

        Raises:
            ConfigurationError: the database can't be used; the message names the setting.
        """
        try:
            if self.path is not None:
                _create_file(self.path)
            with self._locked(), self._writing.begin() as connection:
                if not self.is_sqlite:
                    connection.execute(select(func.pg_advisory_xact_lock(MIGRATION_LOCK)))
                migrate(connection)
                self._check(connection)
        except UNUSABLE as error:
            self.engine.dispose()
            raise open_error(self.url, error) from error

    def inspect(self) -> None:
        """Check that `open` would succeed, without creating or changing anything.

        Raises:
            ConfigurationError: as `open` does.
        """
        try:
            if self.path is not None and not _can_be_written(self.path):
                return
            with self.read() as connection:
                if is_current(connection):
                    self._check(connection)
                    return
            with self.write() as connection, connection.begin() as transaction:
                migrate(connection)
                self._check(connection)
                transaction.rollback()
        except UNUSABLE as error:
            raise open_error(self.url, error) from error

    def close(self) -> None:
        """Close all connections."""
        self.engine.dispose()

    @contextlib.contextmanager
    def read(self) -> Iterator[Connection]:
        """A connection in a transaction that sees one state of the database."""
        with self._reading.begin() as connection:
            yield connection

    @contextlib.contextmanager
    def write(self) -> Iterator[Connection]:
        """A connection without a transaction yet; `begin` waits for other processes that write."""
        with self._writing.connect() as connection:
            yield connection

    @property
    def now(self) -> ColumnElement[int]:
        """Unix time in seconds, by the clock of the database."""
        seconds = func.strftime("%s", "now") if self.is_sqlite else func.extract("epoch", func.clock_timestamp())
        return cast(seconds, BigInteger)

    def insert(self, table: Table) -> Any:
        """An INSERT construct that supports `on_conflict_do_nothing` and `on_conflict_do_update`."""
        return sqlite.insert(table) if self.is_sqlite else postgresql.insert(table)

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        """Keep other processes from opening an SQLite file at the same time, and prepare the file.

        The modes below can't be set while another connection uses the file.
        """
        if self.path is None:
            yield
            return
        lock = FileLock(f"{self.path}.lock", mode=0o600, timeout=LOCK_TIMEOUT_S)
        try:
            lock.acquire()
        except Timeout as error:
            raise ConfigurationError(
                f"STATE_DATABASE: another process has kept {self.path} locked for {LOCK_TIMEOUT_S:.0f} seconds"
                " while it opens it. Find out what it waits for, or end it."
            ) from error
        try:
            _prepare_file(self.path)
            yield
        finally:
            lock.release()

    def _check(self, connection: Connection) -> None:
        """Read a row of each table; raises if the file is cut short, or if reading is not allowed."""
        for table in metadata.tables.values():
            connection.execute(select(table).limit(1)).first()


def _can_be_written(path: Path) -> bool:
    """Whether the file exists and can be written; False if there is none yet and it can be created.

    Raises:
        OSError: neither.
    """
    if path.is_dir():
        raise IsADirectoryError(21, os.strerror(21), str(path))
    nearest = next(parent for parent in path.parents if parent.exists())
    if not nearest.is_dir():
        raise NotADirectoryError(20, os.strerror(20), str(nearest))
    needed = [(nearest, os.W_OK | os.X_OK), *([(path, os.R_OK | os.W_OK)] if path.exists() else [])]
    for each, access in needed:
        if not os.access(each, access):
            raise PermissionError(13, os.strerror(13), str(each))
    return path.exists()


def _create_file(path: Path) -> None:
    """Create the folder and an empty file if there is none, readable by the service's user alone."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o600))
    # The lock waits forever in a folder where it can't create its file.
    if not os.access(path.parent, os.W_OK | os.X_OK):
        raise PermissionError(13, os.strerror(13), str(path.parent))


def _prepare_file(path: Path) -> None:
    with contextlib.closing(sqlite3.connect(path, timeout=BUSY_TIMEOUT_S, isolation_level=None)) as connection:
        (mode,) = connection.execute("PRAGMA journal_mode").fetchone()
        if mode == "wal":
            return
        # Before the first table, and before the mode of the journal, which writes the first page.
        connection.execute("PRAGMA auto_vacuum = INCREMENTAL")
        connection.execute("PRAGMA journal_mode = WAL").fetchone()


def _sqlite_engine(url: URL) -> Engine:
    engine = create_engine(
        url,
        pool_size=READERS + 1,
        max_overflow=0,
        connect_args={"timeout": BUSY_TIMEOUT_S, "isolation_level": None, "cached_statements": 256},
    )

    @event.listens_for(engine, "connect")
    def set_up(connection: sqlite3.Connection, _record: object) -> None:
        # With the write-ahead log this loses nothing when a process ends, and at most the last commits when the
        # machine does; the file stays intact.
        connection.execute("PRAGMA synchronous = NORMAL")
        connection.execute(f"PRAGMA journal_size_limit = {WAL_LIMIT}")
        connection.execute("PRAGMA temp_store = MEMORY")

    @event.listens_for(engine, "begin")
    def begin(connection: Connection) -> None:
        # Python's driver would begin no transaction for reading, and a writing one too late to wait for others.
        is_write = connection.get_execution_options().get("is_write", False)
        connection.exec_driver_sql("BEGIN IMMEDIATE" if is_write else "BEGIN")

    return engine


def _postgresql_engine(url: URL) -> Engine:
    arguments = {name: value for name, value in CONNECT_ARGUMENTS.items() if name not in url.query}
    return create_engine(url, pool_size=READERS + 1, max_overflow=0, connect_args=arguments, pool_recycle=1800)


def pragma(connection: Connection, name: str) -> int:
    """The value of one of SQLite's pragmas."""
    return int(connection.execute(text(f"PRAGMA {name}")).scalar_one())
