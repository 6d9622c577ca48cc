"""What the ports of files and of batches promise, on each database."""

import asyncio
import sys
import time

import msgspec
import pytest
from alembic import command
from alembic.config import Config
from sqlalchemy import create_engine, inspect, text

from adapters.state import migrate
from adapters.state.processes import DEAD_AFTER_S, ProcessInfo, this_process
from domain.batches import ENDED, BatchError, BatchStatus, Part, StoredBatch
from domain.files import StoredFile
from tests.integration.state.conftest import make_store
from tests.integration.state.samples import NOW, finished
from tests.integration.state.test_opening import engine_url
from tests.integration.state.test_processes import sql
from tests.integration.state.test_retention import noise

DAY_S = 86_400


def file(name: str, *, owner: str = "alice", **fields: object) -> StoredFile:
    values: dict[str, object] = {
        "id": name,
        "owner": owner,
        "created": NOW,
        "size_bytes": 10,
        "name": f"{name} \u00e9.jsonl",
        "purpose": "batch",
    }
    return StoredFile(**(values | fields))  # type: ignore[arg-type]


def batch(name: str, *, owner: str = "alice", **fields: object) -> StoredBatch:
    values: dict[str, object] = {
        "id": name,
        "owner": owner,
        "created": NOW,
        "endpoint": "/v1/embeddings",
        "input_file_id": "file-1",
        "completion_window": "24h",
        "expires": NOW + DAY_S,
        "metadata": {"k": "v"},
    }
    return StoredBatch(**(values | fields))  # type: ignore[arg-type]


def with_(stored: StoredBatch, **changes: object) -> StoredBatch:
    return msgspec.structs.replace(stored, **changes)


async def test_a_file_is_returned_as_it_was_stored_and_to_its_owner_alone(store):
    stored = file("file-1", expires=NOW + DAY_S)
    await store.files.create_file(stored)
    # A write that is repeated, because its answer was lost, changes nothing.
    await store.files.create_file(stored)
    assert await store.files.file("alice", "file-1") == stored
    assert await store.files.file("bob", "file-1") is None
    assert await store.files.file("alice", "file-2") is None
    assert not await store.files.delete_file("bob", "file-1")
    assert await store.files.delete_file("alice", "file-1")
    assert not await store.files.delete_file("alice", "file-1")
    assert await store.files.file("alice", "file-1") is None


@pytest.mark.parametrize("order", ["asc", "desc"])
async def test_files_are_listed_in_pages(store, order):
    names = [f"file-{number}" for number in range(7)]
    for name in names:
        await store.files.create_file(file(name))
        await store.files.create_file(file(f"{name}-of-bob", owner="bob"))
    found, after = [], None
    while True:
        page = await store.files.files("alice", purpose=None, after=after, limit=3, order=order)
        found += [each.id for each in page[:3]]
        if len(page) <= 3:
            break
        after = found[-1]
    assert found == (names if order == "asc" else names[::-1])
    for after in ("file-9", "file-1-of-bob"):
        assert await store.files.files("alice", purpose=None, after=after, limit=3, order=order) is None


async def test_files_are_listed_by_purpose(store):
    await store.files.create_file(file("file-1"))
    await store.files.create_file(file("file-2", purpose="batch_output"))
    for purpose, expected in (("batch", ["file-1"]), ("batch_output", ["file-2"]), ("other\0", [])):
        page = await store.files.files("alice", purpose=purpose, after=None, limit=10, order="asc")
        assert [each.id for each in page] == expected


async def test_an_expired_file_is_gone_for_its_owner_and_known_to_the_sweep(store):
    kept, expired = file("file-1", expires=NOW + DAY_S), file("file-2", expires=NOW - 1)
    for each in (kept, expired, file("file-3", owner="bob")):
        await store.files.create_file(each)
    assert await store.files.file("alice", "file-2") is None
    page = await store.files.files("alice", purpose=None, after=None, limit=10, order="asc")
    assert page == [kept]
    assert await store.files.expired_files() == [expired]
    ids = [f"file-{number}" for number in range(1200)]
    assert await store.files.known_files(ids) == {"file-1", "file-2", "file-3"}


