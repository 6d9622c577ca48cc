"""Entries that exceed the age or size limit are removed, and no others."""

import asyncio
import time

import pytest

from adapters.state.provider import FILE_NAME, StateOptions
from domain.state import ResponseStatus
from tests.integration.state.samples import conversation, finished, item, unfinished
from tests.integration.state.test_processes import sql

DAY_S = 86_400
TABLES = ("responses", "items", "events", "conversations")


def count(options: StateOptions) -> list[int]:
    return [sql(options, f"SELECT count(*) FROM memoria_{name}")[0][0] for name in TABLES]


def days_ago(days: float) -> int:
    return int(time.time() - days * DAY_S)


async def test_what_is_too_old_is_removed_with_all_it_had(options, open_store):
    store = await open_store(max_age_days=30)
    for name, days in (("old", 31), ("new", 29)):
        await store.begin_durably(unfinished(name, created=days_ago(days)))
        store.append_events(name, [(0, b"zero")])
        await store.finish(finished(name, created=days_ago(days)))
        await store.create_conversation(conversation(f"conv-{name}"), [item(f"item-{name}")])
        sql(
            options,
            "UPDATE memoria_conversations SET used = :at WHERE id = :id",
            at=days_ago(days),
            id=f"conv-{name}",
        )
    assert await store.sweep() == 2
    assert await store.response("alice", "old") is None
    assert await store.conversation("alice", "conv-old") is None
    assert await store.items("alice", ["in-old", "item-old"]) == {}
    assert await store.history("alice", "new") is not None
    assert await store.conversation_items("alice", "conv-new") == [item("item-new")]
    assert count(options) == [1, 3, 1, 1]


@pytest.mark.parametrize("how", ["finish", "add", "update", "remove"])
async def test_a_conversation_that_is_used_is_not_old(options, open_store, how):
    store = await open_store(max_age_days=30)
    await store.create_conversation(conversation("conv_1"), [item("a")])
    sql(options, "UPDATE memoria_conversations SET used = :at", at=days_ago(31))
    if how == "finish":
        await store.finish(finished("resp_1", conversation_id="conv_1"))
    elif how == "add":
        await store.add_conversation_items("alice", "conv_1", [item("b")])
    elif how == "update":
        await store.update_conversation("alice", "conv_1", {})
    else:
        await store.delete_conversation_item("alice", "conv_1", "a")
    assert await store.sweep() == 0
    assert await store.conversation("alice", "conv_1") is not None


async def test_items_of_an_old_response_stay_in_their_conversation(options, open_store):
    store = await open_store(max_age_days=30)
    await store.create_conversation(conversation("conv_1"), [])
    await store.finish(finished("old", created=days_ago(31), conversation_id="conv_1"))
    assert await store.sweep() == 1
    assert await store.conversation_items("alice", "conv_1") == [item("in-old"), item("out-old")]


async def test_a_response_that_is_worked_on_is_never_old(open_store):
    store = await open_store(max_age_days=1, max_bytes=1)
    await store.begin_durably(unfinished("resp_1", created=days_ago(5)))
    assert await store.sweep() == 0
    assert await store.response("alice", "resp_1") is not None


async def test_without_limits_everything_is_kept(open_store):
    store = await open_store(max_age_days=0, max_bytes=0)
    await store.finish(finished("resp_1", created=0))
    assert await store.sweep() == 0
    assert await store.response("alice", "resp_1") is not None


LARGE = 20_000
NUMBER = 200


async def fill(store) -> None:
    for start in range(0, NUMBER, 50):
        await asyncio.gather(
            *(
                store.finish(finished(f"resp_{number}", created=days_ago(20) + number, body=noise(number)))
                for number in range(start, start + 50)
            )
        )


def noise(number: int) -> bytes:
    """Bytes that PostgreSQL can't compress."""
    import random

    return random.Random(number).randbytes(LARGE)


async def test_the_oldest_are_removed_if_it_is_too_much(options, open_store):
    limit = LARGE * NUMBER // 2
    store = await open_store(max_age_days=0, max_bytes=limit)
    await fill(store)
    removed = await store.sweep()
    assert NUMBER // 3 < removed < NUMBER * 2 // 3 + 40
    left = [await store.response("alice", f"resp_{number}") is not None for number in range(NUMBER)]
    assert left == [False] * removed + [True] * (NUMBER - removed)
    with store._access._database.read() as connection:
        assert store._retention.size(connection) <= limit
    # PostgreSQL's files don't shrink; that must not remove more each time.
    assert await store.sweep() == 0


async def test_conversations_are_removed_in_turn_with_responses(options, open_store):
    store = await open_store(max_age_days=0, max_bytes=LARGE * NUMBER // 2)
    await store.create_conversation(conversation("old"), [item("a")])
    await store.create_conversation(conversation("new"), [item("b")])
    sql(options, "UPDATE memoria_conversations SET used = :at WHERE id = 'old'", at=days_ago(21))
    await fill(store)
    await store.sweep()
    assert await store.conversation("alice", "old") is None
    assert await store.conversation_items("alice", "new") == [item("b")]


async def test_the_file_gets_smaller(tmp_path):
    from tests.integration.state.conftest import make_store

    options = StateOptions(folder=tmp_path, max_age_days=0, max_bytes=LARGE * 20)
    store = make_store(options)
    await store.start()
    await fill(store)
    await store.sweep()
    await store.stop()
    assert (tmp_path / FILE_NAME).stat().st_size < LARGE * 20 + 256 * 4096


async def test_only_one_process_removes_at_a_time(options, open_store):
    store = await open_store(max_age_days=1)
    await store.sweep()
    await store.finish(finished("old", created=days_ago(2)))
    sql(options, "UPDATE memoria_leases SET process_id = 'other', until = :until", until=int(time.time()) + 60)
    assert await store.sweep() == 0
    assert sql(options, "SELECT until > 0 FROM memoria_leases") == [(True,)]
    # The other one has ended without a word.
    sql(options, "UPDATE memoria_leases SET until = :until", until=int(time.time()) - 1)
    assert await store.sweep() == 1
    assert await store.response("alice", "old") is None


async def test_old_ones_are_removed_at_the_start(open_store):
    first = await open_store(max_age_days=0)
    await first.finish(finished("old", created=days_ago(2), status=ResponseStatus.FAILED))
    await first.stop()
    second = await open_store(max_age_days=1, sweeps=True)
    for _ in range(1000):
        if await second.response("alice", "old") is None:
            return
        await asyncio.sleep(0.01)
    raise AssertionError("it was never removed")
