"""Reads pages of tables whose rows have an owner, an id, and a key that grows with time."""

from collections.abc import Sequence
from typing import Any

from sqlalchemy import ColumnElement, Connection, Row, Table, select

from adapters.state.texts import storable
from domain.files import Order


def page(
    connection: Connection,
    *,
    table: Table,
    owner: str,
    after: str | None,
    limit: int,
    order: Order,
    conditions: Sequence[ColumnElement[bool]] = (),
) -> Sequence[Row[*tuple[Any, ...]]] | None:
    """The rows of an owner, at most `limit` and one more if there are more; None if `after` is none of them."""
    mine = table.c.owner == storable(owner)
    query = select(table).where(mine, *conditions).limit(limit + 1)
    if after is not None:
        key = connection.execute(select(table.c.key).where(mine, table.c.id == storable(after))).scalar()
        if key is None:
            return None
        query = query.where(table.c.key > key if order == "asc" else table.c.key < key)
    return connection.execute(query.order_by(table.c.key.asc() if order == "asc" else table.c.key.desc())).all()
