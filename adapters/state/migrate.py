"""Brings a database to this version's tables."""

import logging
from pathlib import Path

from sqlalchemy import Connection, inspect, text

from domain.errors import ConfigurationError

FOLDER = Path(__file__).parent / "migrations"
VERSION_TABLE = "memoria_version"
REVISIONS = ("0001", "0002")
"""The revisions in `migrations`, oldest first. They are here too because most starts have nothing to migrate, and
loading Alembic takes longer than opening the database."""
HEAD = REVISIONS[-1]


def migrate(connection: Connection) -> None:
    """Create or change the tables, in the transaction of the connection, which other processes wait for.

    Both databases can roll back changes of tables, so a start that is killed leaves nothing half.

    Raises:
        ConfigurationError: a newer version of the service has changed the tables.
    """
    if is_current(connection):
        return
    from alembic import command
    from alembic.config import Config

    # It logs each revision at level info, and what database it is.
    logging.getLogger("alembic").setLevel(logging.WARNING)
    config = Config()
    # In the option a percent sign begins a reference.
    config.set_main_option("script_location", str(FOLDER).replace("%", "%%"))
    config.attributes["connection"] = connection
    command.upgrade(config, "head")


def is_current(connection: Connection) -> bool:
    """Whether the database has this version's tables; False if it has none, or an older version's.

    Raises:
        ConfigurationError: a newer version of the service has changed the tables.
    """
    revision = _revision(connection)
    if revision is not None and revision not in REVISIONS:
        raise ConfigurationError(
            f"STATE_DATABASE: the database has tables of revision {revision}, which this version of the service"
            " does not know: a newer version has used it. Install the newer version again, or set STATE_DATABASE"
            " to another database."
        )
    return revision == HEAD


def _revision(connection: Connection) -> str | None:
    """The revision of the tables; None if there are none."""
    if not inspect(connection).has_table(VERSION_TABLE):
        return None
    return connection.execute(text(f"SELECT version_num FROM {VERSION_TABLE}")).scalar()
