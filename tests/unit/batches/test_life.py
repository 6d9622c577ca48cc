"""Batches that expire, lose their input, disk or claim, or are interrupted by the end of the service."""

import errno
import logging
import time
from pathlib import Path
from typing import Any

import msgspec
import pytest

from app.batches import ending, runner, saving, work
from app.files import service
from domain.batches import BatchStatus
from domain.errors import BackendUnavailableError, StateUnavailableError
from tests.unit.batches.serving import EMBED_BODY, BatchesApi, batches_serving, line, lines
from tests.unit.serving import NEVER_S
from tests.unit.waiting import eventually


@pytest.fixture(autouse=True)
def _short_pauses(monkeypatch):
    monkeypatch.setattr(work, "SAVE_S", 0.02)
    monkeypatch.setattr(work, "WRITE_S", 0.01)
    monkeypatch.setattr(saving, "RETRY_S", 0.02)
    monkeypatch.setattr(ending, "RETRY_S", 0.02)


@pytest.fixture
async def api(tmp_path):
    async with batches_serving(tmp_path) as running:
        yield running


def hold(api: BatchesApi, word: str = "slow") -> None:
    """Make inputs with a word take forever."""
    original = api.embedder._embed

    async def embed(request: Any) -> Any:
        api.embedder.delay_s = NEVER_S if word in request.inputs[0] else 0.0
        return await original(request)

    api.embedder._embed = embed


def mixed(quick: int, slow: int) -> list[dict[str, Any]]:
    found = [line(f"quick-{n}", EMBED_BODY | {"input": f"quick {n}"}) for n in range(quick)]
    return found + [line(f"slow-{n}", EMBED_BODY | {"input": f"slow {n}"}) for n in range(slow)]


def named(kind: str, count: int) -> set[str]:
    return {f"{kind}-{number}" for number in range(count)}


def works(api: BatchesApi) -> list[Any]:
    return list(api.app.batches._runner._work.values())


async def answered(api: BatchesApi, count: int) -> None:
    """Wait until the only batch has so many answers in memory."""
    await eventually(lambda: [len(each._saver.answered.lines) for each in works(api)] == [count])


async def saved(api: BatchesApi, count: int) -> None:
    """Wait until so many answers are saved."""
    await eventually(lambda: [each._saver.batch.completed for each in works(api)] == [count])


class LaterClock:
    """The time, some hours later."""

    hours = 0

    def __call__(self) -> float:
        return time.time() + self.hours * 3600


async def test_counts_move_while_a_batch_runs(api):
    hold(api)
    begun = await api.begin(mixed(3, 2))
    await answered(api, 3)
    now = await api.client.batches.retrieve(begun.id)
    assert (now.status, now.request_counts.completed, now.request_counts.total) == ("in_progress", 3, 5)
    assert now.usage.input_tokens == 21
    (listed,) = (await api.client.batches.list()).data
    assert listed.request_counts == now.request_counts


async def test_a_batch_expires_with_what_was_answered(api):
    clock = LaterClock()
    api.app.batches._runner._tools = msgspec.structs.replace(api.app.batches._runner._tools, clock=clock)
    hold(api)
    begun = await api.begin(mixed(3, 2), completion_window="2h")
    await answered(api, 3)
    clock.hours = 3
    done = await api.ended(begun)
    assert (done.status, done.expired_at is not None, api.embedder.running) == ("expired", True, 0)
    output, errors = await api.results(done)
    assert (set(output), set(errors)) == (named("quick", 3), named("slow", 2))
    assert {record["error"]["code"] for record in errors.values()} == {"batch_expired"}
    assert (done.request_counts.completed, done.request_counts.failed) == (3, 2)


async def test_a_batch_whose_input_is_deleted_fails_with_what_was_answered(api):
    hold(api)
    begun = await api.begin(mixed(3, 2))
    await answered(api, 3)
    await api.client.files.delete(begun.input_file_id)
    done = await api.ended(begun)
    assert (done.status, api.embedder.running) == ("failed", 0)
    (error,) = done.errors.data
    assert (error.code, error.param) == ("input_file_not_found", "input_file_id")
    output, errors = await api.results(done)
    assert (set(output), errors) == (named("quick", 3), {})


