import asyncio
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from adapters.state.provider import StateOptions, build_state
from adapters.state.store import DatabaseStateStore
from tests.integration.state.samples import interrupted
from tests.postgres import PostgresProcess, find_postgres

KINDS = ("sqlite", "postgresql")
Open = Callable[..., Awaitable[DatabaseStateStore]]
"""Starts a further store on the same database, as another process would."""


@pytest.fixture(autouse=True)
def log_is_captured() -> Generator[None, None, None]:
    """Let `caplog` see the service's log, even if an earlier test has set it up for a service."""
    logger = logging.getLogger("memoria")
    propagate, level = logger.propagate, logger.level
    logger.propagate = True
    # Not inherited from the root logger, which libraries that ran before may have changed.
    logger.setLevel(logging.WARNING)
    yield
    logger.propagate = propagate
    logger.setLevel(level)


@pytest.fixture(scope="session")
def postgres() -> Generator[PostgresProcess, None, None]:
    programs = find_postgres()
    if programs is None:
        pytest.skip("PostgreSQL (initdb, postgres) is not installed")
    server = PostgresProcess(programs)
    yield server
    server.end()


@pytest.fixture(params=KINDS)
def options(request: pytest.FixtureRequest, tmp_path: Path) -> StateOptions:
    """An empty database, SQLite and PostgreSQL in turn."""
    if request.param == "sqlite":
        return StateOptions(folder=tmp_path / "data")
    server: PostgresProcess = request.getfixturevalue("postgres")
    return StateOptions(folder=tmp_path / "data", database=server.create_database())


@pytest.fixture
async def open_store(options: StateOptions) -> AsyncGenerator[Open, None]:
    opened: list[DatabaseStateStore] = []

    async def open_one(*, sweeps: bool = False, **changes: Any) -> DatabaseStateStore:
        store = make_store(options, sweeps=sweeps, **changes)
        opened.append(store)
        await store.start()
        return store

    yield open_one
    for store in opened:
        await store.stop()


@pytest.fixture
async def store(open_store: Open) -> DatabaseStateStore:
    return await open_store()


def make_store(options: StateOptions, *, sweeps: bool = False, **changes: Any) -> DatabaseStateStore:
    """A store that is not started. Without `sweeps` it removes nothing by itself."""
    stores = build_state(msgspec.structs.replace(options, **changes), interrupted=interrupted)
    assert stores is not None
    store = stores.state
    assert isinstance(store, DatabaseStateStore)
    if not sweeps:
        store._sweep_repeatedly = asyncio.Event().wait  # type: ignore[assignment]
    return store
