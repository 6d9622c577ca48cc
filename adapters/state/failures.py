"""Says in one sentence why a database can't be used, without its password."""

import os
import re
import sqlite3
from collections.abc import Iterator

from sqlalchemy import URL
from sqlalchemy.exc import DBAPIError

from domain.errors import ConfigurationError

ELSEWHERE = "set STATE_DATABASE to another database, or STATE=off to keep no responses"
_REASONS = (
    (
        r"password authentication failed|no password supplied|role .* does not exist|no pg_hba\.conf entry|"
        r"(Ident|Peer|GSSAPI|SSPI|LDAP|PAM|RADIUS|certificate) authentication failed|not permitted to log in",
        "refuses the login",
        "Check user and password in the URL; special characters in a password are percent-encoded",
    ),
    (r"database .* does not exist", "has no such database", "Create it"),
    (
        r"permission denied|must be owner",
        "does not let this user create or use tables",
        "Grant CREATE on the schema",
    ),
    (
        r"invalid (connection|URI) ",
        "can't be reached with this URL",
        "Check the parameters after the question mark",
    ),
    (
        r"too many (clients|connections)|remaining connection slots",
        "has no free connections",
        "Raise max_connections",
    ),
    (r"starting up|shutting down|recovery mode", "is not ready", "Wait until it has started"),
)


def open_error(url: URL, error: Exception) -> ConfigurationError:
    """The error for a database that can't be opened."""
    if url.get_backend_name() == "sqlite":
        return ConfigurationError(f"STATE_DATABASE: {_sqlite_reason(url, error)}")
    return ConfigurationError(f"STATE_DATABASE: {_postgresql_reason(url, error)}")


def describe(url: URL, error: BaseException) -> str:
    """What went wrong, in the words of the database, in one line and without the password."""
    cause = error.orig if isinstance(error, DBAPIError) and error.orig is not None else error
    lines = [line.strip() for line in str(cause).splitlines() if line.strip()] or [type(cause).__name__]
    line = lines[0][:300].rstrip(".")
    for secret in _secrets(url):
        line = line.replace(secret, "***")
    return line


def _secrets(url: URL) -> Iterator[str]:
    values = [url.password, *(url.query.get(name) for name in ("password", "sslpassword", "passfile"))]
    for value in values:
        if isinstance(value, tuple):
            yield from value
        elif value:
            yield str(value)


def _sqlite_reason(url: URL, error: Exception) -> str:
    path = url.database
    cause = error.orig if isinstance(error, DBAPIError) else error
    if isinstance(cause, OSError):
        why = os.strerror(cause.errno) if cause.errno else str(cause)
        return f"the file {path} can't be created or written ({why}). Make its folder writable, {ELSEWHERE}."
    why = describe(url, error)
    if "not a database" in why:
        return f"the file {path} is not an SQLite database. Move it away, {ELSEWHERE}."
    if "malformed" in why or getattr(cause, "sqlite_errorname", "").startswith("SQLITE_CORRUPT"):
        return (
            f"the file {path} is damaged ({why}). Restore a backup, or move it and the files whose names continue"
            " with -wal and -shm away to start with an empty one."
        )
    if "full" in why:
        return f"the disk of {path} is full. Free some space, {ELSEWHERE}."
    if isinstance(cause, sqlite3.OperationalError) and ("unable to open" in why or "readonly" in why):
        return f"the file {path} can't be opened or written ({why}). Make it and its folder writable, {ELSEWHERE}."
    return f"the file {path} can't be used ({why}). Check it, {ELSEWHERE}."


def _postgresql_reason(url: URL, error: Exception) -> str:
    why = describe(url, error)
    server = f"the PostgreSQL server at {address(url)}"
    for pattern, what, advice in _REASONS:
        if re.search(pattern, str(error)):
            return f"{server} {what} ({why}). {advice}, {ELSEWHERE}."
    return f"{server} can't be reached or used ({why}). Check address and port, and that it runs, or {ELSEWHERE}."


def address(url: URL) -> str:
    """Host, port and database of a URL, without user and password."""
    host = url.host or url.query.get("host") or os.environ.get("PGHOST") or "the local socket"
    where = host if isinstance(host, str) else ", ".join(host)
    port = f":{url.port}" if url.port is not None else ""
    where = f"[{where}]" if ":" in where else where
    return f"{where}{port}/{url.database or ''}"