async def test_a_stop_and_a_start_go_on_where_it_was(tmp_path):
    async with batches_serving(tmp_path) as api:
        hold(api)
        begun = await api.begin(mixed(30, 20))
        await answered(api, 30)
        started = time.monotonic()
    assert api.embedder.running == 0
    assert time.monotonic() - started < 10, "the claim is given up at once"
    async with batches_serving(tmp_path) as api:
        done = await api.ended(begun)
        assert (done.status, done.request_counts.completed, done.usage.input_tokens) == ("completed", 50, 360)
        output, _ = await api.results(done)
        assert set(output) == named("quick", 30) | named("slow", 20)
        ran = [request.inputs[0] for request in api.embedder.seen if request.inputs[0].startswith("quick")]
        assert ran == [], "answered lines don't run again"


async def test_a_drained_service_begins_no_lines(api):
    hold(api)
    begun = await api.begin(mixed(2, 3))
    await answered(api, 2)
    api.app.drain()
    await eventually(lambda: works(api) == [])
    assert api.embedder.running == 0
    stored = await api.app.batches._resources.batches.batch("", begun.id)
    assert (stored.status, stored.completed) == ("in_progress", 2)


async def test_a_cancel_by_another_process_is_seen(api):
    hold(api)
    begun = await api.begin(mixed(1, 3))
    await answered(api, 1)
    await api.app.batches._resources.batches.request_batch_cancel("", begun.id, at=5)
    done = await api.ended(begun)
    assert (done.status, done.cancelling_at) == ("cancelled", 5)
    output, errors = await api.results(done)
    assert (set(output), set(errors)) == (named("quick", 1), named("slow", 3))


async def test_a_batch_that_lost_its_claim_is_left_alone(api, caplog):
    hold(api)
    begun = await api.begin(mixed(2, 3))
    await answered(api, 2)
    (claimed,) = works(api)

    def is_left() -> bool:
        # Each time, because a save that is in progress puts its own claim back when it ends.
        claimed._saver.batch = msgspec.structs.replace(claimed._saver.batch, claim="another")
        return claimed not in works(api)

    with caplog.at_level(logging.WARNING, "memoria"):
        await eventually(is_left)
    assert "left to another process" in caplog.text
    assert (await api.client.batches.retrieve(begun.id)).status == "in_progress"


class Disk:
    """Replaces a method of contents by one that fails while the disk is full."""

    def __init__(self, contents: Any, name: str) -> None:
        self.is_full = True
        self.failures = 0
        original = getattr(contents, name)

        def checked(*arguments: Any, **more: Any) -> Any:
            if self.is_full:
                self.failures += 1
                raise OSError(errno.ENOSPC, "No space left on device")
            return original(*arguments, **more)

        setattr(contents, name, checked)


async def test_a_full_disk_pauses_a_batch(api, caplog):
    disk = Disk(api.app.files.storage.contents, "append_to")
    with caplog.at_level(logging.INFO, "memoria"):
        begun = await api.begin(lines(600))
        await eventually(lambda: disk.failures > 3)
        (paused,) = works(api)
        assert not paused._saver.has_room.is_set()
        assert (await api.client.batches.retrieve(begun.id)).status == "in_progress"
        disk.is_full = False
        done = await api.ended(begun)
    assert (done.status, done.request_counts.completed) == ("completed", 600)
    output, _ = await api.results(done)
    assert len(output) == 600
    assert caplog.text.count("is paused") == 1
    assert "No space left on device" in caplog.text
    assert caplog.text.count("continues") == 2


async def test_a_full_disk_at_the_end_is_waited_for(api, caplog):
    disk = Disk(api.app.files.storage.contents, "join")
    with caplog.at_level(logging.WARNING, "memoria"):
        begun = await api.begin(lines(3))
        await eventually(lambda: disk.failures > 3)
        disk.is_full = False
        done = await api.ended(begun)
    assert len((await api.results(done))[0]) == 3
    assert caplog.text.count("can't be written") == 1


