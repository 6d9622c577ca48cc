"""Pages of items."""

import pytest

from app.responses.pages import PageQuery, page_of
from domain.state import Item


@pytest.mark.parametrize("limit", [1, 2, 3])
def test_pages_of_repeated_ids_come_to_an_end(limit):
    # Clients choose the ids of their items.
    items = [Item(id_, b"{}") for id_ in "aabab"]
    after, pages = None, 0
    while pages <= len(items):
        page = page_of(items, PageQuery(after=after, limit=limit, order="asc"))
        after, pages = page.last_id, pages + 1
        if not page.has_more:
            break
    assert not page.has_more


def test_pages_of_distinct_ids_show_every_item_once():
    items = [Item(id_, b'"%s"' % id_.encode()) for id_ in "abcde"]
    first = page_of(items, PageQuery(limit=3))
    second = page_of(items, PageQuery(limit=3, after=first.last_id))
    assert [bytes(data) for data in (*first.data, *second.data)] == [b'"e"', b'"d"', b'"c"', b'"b"', b'"a"']
    assert (first.has_more, second.has_more) == (True, False)
