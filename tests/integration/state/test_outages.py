"""A database that does not work for a while, and more to write than it can take."""

import asyncio
import logging
import random
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from sqlalchemy import event

from adapters.state.database import Database
from adapters.state.provider import FILE_NAME, StateOptions
from adapters.state.store import DatabaseStateStore
from domain.errors import StateUnavailableError
from domain.state import ResponseStatus
from tests.integration.state.conftest import make_store
from tests.integration.state.samples import conversation, finished, is_failed, item, unfinished
from tests.unit.waiting import eventually


@pytest.fixture
def file_options(tmp_path) -> StateOptions:
    return StateOptions(folder=tmp_path / "data")


@contextmanager
def locked(options: StateOptions) -> Iterator[None]:
    """Another program keeps the file to itself."""
    connection = sqlite3.connect(options.folder / FILE_NAME, isolation_level=None)
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
    finally:
        connection.execute("ROLLBACK")
        connection.close()


def database_of(store: DatabaseStateStore) -> Database:
    return store._access._database


def told(caplog: pytest.LogCaptureFixture) -> list[tuple[int, str]]:
    return [(each.levelno, each.getMessage()) for each in caplog.records if each.name == "memoria"]


async def test_an_outage_is_an_error_for_those_who_wait_and_one_line_in_the_log(file_options, caplog, monkeypatch):
    monkeypatch.setattr("adapters.state.database.BUSY_TIMEOUT_S", 0.01)
    store = make_store(file_options)
    await store.start()
    caplog.clear()
    with locked(file_options):
        for number in range(5):
            store.begin(unfinished(f"resp_{number}"))
            with pytest.raises(StateUnavailableError):
                await store.finish(finished(f"resp_{number}"))
            with pytest.raises(StateUnavailableError):
                await store.create_conversation(conversation("conv_1"), [])
            # Reading works.
            assert await store.response("alice", "resp_9") is None
        with pytest.raises(StateUnavailableError) as caught:
            await store.begin_durably(unfinished("resp_9"))
    assert (caught.value.status, caught.value.code) == (503, "state_unavailable")
    await store.finish(finished("resp_1"))
    assert await store.response("alice", "resp_1") is not None
    await store.stop()
    failures = [text for level, text in told(caplog) if level == logging.ERROR]
    assert len(failures) <= 1 + told(caplog).count((logging.WARNING, RECOVERED))
    assert "unavailable (database is locked)" in failures[0]


RECOVERED = "the database of stored responses is available again"


async def test_a_server_that_is_restarted_is_an_outage_and_nothing_more(postgres, tmp_path, caplog):
    store = make_store(StateOptions(folder=tmp_path, database=postgres.create_database()))
    await store.start()
    await store.finish(finished("resp_1"))
    await asyncio.gather(*(store.response("alice", "resp_1") for _ in range(20)))
    # Idle connections that broke off meanwhile are replaced.
    postgres.stop()
    postgres.start()
    await store.finish(finished("resp_2"))
    assert await store.response("alice", "resp_2") is not None
    assert told(caplog) == []
    postgres.stop()
    try:
        for _ in range(3):
            with pytest.raises(StateUnavailableError):
                await store.finish(finished("resp_3"))
            with pytest.raises(StateUnavailableError):
                await store.response("alice", "resp_1")
    finally:
        postgres.start()
    await store.finish(finished("resp_3"))
    assert await store.response("alice", "resp_3") is not None
    await store.stop()
    assert [level for level, _ in told(caplog)] == [logging.ERROR, logging.WARNING]


async def test_a_full_disk_is_an_outage(file_options):
    store = make_store(file_options)
    engine = database_of(store).engine
    limit: list[int] = []

    @event.listens_for(engine, "connect")
    def limit_size(connection: sqlite3.Connection, _record: object) -> None:
        connection.execute(f"PRAGMA max_page_count = {(limit or [2**30])[0]}")

    await store.start()
    await store.finish(finished("resp_1"))
    limit.append(40)
    engine.dispose()
    with pytest.raises(StateUnavailableError):
        await store.finish(finished("resp_2", body=b"x" * 400_000))
    limit.clear()
    engine.dispose()
    assert await store.response("alice", "resp_2") is None
    await store.finish(finished("resp_2"))
    assert await store.response("alice", "resp_1") is not None
    assert await store.response("alice", "resp_2") is not None
    await store.stop()


