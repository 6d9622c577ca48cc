"""Databases that can't be opened are refused with one sentence that says what to do, and no password."""

import asyncio
import os
import sqlite3
import stat
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from filelock import FileLock
from sqlalchemy import Connection, create_engine, inspect, make_url, text

from adapters.state import migrate
from adapters.state.database import Database
from adapters.state.failures import describe
from adapters.state.provider import FILE_NAME, StateOptions, build_state, inspect_state
from adapters.state.tables import metadata
from domain.errors import ConfigurationError
from tests.integration.state.conftest import make_store
from tests.integration.state.samples import finished
from tests.postgres import PASSWORD


async def refusal(options: StateOptions, *, is_foreseen: bool = True) -> str:
    """The message with which a start fails, and an inspection before it as well."""
    if is_foreseen:
        with pytest.raises(ConfigurationError) as foreseen:
            await asyncio.to_thread(inspect_state, options)
    store = make_store(options)
    try:
        with pytest.raises(ConfigurationError) as caught:
            await store.start()
    finally:
        await store.stop()
    message = str(caught.value)
    if is_foreseen:
        assert str(foreseen.value) == message
    assert message.startswith("STATE_DATABASE: ")
    assert "\n" not in message
    assert message.endswith(".")
    return message


def test_nothing_is_built_if_it_is_switched_off(tmp_path):
    off = StateOptions(is_on=False, folder=tmp_path)
    assert build_state(off, interrupted=bytes) is None
    assert inspect_state(off) is None


async def test_an_inspection_changes_nothing(options):
    facts = inspect_state(options)
    assert facts.size_bytes is None
    assert not options.folder.exists()
    if options.database is not None:
        engine = create_engine(engine_url(options))
        with engine.begin() as connection:
            assert inspect(connection).get_table_names() == []
        engine.dispose()


async def test_an_inspection_finds_a_database_in_use(store, options):
    await store.finish(finished("resp_1"))
    facts = await asyncio.to_thread(inspect_state, options)
    if options.database is None:
        assert facts.where == str(facts.path) == str(options.folder / FILE_NAME)
        assert facts.size_bytes == facts.path.stat().st_size > 0
    else:
        assert (facts.path, facts.size_bytes) == (None, None)
        assert facts.where.endswith(f"/{make_url(options.database).database}")
        assert PASSWORD not in facts.where
    assert await store.response("alice", "resp_1") is not None


async def test_folder_and_files_are_readable_by_their_user_alone(tmp_path):
    options = StateOptions(folder=tmp_path / "new" / "data")
    before = os.umask(0o022)
    try:
        store = make_store(options)
        await store.start()
        await store.finish(finished("resp_1"))
    finally:
        os.umask(before)
    files = {path.name: stat.S_IMODE(path.stat().st_mode) for path in options.folder.iterdir()}
    await store.stop()
    assert stat.S_IMODE(options.folder.stat().st_mode) == 0o700
    assert {FILE_NAME, f"{FILE_NAME}-wal", f"{FILE_NAME}-shm"} <= set(files)
    assert set(files.values()) == {0o600}


async def test_a_url_names_the_file(tmp_path):
    path = tmp_path / "a % folder" / "any.db"
    store = make_store(StateOptions(folder=tmp_path / "unused", database=f"sqlite:///{path}"))
    await store.start()
    await store.stop()
    assert path.exists()
    assert not (tmp_path / "unused").exists()


async def test_the_file_returns_space_and_uses_a_write_ahead_log(tmp_path):
    store = make_store(StateOptions(folder=tmp_path))
    await store.start()
    await store.stop()
    connection = sqlite3.connect(tmp_path / FILE_NAME)
    assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    assert connection.execute("PRAGMA auto_vacuum").fetchone() == (2,)
    connection.close()


async def test_a_file_that_is_no_database_is_refused_and_left_alone(tmp_path):
    path = tmp_path / FILE_NAME
    path.write_bytes(b"some other file\n" * 100)
    message = await refusal(StateOptions(folder=tmp_path))
    assert f"{path} is not an SQLite database" in message
    assert path.read_bytes() == b"some other file\n" * 100