async def test_a_batch_is_returned_as_it_was_stored_and_to_its_owner_alone(store):
    stored = batch("batch_1", errors=(BatchError(code="c", message="m", line=3),), model="m")
    await store.batches.create_batch(stored)
    await store.batches.create_batch(stored)
    assert await store.batches.batch("alice", "batch_1") == stored
    assert await store.batches.batch("bob", "batch_1") is None
    assert await store.batches.request_batch_cancel("bob", "batch_1", at=NOW) is None
    assert await store.batches.batches("bob", after=None, limit=10) == []


async def test_batches_are_listed_newest_first_in_pages(store):
    names = [f"batch_{number}" for number in range(5)]
    for name in names:
        await store.batches.create_batch(batch(name))
    page = await store.batches.batches("alice", after=None, limit=2)
    assert [each.id for each in page] == names[:1:-1]
    page = await store.batches.batches("alice", after="batch_2", limit=2)
    assert [each.id for each in page] == ["batch_1", "batch_0"]
    assert await store.batches.batches("alice", after="batch_9", limit=2) is None
    assert await store.batches.batches("bob", after="batch_2", limit=2) is None


async def test_the_oldest_unfinished_batch_is_claimed_once(store):
    for name, status in (("batch_0", BatchStatus.COMPLETED), ("batch_1", BatchStatus.VALIDATING)):
        await store.batches.create_batch(batch(name, status=status))
    await store.batches.create_batch(batch("batch_2", owner="bob", status=BatchStatus.CANCELLING))
    assert [each.id for each in await store.batches.unfinished_batches()] == ["batch_1", "batch_2"]
    for held, name in (([], "batch_1"), (["batch_1"], "batch_2")):
        assert (await store.batches.claim_batch(held)).id == name
    assert await store.batches.claim_batch(["batch_1", "batch_2"]) is None


async def test_stores_that_claim_at_once_never_get_the_same_batch(open_store):
    stores = [await open_store() for _ in range(6)]
    names = {f"batch_{number:02}" for number in range(40)}
    await asyncio.gather(*(stores[0].batches.create_batch(batch(name)) for name in names))

    async def claim_all(store) -> list[str]:
        found = []
        while True:
            claimed = await store.batches.claim_batch(found)
            if claimed is not None:
                found.append(claimed.id)
                # Others have a turn, and this one may get what they pass over.
                await asyncio.sleep(0)
            elif all(each.claim for each in await store.batches.unfinished_batches()):
                return found

    claimed = await asyncio.gather(*(claim_all(store) for store in stores))
    assert sorted(name for names_of_one in claimed for name in names_of_one) == sorted(names)


async def test_progress_and_the_end_are_stored_with_new_files(store):
    await store.batches.create_batch(batch("batch_1"))
    claimed = await store.batches.claim_batch()
    part = Part(name="batch_1.x", output_bytes=5, error_bytes=0)
    progress = with_(
        claimed, status=BatchStatus.IN_PROGRESS, total=3, completed=1, parts=(part,), in_progress_at=NOW
    )
    assert await store.batches.save_batch(progress) == progress
    assert await store.batches.batch("alice", "batch_1") == progress
    end = with_(progress, status=BatchStatus.COMPLETED, completed=3, output_file_id="file-2", parts=())
    output = file("file-2", purpose="batch_output")
    assert await store.batches.save_batch(end, [output]) == end
    assert await store.files.file("alice", "file-2") == output
    # The end may have been stored although its answer was lost.
    assert await store.batches.save_batch(end, [output]) == end
    assert await store.batches.claim_batch() is None
    assert sql_claims(store) == [None]


def sql_claims(store) -> list[str | None]:
    database = store._access._database
    with database.read() as connection:
        return list(connection.execute(text("SELECT process_id FROM memoria_batches ORDER BY key")).scalars())