async def test_the_queue_is_bounded_and_loses_no_finished_response(file_options):
    store = build(file_options, max_queue_bytes=20_000)
    await store.start()
    await store.finish(finished("before"))
    with locked(file_options):
        for number in range(100):
            store.begin(unfinished(f"resp_{number}", body=b"x" * 1000))
            store.append_events(f"resp_{number}", [(0, b"zero")])
        ends = [asyncio.create_task(store.finish(finished(f"resp_{number}"))) for number in range(100)]
        for _ in range(50):
            await asyncio.sleep(0)
        writer = store._access._writer
        assert 20_000 <= writer._bytes < 25_000
        assert not any(end.done() for end in ends)
    await asyncio.gather(*ends)
    for number in range(100):
        found = await store.response("alice", f"resp_{number}")
        assert found is not None
        assert found.status == ResponseStatus.COMPLETED
        assert await store.events("alice", f"resp_{number}", after=-1) in ([], [(0, b"zero")])
    assert writer._bytes == 0
    assert not store._access._pending
    await store.stop()


def build(options: StateOptions, **arguments: Any) -> DatabaseStateStore:
    from sqlalchemy import URL

    from tests.integration.state.samples import interrupted

    url = URL.create("sqlite", database=str(options.folder / FILE_NAME))
    return DatabaseStateStore(url, interrupted=interrupted, **arguments)


async def test_events_have_no_gap_after_an_outage(file_options, monkeypatch):
    monkeypatch.setattr("adapters.state.database.BUSY_TIMEOUT_S", 0.01)
    store = make_store(file_options)
    await store.start()
    await store.begin_durably(unfinished("resp_1"))
    store.append_events("resp_1", [(0, b"zero")])
    assert await store.events("alice", "resp_1", after=-1) == [(0, b"zero")]
    with locked(file_options):
        store.append_events("resp_1", [(1, b"one")])
        with pytest.raises(StateUnavailableError):
            await store.events("alice", "resp_1", after=-1)
    store.append_events("resp_1", [(2, b"two")])
    await store.finish(finished("resp_1"))
    assert await store.events("alice", "resp_1", after=-1) == [(0, b"zero")]
    await store.stop()


async def test_events_have_no_gap_if_their_beginning_was_lost(file_options, monkeypatch):
    monkeypatch.setattr("adapters.state.database.BUSY_TIMEOUT_S", 0.01)
    store = make_store(file_options)
    await store.start()
    with locked(file_options):
        with pytest.raises(StateUnavailableError):
            await store.begin_durably(unfinished("resp_1"))
        store.append_events("resp_1", [(0, b"zero")])
        with pytest.raises(StateUnavailableError):
            await store.events("alice", "resp_1", after=-1)
    store.append_events("resp_1", [(1, b"one")])
    await store.finish(finished("resp_1"))
    assert await store.events("alice", "resp_1", after=-1) == []
    assert not store._access._responses.events_lost
    await store.stop()


async def test_lost_events_are_forgotten_with_their_response(file_options, monkeypatch):
    monkeypatch.setattr("adapters.state.database.BUSY_TIMEOUT_S", 0.01)
    monkeypatch.setattr("adapters.state.access.HEARTBEAT_S", 0.05)
    store = make_store(file_options)
    await store.start()
    await store.begin_durably(unfinished("resp_1"))
    with locked(file_options):
        store.append_events("resp_1", [(0, b"zero")])
        with pytest.raises(StateUnavailableError):
            await store.finish(finished("resp_1"))
        # They are out of order only if an end was lost; then they must not be stored either.
        store.append_events("resp_1", [(1, b"one")])
        with pytest.raises(StateUnavailableError):
            await store.events("alice", "resp_1", after=-1)
    store.append_events("resp_1", [(2, b"two")])
    assert await store.events("alice", "resp_1", after=-1) == []
    writes = store._access._responses
    await eventually(lambda: not (writes.unfinishable or writes.events_lost or writes._begun))
    assert is_failed(await store.response("alice", "resp_1"))
    await store.stop()


