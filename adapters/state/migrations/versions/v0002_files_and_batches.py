"""Files and batches."""

import secrets

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Create the tables of files and batches, and give the database an id."""
    identity = op.create_table("memoria_identity", sa.Column("id", sa.Text, primary_key=True))
    op.bulk_insert(identity, [{"id": secrets.token_hex(8)}])
    op.create_table(
        "memoria_files",
        sa.Column("key", sa.BigInteger().with_variant(sa.Integer, "sqlite"), primary_key=True, autoincrement=True),
        sa.Column("id", sa.Text, nullable=False),
        sa.Column("owner", sa.Text, nullable=False),
        sa.Column("created", sa.BigInteger, nullable=False),
        sa.Column("size_bytes", sa.BigInteger, nullable=False),
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("purpose", sa.Text, nullable=False),
        sa.Column("expires", sa.BigInteger),
    )
    op.create_index("memoria_files_id", "memoria_files", ["id"], unique=True)
    op.create_index("memoria_files_owner", "memoria_files", ["owner", "key"])
    expire = sa.text("expires IS NOT NULL")
    op.create_index(
        "memoria_files_expires", "memoria_files", ["expires"], sqlite_where=expire, postgresql_where=expire
    )
    op.create_table(
        "memoria_batches",
        sa.Column("key", sa.BigInteger().with_variant(sa.Integer, "sqlite"), primary_key=True, autoincrement=True),
        sa.Column("id", sa.Text, nullable=False),
        sa.Column("owner", sa.Text, nullable=False),
        sa.Column("created", sa.BigInteger, nullable=False),
        sa.Column("status", sa.Text, nullable=False),
        sa.Column("cancelling_at", sa.BigInteger),
        sa.Column("process_id", sa.Text),
        sa.Column("claim", sa.Text),
        sa.Column("data", sa.LargeBinary, nullable=False),
    )
    op.create_index("memoria_batches_id", "memoria_batches", ["id"], unique=True)
    op.create_index("memoria_batches_owner", "memoria_batches", ["owner", "key"])
    op.create_index("memoria_batches_status", "memoria_batches", ["status", "key"])


def downgrade() -> None:
    """Drop these tables."""
    for name in ("batches", "files", "identity"):
        op.drop_table(f"memoria_{name}")
