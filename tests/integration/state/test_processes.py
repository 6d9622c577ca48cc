"""Several processes on one database, and processes that end at any moment."""

import asyncio
import os
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psutil
import pytest
from sqlalchemy import create_engine, text

from adapters.state.processes import DEAD_AFTER_S, ProcessInfo, has_ended, this_process
from adapters.state.provider import FILE_NAME, StateOptions
from domain.state import ResponseStatus
from tests.deployment import ROOT
from tests.integration.state.samples import conversation, finished, is_failed, item, unfinished
from tests.integration.state.test_opening import engine_url

LINES = 150


@contextmanager
def storm(options: StateOptions) -> Iterator["subprocess.Popen[str]"]:
    """A process that stores responses."""
    command = [sys.executable, "-m", "tests.integration.state.storm", str(options.folder)]
    command += [options.database] if options.database else []
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, env=os.environ)
    try:
        yield process
    finally:
        process.kill()
        process.wait(60)
        assert process.stdout is not None
        process.stdout.close()


def lines(process: "subprocess.Popen[str]", count: int) -> list[tuple[str, str]]:
    """Its next lines; all that are left if `count` is negative."""
    assert process.stdout is not None
    found: list[tuple[str, str]] = []
    for line in process.stdout:
        if not line.endswith("\n"):
            # It was killed while it wrote this one.
            break
        kind, name = line.split()
        found.append((kind, name))
        if len(found) == count:
            break
    return found


async def test_whatever_was_finished_is_there_after_kill_9_and_the_rest_has_failed(options, open_store):
    with storm(options) as process:
        printed = lines(process, LINES)
        process.kill()
        printed += lines(process, -1)
    store = await open_store()
    done = {name for kind, name in printed if kind == "finished"}
    begun = {name for kind, name in printed if kind == "begun"}
    assert len(done) > LINES // 2
    for name in done:
        found = await store.response("alice", name)
        assert found is not None
        assert found.status == ResponseStatus.COMPLETED
        assert [each.id for each in (await store.history("alice", name)) or ()] == [
            f"in-{name}",
            f"out-{name}",
            "same",
        ]
    for name in begun - done:
        found = await store.response("alice", name)
        # It may have been finished without a line about it.
        assert is_failed(found) or (found is not None and found.status == ResponseStatus.COMPLETED)
    conversation = await store.conversation_items("alice", f"conv-{process.pid}")
    assert conversation is not None
    assert {each.id for each in conversation} >= {f"out-{name}" for name in done}
    assert len(conversation) % 3 == 0
    await store.sweep()
    await store.stop()
    check_consistency(options)


def check_consistency(options: StateOptions) -> None:
    """Nothing is half: every response is finished, every item and event has a place."""
    if options.database is None:
        connection = sqlite3.connect(options.folder / FILE_NAME)
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        connection.close()
    for statement in (
        "SELECT count(*) FROM memoria_responses WHERE process_id IS NOT NULL",
        "SELECT count(*) FROM memoria_responses WHERE status IN ('queued', 'in_progress')",
        "SELECT count(*) FROM memoria_responses r WHERE status = 'completed' AND 3 <>"
        " (SELECT count(*) FROM memoria_items i WHERE i.response_id = r.id)",
        "SELECT count(*) FROM memoria_items WHERE response_id NOT IN (SELECT id FROM memoria_responses)",
        "SELECT count(*) FROM memoria_events WHERE response_id NOT IN (SELECT id FROM memoria_responses)",
        "SELECT count(*) FROM memoria_processes",
    ):
        assert sql(options, statement) == [(0,)], statement


def sql(options: StateOptions, statement: str, **values: Any) -> list[tuple[Any, ...]]:
    engine = create_engine(engine_url(options))
    with engine.begin() as connection:
        result = connection.execute(text(statement), values)
        rows = [tuple(row) for row in result] if result.returns_rows else []
    engine.dispose()
    return rows


async def test_two_processes_write_at_once(options, open_store):
    store = await open_store()
    with storm(options) as first, storm(options) as second:
        printed = lines(first, LINES) + lines(second, LINES)
        # This process as well, meanwhile.
        await store.finish(unfinished("resp_1", status=ResponseStatus.COMPLETED))
        found = [await store.response("alice", name) for kind, name in printed if kind == "finished"]
        assert {each.status for each in found if each is not None} == {ResponseStatus.COMPLETED}
        assert None not in found
        for process in (first, second):
            process.kill()
    assert await store.response("alice", "resp_1") is not None


async def test_two_stores_append_to_one_conversation(open_store):
    first, second = await open_store(), await open_store()
    await first.create_conversation(conversation("conv_1"), [])
    names = [f"item-{number}" for number in range(60)]
    added = await asyncio.gather(
        *(
            store.add_conversation_items("alice", "conv_1", [item(f"{name}-{mark}")])
            for name in names
            for mark, store in (("a", first), ("b", second))
        ),
        *(second.finish(finished(f"resp_{number}", conversation_id="conv_1")) for number in range(20)),
    )
    assert set(added[: 2 * len(names)]) == {True}
    found = await first.conversation_items("alice", "conv_1")
    assert found is not None
    ids = [each.id for each in found]
    assert len(ids) == 2 * len(names) + 40
    for mark in "ab":
        assert [each for each in ids if each.endswith(f"-{mark}")] == [f"{name}-{mark}" for name in names]