async def test_events_that_are_lost_after_the_end_keep_no_memory(file_options, monkeypatch):
    monkeypatch.setattr("adapters.state.database.BUSY_TIMEOUT_S", 0.01)
    store = make_store(file_options)
    await store.start()
    await store.begin_durably(unfinished("resp_1"))
    await store.finish(finished("resp_1"))
    with locked(file_options):
        store.append_events("resp_1", [(0, b"zero")])
        with pytest.raises(StateUnavailableError):
            await store.events("alice", "resp_1", after=-1)
    assert not store._access._responses.events_lost
    await store.stop()


async def test_a_response_that_could_not_be_discarded_is_reported_as_failed(file_options, monkeypatch):
    monkeypatch.setattr("adapters.state.database.BUSY_TIMEOUT_S", 0.01)
    monkeypatch.setattr("adapters.state.access.HEARTBEAT_S", 0.05)
    store = make_store(file_options)
    await store.start()
    await store.begin_durably(unfinished("resp_1"))
    with locked(file_options), pytest.raises(StateUnavailableError):
        await store.discard_response("alice", "resp_1")
    writes = store._access._responses
    await eventually(lambda: not (writes.unfinishable or writes._begun))
    assert is_failed(await store.response("alice", "resp_1"))
    await store.stop()


async def test_a_service_that_removes_old_responses_stops_during_an_outage(file_options, monkeypatch):
    monkeypatch.setattr("adapters.state.database.BUSY_TIMEOUT_S", 0.2)
    store = make_store(file_options, sweeps=True, max_age_days=1)
    await store.start()
    with locked(file_options):
        await eventually(lambda: store._access._writer._bytes > 0)
        stopping = asyncio.create_task(store.stop())
        await asyncio.wait([stopping], timeout=10)
        has_stopped = stopping.done()
    assert store._sweeping is not None
    assert has_stopped
    assert store._sweeping.cancelled()


async def test_a_service_stops_while_the_database_does_not_answer(file_options, monkeypatch):
    monkeypatch.setattr("adapters.state.store.STOP_S", 0.05)
    store = make_store(file_options)
    never = asyncio.Event()

    async def sweep() -> None:
        try:
            await never.wait()
        finally:
            await never.wait()

    monkeypatch.setattr(store, "_sweep_repeatedly", sweep)
    await store.start()
    await asyncio.sleep(0)
    stopping = asyncio.create_task(store.stop())
    await asyncio.wait([stopping], timeout=10)
    has_stopped = stopping.done()
    never.set()
    await stopping
    assert has_stopped


async def test_a_query_that_can_not_be_answered_is_no_outage(file_options, caplog):
    store = make_store(file_options)
    await store.start()
    await store.finish(finished("resp_1"))
    with pytest.raises(StateUnavailableError):
        await store.events("alice", "resp_1", after=10**20)
    assert [text for _, text in told(caplog) if "unavailable" in text] == []
    assert [text.partition(":")[0] for _, text in told(caplog)] == ["the database rejected a read"]
    await store.stop()


async def test_unfinished_responses_are_reported_as_failed(file_options, monkeypatch):
    """Not unfinished for as long as its process lives."""
    monkeypatch.setattr("adapters.state.database.BUSY_TIMEOUT_S", 0.01)
    monkeypatch.setattr("adapters.state.access.HEARTBEAT_S", 0.05)
    store = make_store(file_options)
    await store.start()
    await store.begin_durably(unfinished("resp_1"))
    await store.begin_durably(unfinished("resp_2"))
    with locked(file_options), pytest.raises(StateUnavailableError):
        await store.finish(finished("resp_1"))
    await eventually(lambda: not store._access._responses.unfinishable)
    assert is_failed(await store.response("alice", "resp_1"))
    assert await store.response("alice", "resp_2") == unfinished("resp_2")
    # A late end still counts.
    await store.finish(finished("resp_1"))
    found = await store.response("alice", "resp_1")
    assert found is not None
    assert found.status == ResponseStatus.COMPLETED
    assert len(found.output) == 1
    await store.stop()


