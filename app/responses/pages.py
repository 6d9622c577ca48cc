"""Pages of items: the lists of a response's input and of a conversation."""

from collections.abc import Sequence
from typing import Annotated, Literal

import msgspec

from domain.errors import StoredObjectNotFoundError
from domain.openai.responses.response import ItemList
from domain.state import Item

DEFAULT_LIMIT, MAX_LIMIT = 20, 100


class PageQuery(msgspec.Struct, frozen=True, kw_only=True):
    """Which items of a list a client wants."""

    after: str | None = None
    """The id of the item before the first one."""
    limit: Annotated[int, msgspec.Meta(ge=1, le=MAX_LIMIT)] = DEFAULT_LIMIT
    order: Literal["asc", "desc"] = "desc"


def page_of(items: Sequence[Item], query: PageQuery) -> ItemList:
    """One page of a list.

    Args:
        items: all items, oldest first.
        query: which of them.

    Raises:
        StoredObjectNotFoundError: there is no item with the id in `after`.
    """
    ordered = list(items) if query.order == "asc" else list(reversed(items))
    if query.after is not None:
        ids = [item.id for item in ordered]
        if query.after not in ids:
            raise StoredObjectNotFoundError("Item", query.after, param="after")
        # Clients choose ids and may repeat one: after its last item the pages come to an end.
        ordered = ordered[len(ids) - ids[::-1].index(query.after) :]
    shown = ordered[: query.limit]
    return ItemList(
        data=[msgspec.Raw(item.data) for item in shown],
        first_id=shown[0].id if shown else None,
        last_id=shown[-1].id if shown else None,
        has_more=len(ordered) > len(shown),
    )