async def test_an_outage_of_the_database_is_waited_for(api):
    store = api.app.batches._resources.batches
    save, failures = store.save_batch, 0

    async def fail(*_: Any, **__: Any) -> None:
        nonlocal failures
        failures += 1
        raise StateUnavailableError

    store.save_batch = fail
    begun = await api.begin(lines(3))
    await eventually(lambda: failures > 3)
    store.save_batch = save
    assert len((await api.results(await api.ended(begun)))[0]) == 3


@pytest.mark.parametrize("lost", ["claim_batch", "release_batch"])
async def test_a_claim_or_release_whose_answer_was_lost_does_not_hold_up_the_batch(api, monkeypatch, lost):
    monkeypatch.setattr(runner, "POLL_S", 0.02)
    monkeypatch.setattr(runner, "FAILURE_PAUSE_S", 0.0)
    store, failures = api.app.batches._resources.batches, []
    original, save = getattr(store, lost), store.save_batch

    async def lose(*arguments: Any, **more: Any) -> Any:
        # A claim takes place; a release does not.
        done = await original(*arguments, **more) if failures or lost == "claim_batch" else None
        if not failures and (done is not None or lost == "release_batch"):
            failures.append(done)
            raise StateUnavailableError
        return done

    async def fail_once(*arguments: Any) -> Any:
        store.save_batch = save
        raise RuntimeError("unexpected")

    setattr(store, lost, lose)
    if lost == "release_batch":
        store.save_batch = fail_once
    done = await api.run(lines(3))
    assert (done.status, done.request_counts.completed, len(failures)) == ("completed", 3, 1)


async def test_a_process_that_lost_a_claim_does_not_claim_the_batch_while_it_works_on_it(api, monkeypatch):
    monkeypatch.setattr(runner, "POLL_S", 0.02)
    store = api.app.batches._resources.batches
    hold(api)
    begun = await api.begin(mixed(3, 2))
    await answered(api, 3)
    await saved(api, 3)
    # As if another process had taken this one for dead.
    await store.release_batch(await store.batch("", begun.id))
    (former,) = works(api)
    await eventually(lambda: works(api) not in ([], [former]))
    await answered(api, 3)
    await api.client.batches.cancel(begun.id)
    done = await api.ended(begun)
    output, errors = await api.results(done)
    assert (done.status, set(output), set(errors)) == ("cancelled", named("quick", 3), named("slow", 2))
    await eventually(lambda: works(api) == [])
    assert api.app.batches._runner._places._value == runner.SIDE_BY_SIDE - 1


async def test_lines_whose_records_were_removed_from_outside_run_again(api, monkeypatch):
    monkeypatch.setattr(runner, "FAILURE_PAUSE_S", 0.0)
    contents = api.app.files.storage.contents
    join = contents.join

    def lose(name: str, parts: Any) -> int:
        contents.join = join
        for part, _ in parts:
            contents.delete(part)
        return join(name, parts)

    contents.join = lose
    done = await api.run(lines(3))
    assert (done.status, done.request_counts.completed) == ("completed", 3)
    assert len((await api.results(done))[0]) == 3


async def test_results_whose_end_is_not_stored_yet_are_no_leftovers(api, monkeypatch):
    """The clock is set forward, or the database is away for hours, while a batch ends."""
    monkeypatch.setattr(service, "ABANDONED_S", -3600.0)
    store, save = api.app.batches._resources.batches, api.app.batches._resources.batches.save_batch

    async def sweep_before(batch: Any, files: Any = ()) -> Any:
        if files:
            await api.app.files.sweep()
        return await save(batch, files)

    store.save_batch = sweep_before
    done = await api.run([*lines(3), line("bad", EMBED_BODY | {"dimensions": 10**6})])
    output, errors = await api.results(done)
    assert (len(output), set(errors)) == (3, {"bad"})