@pytest.mark.parametrize("wrong", [2**70, "no number", None])
async def test_only_what_can_not_be_stored_fails(store, wrong):
    """In one transaction with others."""
    await store.create_conversation(conversation("conv_1"), [])
    results = await asyncio.gather(
        store.finish(finished("resp_1")),
        store.finish(finished("resp_2", created=wrong)),
        store.add_conversation_items("alice", "conv_1", [item("a")]),
        store.finish(finished("resp_3")),
        return_exceptions=True,
    )
    # SQLite's columns take what they get.
    if isinstance(results[1], StateUnavailableError):
        assert await store.response("alice", "resp_2") is None
    assert [results[0], *results[2:]] == [None, True, None]
    assert await store.response("alice", "resp_1") is not None
    assert await store.response("alice", "resp_3") is not None
    assert await store.conversation_items("alice", "conv_1") == [item("a")]


async def test_an_id_that_is_too_long_for_an_index_fails_alone(store, caplog):
    """PostgreSQL's driver reports it as an OperationalError."""
    too_long = random.Random(0).randbytes(10_000).hex()
    results = await asyncio.gather(
        store.finish(finished("resp_1")),
        store.finish(finished("resp_2", input=[item(too_long)])),
        store.finish(finished("resp_3")),
        return_exceptions=True,
    )
    assert [results[0], results[2]] == [None, None]
    assert await store.response("alice", "resp_3") is not None
    assert [text for _, text in told(caplog) if "unavailable" in text] == []


async def test_a_client_that_leaves_does_not_undo_the_end(store):
    ending = asyncio.create_task(store.finish(finished("resp_1")))
    await asyncio.sleep(0)
    ending.cancel()
    assert await store.response("alice", "resp_2") is None
    await store.finish(finished("resp_2"))
    assert await store.response("alice", "resp_1") is not None


async def test_a_stopped_store_refuses_everything_and_stops_again(options):
    store = make_store(options)
    await store.stop()
    store = make_store(options)
    await store.start()
    await store.begin_durably(unfinished("resp_1"))
    store.begin(unfinished("resp_2"))
    await asyncio.gather(store.stop(), store.stop())
    await store.stop()
    store.begin(unfinished("resp_3"))
    store.append_events("resp_3", [(0, b"")])
    for refused in (
        store.finish(finished("resp_3")),
        store.response("alice", "resp_1"),
        store.begin_durably(unfinished("resp_3")),
        store.delete_conversation("alice", "conv_1"),
    ):
        with pytest.raises(StateUnavailableError):
            await refused
    again = make_store(options)
    await again.start()
    for name in ("resp_1", "resp_2"):
        assert is_failed(await again.response("alice", name))
    assert await again.response("alice", "resp_3") is None
    await again.stop()


async def test_an_unconvertible_body_is_kept(options, open_store):
    store = await open_store()
    store._access._processes._interrupted = lambda _body: 1 / 0  # type: ignore[assignment]
    await store.begin_durably(unfinished("resp_1"))
    await store.stop()
    found = await (await open_store()).response("alice", "resp_1")
    assert found is not None
    assert (found.status, found.body) == (ResponseStatus.FAILED, unfinished("resp_1").body)


async def test_what_is_stored_alone_does_not_wait_for_others(file_options, monkeypatch):
    monkeypatch.setattr("adapters.state.writer.COMMIT_INTERVAL_S", 1000.0)
    store = make_store(file_options)
    await store.start()
    for number in range(3):
        await asyncio.wait_for(store.finish(finished(f"resp_{number}")), 20)
    await store.stop()