@pytest.mark.parametrize("status", [BatchStatus.VALIDATING, BatchStatus.IN_PROGRESS])
async def test_a_batch_in_progress_is_cancelled_by_any_process(open_store, status):
    worker, other = await open_store(), await open_store()
    await worker.batches.create_batch(batch("batch_1"))
    claimed = await worker.batches.claim_batch()
    await worker.batches.save_batch(with_(claimed, status=status))
    asked = await other.batches.request_batch_cancel("alice", "batch_1", at=NOW + 5)
    assert (asked.status, asked.cancelling_at) == (BatchStatus.CANCELLING, NOW + 5)
    again = await other.batches.request_batch_cancel("alice", "batch_1", at=NOW + 9)
    assert (again.status, again.cancelling_at) == (BatchStatus.CANCELLING, NOW + 5)
    saved = await worker.batches.save_batch(with_(claimed, status=BatchStatus.IN_PROGRESS, completed=2))
    assert (saved.status, saved.cancelling_at, saved.completed) == (BatchStatus.CANCELLING, NOW + 5, 2)
    end = with_(saved, status=BatchStatus.CANCELLED, cancelled_at=NOW + 6)
    assert await worker.batches.save_batch(end) == end
    assert await other.batches.batch("alice", "batch_1") == end


@pytest.mark.parametrize("status", [BatchStatus.FINALIZING, *sorted(ENDED)])
async def test_a_batch_that_has_ended_or_is_about_to_is_not_cancelled(store, status):
    stored = batch("batch_1", status=status)
    await store.batches.create_batch(stored)
    assert await store.batches.request_batch_cancel("alice", "batch_1", at=NOW) == stored


async def test_a_released_batch_is_claimed_again_and_its_former_claim_is_refused(open_store):
    first, second = await open_store(), await open_store()
    await first.batches.create_batch(batch("batch_1"))
    lost = await first.batches.claim_batch()
    assert await second.batches.claim_batch() is None
    await second.batches.release_batch(lost)
    assert await second.batches.claim_batch() is None
    await first.batches.release_batch(lost)
    assert await first.batches.save_batch(with_(lost, completed=9), [file("file-2")]) is None
    mine = await second.batches.claim_batch()
    assert mine is not None
    assert mine.claim != lost.claim
    for status in (BatchStatus.IN_PROGRESS, BatchStatus.COMPLETED):
        assert await first.batches.save_batch(with_(lost, status=status), [file("file-2")]) is None
    assert await first.files.file("alice", "file-2") is None
    assert await second.batches.save_batch(with_(mine, completed=1)) == with_(mine, completed=1)


async def test_a_claim_that_was_lost_stays_lost_if_its_process_claims_again(store):
    await store.batches.create_batch(batch("batch_1"))
    lost = await store.batches.claim_batch()
    mine = await store.batches.claim_batch()
    assert mine.claim != lost.claim
    assert await store.batches.save_batch(with_(lost, completed=9)) is None
    await store.batches.release_batch(lost)
    assert sql_claims(store) == [store._access.process_id]
    assert await store.batches.save_batch(mine) == mine


async def test_a_process_that_stops_gives_up_its_batches(open_store):
    first, second = await open_store(), await open_store()
    await first.batches.create_batch(batch("batch_1"))
    await first.batches.claim_batch()
    await first.stop()
    claimed = await second.batches.claim_batch()
    assert claimed is not None


async def test_a_batch_of_a_process_that_was_killed_is_free_at_once(options, store):
    dead = await asyncio.create_subprocess_exec(sys.executable, "-c", "pass")
    await dead.wait()
    here = this_process()
    await store.batches.create_batch(batch("batch_1"))
    claim_for(options, ProcessInfo(host=here.host, pid=dead.pid, started=here.started), age_s=0)
    claimed = await store.batches.claim_batch()
    assert claimed is not None


