"""Runs migrations on the connection that `adapters.state.migrate` passes, in its transaction."""

from alembic import context

from adapters.state.migrate import VERSION_TABLE
from adapters.state.tables import metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    version_table=VERSION_TABLE,
)
context.run_migrations()