@pytest.mark.parametrize("damage", ["cut", "schema"])
async def test_a_damaged_file_is_refused(tmp_path, damage):
    store = make_store(StateOptions(folder=tmp_path))
    await store.start()
    await store.stop()
    path = tmp_path / FILE_NAME
    if damage == "cut":
        os.truncate(path, path.stat().st_size // 2)
    else:
        connection = sqlite3.connect(path)
        connection.execute("PRAGMA writable_schema = ON")
        connection.execute("UPDATE sqlite_schema SET sql = 'nonsense' WHERE name = 'memoria_items'")
        connection.commit()
        connection.close()
    message = await refusal(StateOptions(folder=tmp_path))
    assert f"{path} is damaged" in message
    assert "backup" in message


async def test_a_folder_that_can_not_be_created_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    message = await refusal(StateOptions(folder=tmp_path / "file" / "data"))
    assert "can't be created or written (Not a directory)" in message
    assert "STATE=off" in message
    assert "can't be created or written (Is a directory)" in await refusal(
        StateOptions(folder=tmp_path, database=f"sqlite:///{tmp_path}")
    )


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
async def test_a_folder_that_is_not_writable_is_refused(tmp_path):
    tmp_path.chmod(0o500)
    assert "Permission denied" in await refusal(StateOptions(folder=tmp_path))


async def test_a_database_of_a_newer_version_is_refused(options):
    store = make_store(options)
    await store.start()
    await store.stop()
    engine = create_engine(engine_url(options))
    with engine.begin() as connection:
        connection.execute(text(f"UPDATE {migrate.VERSION_TABLE} SET version_num = '9999'"))
    engine.dispose()
    message = await refusal(options)
    assert "revision 9999" in message
    assert "newer version" in message


async def test_migrations_make_the_tables_that_are_described(options):
    """Also that the newest revision is the one that a start expects."""
    database = Database(make_url(engine_url(options)))
    await asyncio.to_thread(database.open)
    with database.read() as connection:
        context = MigrationContext.configure(connection, opts={"version_table": migrate.VERSION_TABLE})
        found = compare_metadata(context, metadata)
        assert (
            context.get_current_revision()
            == migrate.HEAD
            == ScriptDirectory(str(migrate.FOLDER)).get_current_head()
        )
    database.close()
    assert found == []


async def test_several_stores_may_start_at_once(options):
    stores = [make_store(options) for _ in range(8)]
    try:
        await asyncio.gather(*(store.start() for store in stores))
        await asyncio.gather(*(store.finish(finished(f"resp_{n}")) for n, store in enumerate(stores)))
        for store in stores:
            assert [await store.response("alice", f"resp_{n}") is not None for n in range(8)] == [True] * 8
    finally:
        for store in stores:
            await store.stop()


async def test_a_file_that_another_process_keeps_opening_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("adapters.state.database.LOCK_TIMEOUT_S", 0.05)
    with FileLock(tmp_path / f"{FILE_NAME}.lock"):
        assert "another process has kept" in await refusal(StateOptions(folder=tmp_path), is_foreseen=False)


async def test_a_start_that_fails_half_way_leaves_nothing(options, monkeypatch):
    def fail(_self: Database, connection: Connection) -> None:
        assert set(metadata.tables) <= set(inspect(connection).get_table_names())
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(Database, "_check", fail)
        # Of a file that does not exist there is nothing to inspect.
        message = await refusal(options, is_foreseen=options.database is not None)
    assert "No space left on device" in message
    engine = create_engine(engine_url(options))
    with engine.begin() as connection:
        assert inspect(connection).get_table_names() == []
    engine.dispose()
    store = make_store(options)
    await store.start()
    await store.stop()


def engine_url(options: StateOptions) -> str:
    if options.database is None:
        return f"sqlite:///{options.folder / FILE_NAME}"
    return options.database.replace("postgresql://", "postgresql+psycopg://")


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"user": "memoria", "password": "wr0ng/pass"}, "refuses the login"),
        ({"user": "unknown_user"}, "refuses the login"),
        ({"database": "missing"}, "has no such database"),
    ],
)
async def test_a_login_that_fails_is_refused_without_the_password(postgres, tmp_path, changes, expected):
    message = await refusal(StateOptions(folder=tmp_path, database=postgres.url(**changes)))
    assert expected in message
    for secret in (PASSWORD, "wr0ng", "p%40ss"):
        assert secret not in message


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("postgresql://u:s3cret@127.0.0.1:1/db", "127.0.0.1:1/db can't be reached"),
        ("postgres://u:s3cret@127.0.0.1:1/db", "127.0.0.1:1/db can't be reached"),
        ("postgresql://u:s3cret@127.0.0.1:1/db?nonsense=s3cret", "can't be reached with this URL"),
        ("postgresql://u@127.0.0.1:1/db?password=s3cret&connect_timeout=x", "can't be reached"),
        ("postgresql://u:s3cret@[::1]:1/db", "[::1]:1/db can't be reached"),
    ],
)
async def test_a_server_that_is_not_there_is_refused_without_the_password(tmp_path, url, expected):
    message = await refusal(StateOptions(folder=tmp_path, database=url))
    assert expected in message
    assert "s3cret" not in message


async def test_missing_rights_are_refused(postgres, tmp_path):
    import psycopg

    url = postgres.create_database()
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("CREATE ROLE poor LOGIN PASSWORD 'poor'")
    name = make_url(url).database
    message = await refusal(
        StateOptions(folder=tmp_path, database=postgres.url(str(name), user="poor", password="poor"))
    )
    assert "does not let this user create" in message


def test_what_is_no_url_is_refused_without_it(tmp_path):
    with pytest.raises(ConfigurationError) as caught:
        build_state(
            StateOptions(folder=tmp_path, database="postgresql://u:s3cret@host:port/db"), interrupted=bytes
        )
    assert "s3cret" not in str(caught.value)


def test_what_a_driver_says_is_shown_without_the_password():
    url = make_url("postgresql://u:s3cret@host/db?sslpassword=other")
    said = describe(url, ValueError("could not use s3cret and other\nDETAIL: s3cret"))
    assert said == "could not use *** and ***"


def test_options_don_t_show_the_url():
    assert "s3cret" not in repr(StateOptions(folder=Path("x"), database="postgresql://u:s3cret@host/db"))