async def test_engines_that_are_not_ready_are_waited_for(tmp_path):
    async with batches_serving(tmp_path) as api:
        api.embedder.fail_next = BackendUnavailableError("gone for a moment")
        done = await api.run(lines(3))
        assert (done.status, done.request_counts.completed) == ("completed", 3)


async def test_batches_run_side_by_side_within_one_bound(tmp_path):
    async with batches_serving(tmp_path, {"BATCH_CONCURRENCY": "4"}) as api:
        hold(api)
        begun = [await api.begin(mixed(0, 10)) for _ in range(3)]
        await eventually(lambda: api.embedder.running == 4)
        await eventually(lambda: len(works(api)) == 3)
        for batch in begun:
            await api.reached(batch, "in_progress")
        assert api.embedder.running == 4
        for batch in begun:
            await api.client.batches.cancel(batch.id)
        done = [await api.ended(batch) for batch in begun]
        assert [batch.request_counts.failed for batch in done] == [10, 10, 10]


async def test_interactive_requests_run_while_a_batch_waits(api):
    hold(api)
    await api.begin(mixed(0, 3))
    await eventually(lambda: api.embedder.running == 3)
    assert (await api.embed("now")).status_code == 200


async def test_two_services_on_one_database_run_no_line_twice(tmp_path):
    async with batches_serving(tmp_path) as first, batches_serving(tmp_path) as second:
        begun = [await first.begin(lines(200)) for _ in range(3)]
        done = [await second.ended(batch) for batch in begun]
        assert [batch.request_counts.completed for batch in done] == [200] * 3
        ran = [request for api in (first, second) for request in api.embedder.seen if request.inputs == ["text"]]
        assert len(ran) == 600


async def test_leftovers_of_a_dead_claim_are_found_before_anything_runs(tmp_path: Path):
    """A process writes records that it does not save any more, and ends; the next one does not run those lines."""
    async with batches_serving(tmp_path) as api:
        hold(api)
        begun = await api.begin(mixed(5, 2))
        store = api.app.batches._resources.batches
        await answered(api, 5)
        await saved(api, 5)
        (dead,) = works(api)
        # As if it had been killed before its last saves.
        zeroed = [msgspec.structs.replace(part, output_bytes=0, error_bytes=0) for part in dead._saver.parts]
        await store.save_batch(msgspec.structs.replace(dead._saver.batch, parts=zeroed, completed=0))
        dead._saver.batch = msgspec.structs.replace(dead._saver.batch, claim="lost")
        await eventually(lambda: works(api) not in ([], [dead]))
        await answered(api, 5)
        assert len([request for request in api.embedder.seen if "quick" in request.inputs[0]]) == 5
    async with batches_serving(tmp_path) as api:
        done = await api.ended(begun)
        output, _ = await api.results(done)
        assert set(output) == named("quick", 5) | named("slow", 2)
        assert {request.inputs[0] for request in api.embedder.seen} & {f"quick {n}" for n in range(5)} == set()


async def test_waiting_for_a_place_ends_with_the_batch(tmp_path):
    async with batches_serving(tmp_path, {"BATCH_CONCURRENCY": "1"}) as api:
        hold(api)
        first = await api.begin(mixed(0, 3))
        await eventually(lambda: api.embedder.running == 1)
        second = await api.begin(mixed(0, 3))
        await eventually(lambda: len(works(api)) == 2)
        await api.client.batches.cancel(second.id)
        assert (await api.ended(second)).status == "cancelled"
        await api.client.batches.cancel(first.id)
        assert (await api.ended(first)).status == "cancelled"


async def test_an_endpoint_of_another_service_fails_the_batch(api):
    batch = await api.begin(lines(1))
    await api.ended(batch)
    store = api.app.batches._resources.batches
    stored = await store.batch("", batch.id)
    await store.create_batch(
        msgspec.structs.replace(
            stored, id="batch_other", endpoint="/v1/gone", status=BatchStatus.VALIDATING, claim=""
        )
    )
    done = await api.ended(batch.model_copy(update={"id": "batch_other"}))
    assert (done.status, done.errors.data[0].code) == ("failed", "invalid_endpoint")
