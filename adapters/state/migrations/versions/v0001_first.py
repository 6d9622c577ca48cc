"""The first tables."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Create the tables."""
    op.create_table(
        "memoria_processes",
        sa.Column("id", sa.Text, primary_key=True),
        sa.Column("host", sa.Text, nullable=False),
        sa.Column("pid", sa.Integer, nullable=False),
        sa.Column("started", sa.Float, nullable=False),
        sa.Column("heartbeat", sa.BigInteger, nullable=False),
    )
    op.create_table(
        "memoria_responses",
        sa.Column("id", sa.Text, primary_key=True),
        sa.Column("owner", sa.Text, nullable=False),
        sa.Column("created", sa.BigInteger, nullable=False),
        sa.Column("status", sa.Text, nullable=False),
        sa.Column("previous_id", sa.Text),
        sa.Column("conversation_id", sa.Text),
        sa.Column("is_background", sa.Boolean, nullable=False),
        sa.Column("process_id", sa.Text),
        sa.Column("cancel_requested", sa.Boolean, nullable=False),
        sa.Column("body", sa.LargeBinary, nullable=False),
    )
    op.create_index("memoria_responses_created", "memoria_responses", ["created"])
    _partial_index("memoria_responses_process", "memoria_responses", ["process_id"])
    op.create_table(
        "memoria_items",
        sa.Column("key", sa.BigInteger().with_variant(sa.Integer, "sqlite"), primary_key=True, autoincrement=True),
        sa.Column("owner", sa.Text, nullable=False),
        sa.Column("item_id", sa.Text, nullable=False),
        sa.Column("response_id", sa.Text),
        sa.Column("position", sa.BigInteger, nullable=False),
        sa.Column("is_output", sa.Boolean, nullable=False),
        sa.Column("conversation_id", sa.Text),
        sa.Column("conversation_position", sa.BigInteger),
        sa.Column("data", sa.LargeBinary, nullable=False),
    )
    op.create_index("memoria_items_id", "memoria_items", ["owner", "item_id"])
    _partial_index("memoria_items_response", "memoria_items", ["response_id", "position"], unique=True)
    _partial_index(
        "memoria_items_conversation", "memoria_items", ["conversation_id", "conversation_position"], unique=True
    )
    op.create_table(
        "memoria_events",
        sa.Column("response_id", sa.Text, primary_key=True),
        sa.Column("sequence", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("data", sa.LargeBinary, nullable=False),
    )
    op.create_table(
        "memoria_conversations",
        sa.Column("id", sa.Text, primary_key=True),
        sa.Column("owner", sa.Text, nullable=False),
        sa.Column("created", sa.BigInteger, nullable=False),
        sa.Column("used", sa.BigInteger, nullable=False),
        sa.Column("metadata", sa.LargeBinary, nullable=False),
        sa.Column("next_position", sa.BigInteger, nullable=False),
    )
    op.create_index("memoria_conversations_used", "memoria_conversations", ["used"])
    op.create_table(
        "memoria_leases",
        sa.Column("name", sa.Text, primary_key=True),
        sa.Column("process_id", sa.Text, nullable=False),
        sa.Column("until", sa.BigInteger, nullable=False),
    )


def downgrade() -> None:
    """Drop the tables."""
    for name in ("leases", "conversations", "events", "items", "responses", "processes"):
        op.drop_table(f"memoria_{name}")


def _partial_index(name: str, table: str, columns: list[str], *, unique: bool = False) -> None:
    """An index of the rows in which the first column is not NULL."""
    where = sa.text(f"{columns[0]} IS NOT NULL")
    op.create_index(name, table, columns, unique=unique, sqlite_where=where, postgresql_where=where)
