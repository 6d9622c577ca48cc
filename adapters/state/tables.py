"""The tables, as SQLAlchemy Core describes them. `migrations` creates and changes them.

A response's items are rows of `items`, its input before its output. A conversation's items are rows of the same
table, so that an item that belongs to both is stored once; a row is deleted when neither needs it.
"""

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Float,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    Table,
    Text,
)

# The database may be shared with other programs.
metadata = MetaData()

processes = Table(
    "memoria_processes",
    metadata,
    Column("id", Text, primary_key=True),
    # Identifies where `pid` has a meaning: see `processes.this_process`.
    Column("host", Text, nullable=False),
    Column("pid", Integer, nullable=False),
    # Seconds between the boot of the machine and the start of the process.
    Column("started", Float, nullable=False),
    # Unix time in seconds, by the clock of the database.
    Column("heartbeat", BigInteger, nullable=False),
)

responses = Table(
    "memoria_responses",
    metadata,
    Column("id", Text, primary_key=True),
    Column("owner", Text, nullable=False),
    Column("created", BigInteger, nullable=False),
    Column("status", Text, nullable=False),
    Column("previous_id", Text),
    Column("conversation_id", Text),
    Column("is_background", Boolean, nullable=False),
    # The process that works on the response; NULL once it is finished.
    Column("process_id", Text),
    Column("cancel_requested", Boolean, nullable=False),
    Column("body", LargeBinary, nullable=False),
)
Index("memoria_responses_created", responses.c.created)
Index(
    "memoria_responses_process",
    responses.c.process_id,
    sqlite_where=responses.c.process_id.is_not(None),
    postgresql_where=responses.c.process_id.is_not(None),
)

items = Table(
    "memoria_items",
    metadata,
    # Later items have larger keys.
    Column("key", BigInteger().with_variant(Integer, "sqlite"), primary_key=True, autoincrement=True),
    Column("owner", Text, nullable=False),
    Column("item_id", Text, nullable=False),
    Column("response_id", Text),
    # Position in the response: input, then output.
    Column("position", BigInteger, nullable=False),
    Column("is_output", Boolean, nullable=False),
    Column("conversation_id", Text),
    Column("conversation_position", BigInteger),
    Column("data", LargeBinary, nullable=False),
)
Index("memoria_items_id", items.c.owner, items.c.item_id)
# Unique, so that a write that is repeated stores nothing twice.
Index(
    "memoria_items_response",
    items.c.response_id,
    items.c.position,
    unique=True,
    sqlite_where=items.c.response_id.is_not(None),
    postgresql_where=items.c.response_id.is_not(None),
)
Index(
    "memoria_items_conversation",
    items.c.conversation_id,
    items.c.conversation_position,
    unique=True,
    sqlite_where=items.c.conversation_id.is_not(None),
    postgresql_where=items.c.conversation_id.is_not(None),
)

events = Table(
    "memoria_events",
    metadata,
    Column("response_id", Text, primary_key=True),
    Column("sequence", BigInteger, primary_key=True, autoincrement=False),
    Column("data", LargeBinary, nullable=False),
)

conversations = Table(
    "memoria_conversations",
    metadata,
    Column("id", Text, primary_key=True),
    Column("owner", Text, nullable=False),
    Column("created", BigInteger, nullable=False),
    # Unix time in seconds at which it was last changed.
    Column("used", BigInteger, nullable=False),
    Column("metadata", LargeBinary, nullable=False),
    # The position of the next item that is appended.
    Column("next_position", BigInteger, nullable=False),
)
Index("memoria_conversations_used", conversations.c.used)

leases = Table(
    "memoria_leases",
    metadata,
    # What only one process does at a time.
    Column("name", Text, primary_key=True),
    Column("process_id", Text, nullable=False),
    # Unix time in seconds, by the clock of the database, at which another process may take over.
    Column("until", BigInteger, nullable=False),
)

identity = Table(
    "memoria_identity",
    metadata,
    # One row: a random id, so that contents in a folder are not taken for those of another database.
    Column("id", Text, primary_key=True),
)

files = Table(
    "memoria_files",
    metadata,
    # Later files have larger keys: their order in lists.
    Column("key", BigInteger().with_variant(Integer, "sqlite"), primary_key=True, autoincrement=True),
    Column("id", Text, nullable=False),
    Column("owner", Text, nullable=False),
    Column("created", BigInteger, nullable=False),
    Column("size_bytes", BigInteger, nullable=False),
    Column("name", Text, nullable=False),
    Column("purpose", Text, nullable=False),
    # Unix time in seconds; NULL for a file that is kept until it is deleted.
    Column("expires", BigInteger),
)
Index("memoria_files_id", files.c.id, unique=True)
Index("memoria_files_owner", files.c.owner, files.c.key)
Index(
    "memoria_files_expires",
    files.c.expires,
    sqlite_where=files.c.expires.is_not(None),
    postgresql_where=files.c.expires.is_not(None),
)

batches = Table(
    "memoria_batches",
    metadata,
    # Later batches have larger keys: their order in lists.
    Column("key", BigInteger().with_variant(Integer, "sqlite"), primary_key=True, autoincrement=True),
    Column("id", Text, nullable=False),
    Column("owner", Text, nullable=False),
    Column("created", BigInteger, nullable=False),
    Column("status", Text, nullable=False),
    # Unix time in seconds; NULL unless a client has asked for the end.
    Column("cancelling_at", BigInteger),
    # The process that has claimed the batch; NULL if none has, and once it has ended.
    Column("process_id", Text),
    # Identifies the latest claim; kept when the batch has ended. NULL before the first one.
    Column("claim", Text),
    # The batch as JSON, of which the columns above are the newer state.
    Column("data", LargeBinary, nullable=False),
)
Index("memoria_batches_id", batches.c.id, unique=True)
Index("memoria_batches_owner", batches.c.owner, batches.c.key)
Index("memoria_batches_status", batches.c.status, batches.c.key)