async def test_a_response_of_another_live_process_is_unfinished(open_store):
    first, second = await open_store(), await open_store()
    await first.begin_durably(unfinished("resp_1"))
    found = await second.response("alice", "resp_1")
    assert found == await first.response("alice", "resp_1")
    assert await second.request_cancel("alice", "resp_1")
    assert await first.cancel_requested(["resp_1"]) == ["resp_1"]
    await first.stop()
    assert is_failed(await second.response("alice", "resp_1"))


READS = {
    "response": lambda store: store.response("alice", "resp_1"),
    "history": lambda store: store.history("alice", "resp_1"),
    "cancel": lambda store: store.request_cancel("alice", "resp_1"),
    "sweep": lambda store: store.sweep(),
}


@pytest.mark.parametrize("how", READS)
async def test_a_response_of_a_dead_process_has_failed_for_every_method(options, open_store, how):
    store = await open_store()
    dead = await asyncio.create_subprocess_exec(sys.executable, "-c", "pass")
    await dead.wait()
    here = this_process()
    add_process(options, ProcessInfo(host=here.host, pid=dead.pid, started=here.started), age_s=0)
    found = await READS[how](store)
    if how == "history":
        assert found is None
    if how == "cancel":
        assert found is False
    assert sql(options, "SELECT status, process_id FROM memoria_responses") == [("failed", None)]
    assert is_failed(await store.response("alice", "resp_1"))


@pytest.mark.parametrize(("age_s", "has_failed"), [(DEAD_AFTER_S - 10, False), (DEAD_AFTER_S + 10, True)])
async def test_a_process_elsewhere_lives_as_long_as_its_heartbeat(options, open_store, age_s, has_failed):
    store = await open_store()
    add_process(options, ProcessInfo(host="elsewhere", pid=1, started=1.0), age_s=age_s)
    await store.sweep()
    assert is_failed(await store.response("alice", "resp_1")) == has_failed


async def test_heartbeats_are_written(options, open_store, monkeypatch):
    monkeypatch.setattr("adapters.state.access.HEARTBEAT_S", 0.05)
    store = await open_store()
    sql(options, "UPDATE memoria_processes SET heartbeat = 0")
    for _ in range(1000):
        if sql(options, "SELECT heartbeat FROM memoria_processes") != [(0,)]:
            break
        await asyncio.sleep(0.01)
    ((heartbeat,),) = sql(options, "SELECT heartbeat FROM memoria_processes")
    assert abs(heartbeat - time.time()) < 60
    await store.stop()


def add_process(options: StateOptions, process: ProcessInfo, *, age_s: int) -> None:
    """Write an unfinished response of another process."""
    sql(
        options,
        "INSERT INTO memoria_processes VALUES ('other', :host, :pid, :started, :heartbeat)",
        host=process.host,
        pid=process.pid,
        started=process.started,
        heartbeat=int(time.time()) - age_s,
    )
    sql(
        options,
        "INSERT INTO memoria_responses (id, owner, created, status, is_background, process_id, cancel_requested,"
        " body) VALUES ('resp_1', 'alice', :now, 'in_progress', :no, 'other', :no, :body)",
        now=int(time.time()),
        no=False,
        body=b'{"status":"in_progress"}',
    )
    sql(
        options,
        "INSERT INTO memoria_items (owner, item_id, response_id, position, is_output, data)"
        " VALUES ('alice', 'in-resp_1', 'resp_1', 0, :no, :data)",
        no=False,
        data=item("in-resp_1").data,
    )


def test_a_process_is_identified_by_its_start_too():
    here = this_process()
    known = {"heartbeat_age_s": 0.0, "here": here, "trusts_heartbeats": True}
    assert not has_ended(here, **known)
    for started in (here.started - 10, here.started + 10):
        assert has_ended(ProcessInfo(host=here.host, pid=here.pid, started=started), **known)
    assert not has_ended(here, heartbeat_age_s=1e9, here=here, trusts_heartbeats=True)


def test_a_clock_that_is_set_changes_nothing(monkeypatch):
    here = this_process()
    real = psutil.boot_time()
    monkeypatch.setattr(psutil, "boot_time", lambda: real + 7200)
    monkeypatch.setattr(psutil._pslinux, "boot_time", lambda: real + 7200)
    assert not has_ended(here, heartbeat_age_s=0, here=here, trusts_heartbeats=True)


def test_a_zombie_has_ended():
    child = subprocess.Popen([sys.executable, "-c", "pass"])
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    here = this_process()
    process = psutil.Process(child.pid)
    assert process.status() == psutil.STATUS_ZOMBIE
    info = ProcessInfo(host=here.host, pid=child.pid, started=process.create_time() - psutil.boot_time())
    assert has_ended(info, heartbeat_age_s=0, here=here, trusts_heartbeats=True)
    child.wait()


def test_old_heartbeats_mean_nothing_soon_after_an_outage():
    other = ProcessInfo(host="elsewhere", pid=1, started=0.0)
    assert has_ended(other, heartbeat_age_s=31, here=this_process(), trusts_heartbeats=True)
    assert not has_ended(other, heartbeat_age_s=31, here=this_process(), trusts_heartbeats=False)