@pytest.mark.parametrize(("age_s", "is_free"), [(DEAD_AFTER_S - 10, False), (DEAD_AFTER_S + 10, True)])
async def test_a_batch_of_a_process_elsewhere_is_free_without_its_heartbeat(options, store, age_s, is_free):
    await store.batches.create_batch(batch("batch_1"))
    claim_for(options, ProcessInfo(host="elsewhere", pid=1, started=1.0), age_s=age_s)
    assert (await store.batches.claim_batch() is not None) == is_free


async def test_a_process_that_was_taken_for_dead_loses_its_claim_and_can_claim_again(options, open_store):
    first, second = await open_store(), await open_store()
    await first.batches.create_batch(batch("batch_1"))
    lost = await first.batches.claim_batch()
    sql(options, "DELETE FROM memoria_processes WHERE id = :id", id=first._access.process_id)
    mine = await second.batches.claim_batch()
    assert mine is not None
    assert await first.batches.save_batch(with_(lost, completed=9)) is None
    await second.batches.create_batch(batch("batch_2"))
    assert (await first.batches.claim_batch()).id == "batch_2"
    # It counts as alive again, from its claim on.
    assert await second.batches.claim_batch(["batch_1"]) is None


def claim_for(options, process: ProcessInfo, *, age_s: int) -> None:
    """Let another process have claimed all batches."""
    sql(
        options,
        "INSERT INTO memoria_processes VALUES ('other', :host, :pid, :started, :heartbeat)",
        host=process.host,
        pid=process.pid,
        started=process.started,
        heartbeat=int(time.time()) - age_s,
    )
    sql(options, "UPDATE memoria_batches SET process_id = 'other', claim = 'c'")


async def test_batches_that_have_ended_are_removed_with_age(open_store):
    store = await open_store(max_age_days=1)
    old = NOW - 2 * DAY_S
    await store.batches.create_batch(batch("batch_1", created=old, status=BatchStatus.COMPLETED))
    await store.batches.create_batch(batch("batch_2", created=old))
    await store.batches.create_batch(batch("batch_3", status=BatchStatus.FAILED))
    await store.sweep()
    page = await store.batches.batches("alice", after=None, limit=10)
    assert [each.id for each in page] == ["batch_3", "batch_2"]


async def test_batches_that_have_ended_are_removed_if_it_is_too_much(open_store):
    """Otherwise failed batches of one client, with their errors, would displace the responses of all others."""
    limit = 2_000_000
    store = await open_store(max_age_days=0, max_bytes=limit)
    await store.batches.create_batch(batch("running", created=NOW - 100))
    for number in range(200):
        error = BatchError(code="invalid", message=noise(number).hex())
        await store.batches.create_batch(
            batch(f"batch_{number}", created=NOW - 50 + number // 10, status=BatchStatus.FAILED, errors=(error,))
        )
    await store.finish(finished("resp_1", created=NOW))
    assert await store.sweep() > 100
    with store._access._database.read() as connection:
        assert store._retention.size(connection) <= limit
    assert await store.response("alice", "resp_1") is not None
    left = await store.batches.batches("alice", after=None, limit=300)
    assert {"running", "batch_199"} < {each.id for each in left}
    assert "batch_0" not in {each.id for each in left}


async def test_a_database_of_the_first_revision_keeps_its_data(options):
    store = make_store(options)
    await store.start()
    await store.finish(finished("resp_1"))
    await store.stop()
    engine = create_engine(engine_url(options))
    config = Config()
    config.set_main_option("script_location", str(migrate.FOLDER))
    with engine.begin() as connection:
        config.attributes["connection"] = connection
        command.downgrade(config, "0001")
    assert not inspect(engine).has_table("memoria_files")
    engine.dispose()
    store = make_store(options)
    await store.start()
    try:
        assert await store.response("alice", "resp_1") == finished("resp_1")
        await store.files.create_file(file("file-1"))
        await store.batches.create_batch(batch("batch_1"))
        assert await store.batches.claim_batch() is not None
    finally:
        await store.stop()
