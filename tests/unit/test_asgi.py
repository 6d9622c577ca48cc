"""The application accepts connections immediately, or waits for its engines."""

import asyncio
import time

import pytest

from app.bootstrap import build_app
from app.settings import load_settings
from domain.roles import DEFAULT_ROLES, Role
from tests.fakes import FakeBackend

NEVER_S = 60.0
SETTINGS = load_settings({"METRICS": "false", "STATE": "off"})


class SlowBackend(FakeBackend):
    """Starts when an event is set."""

    def __init__(self, role: Role, may_start: asyncio.Event) -> None:
        super().__init__(role, name=f"slow-{role}")
        self._may_start = may_start

    async def start(self, *args):
        await self._may_start.wait()
        return await super().start(*args)


@pytest.fixture
def may_start() -> asyncio.Event:
    return asyncio.Event()


@pytest.fixture
def backends(may_start: asyncio.Event):
    return {role: (f"slow-{role}", SlowBackend(role, may_start)) for role in DEFAULT_ROLES}


async def test_without_waiting_it_answers_while_engines_start(backends):
    app = build_app(SETTINGS, backends)
    async with asyncio.timeout(5), app.lifespan():
        assert app.service.health().status == "unavailable"


async def test_with_waiting_it_accepts_connections_once_engines_are_ready(backends, may_start):
    app = build_app(SETTINGS, backends, wait_s=NEVER_S)
    asyncio.get_running_loop().call_later(0.1, may_start.set)
    async with asyncio.timeout(5), app.lifespan():
        assert app.service.health().status == "ok"


async def test_it_does_not_wait_longer_than_the_limit(backends):
    app = build_app(SETTINGS, backends, wait_s=0.1)
    began = time.monotonic()
    async with asyncio.timeout(5), app.lifespan():
        assert time.monotonic() - began >= 0.1
        assert app.service.health().status == "unavailable"
