"""Fixtures: the browser, pages that are checked for errors, and services on fake engines behind a real server."""

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Awaitable, Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import uvicorn
from playwright.async_api import Browser, Page, async_playwright

from app.http import server
from app.settings import load_settings
from app.telemetry.telemetry import Telemetry
from tests.page.chromium import installer, launch
from tests.unit.serving import Api

LAPTOP = {"width": 1280, "height": 800}
PHONE = {"width": 360, "height": 720}
OpenPage = Callable[..., Awaitable[Page]]


@pytest.fixture(scope="package")
async def browser() -> AsyncGenerator[Browser, None]:
    if reason := installer.why_not():
        if installer.can_be_installed():
            pytest.fail(reason)
        pytest.skip(reason)
    async with async_playwright() as playwright:
        browser = await launch(playwright)
        yield browser
        await browser.close()


@pytest.fixture
async def open_page(browser: Browser) -> AsyncGenerator[OpenPage, None]:
    """Opens a page in a new browser context; at the end it must have no errors and no requests to other hosts."""
    async with contextlib.AsyncExitStack() as stack:
        checks: list[PageCheck] = []

        async def open_(
            url: str, *, prepare: Callable[[Page], Awaitable[None]] | None = None, **options: Any
        ) -> Page:
            context = await browser.new_context(**{"viewport": LAPTOP, **options})
            stack.push_async_callback(context.close)
            page = await context.new_page()
            page.set_default_timeout(15_000)
            checks.append(PageCheck(page, url))
            if prepare is not None:
                await prepare(page)
            await page.goto(url)
            return page

        yield open_
        for check in checks:
            check.verify()


class PageCheck:
    """Records a page's errors, and its requests to other hosts."""

    def __init__(self, page: Page, url: str) -> None:
        self._host = urlsplit(url).netloc
        self._failures: list[str] = []
        self._foreign_requests: list[str] = []
        page.on("pageerror", lambda error: self._failures.append(str(error)))
        page.on("console", self._on_console)
        page.context.on("request", self._on_request)

    def _on_console(self, message: Any) -> None:
        # The browser logs answers with an error status itself; the page shows them.
        if message.type in ("error", "warning") and "Failed to load resource" not in message.text:
            self._failures.append(message.text)

    def _on_request(self, request: Any) -> None:
        if urlsplit(request.url).netloc != self._host:
            self._foreign_requests.append(request.url)

    def verify(self) -> None:
        assert self._failures == []
        assert self._foreign_requests == []


class Served:
    """An application on fake engines, and its URL."""

    def __init__(self, api: Api, url: str) -> None:
        self.api = api
        self.url = url


@contextlib.asynccontextmanager
async def served(api: Api, *, port: int = 0) -> AsyncGenerator[Served, None]:
    api.app.telemetry = Telemetry([api.history])
    # Room for as many tokens as the playground asks for.
    api.writer.max_model_len = 1024
    listener = server.bind("127.0.0.1", port)
    config = server.server_config(api.app, load_settings({"DRAIN_TIMEOUT_S": "1"}))
    running = uvicorn.Server(config)
    task = asyncio.create_task(running.serve(sockets=[listener]))
    try:
        while not running.started:
            await asyncio.sleep(0.01)
        yield Served(api, f"http://127.0.0.1:{listener.getsockname()[1]}")
    finally:
        running.should_exit = True
        await task
        await api.http.aclose()
        listener.close()


@contextlib.asynccontextmanager
async def ready(settings: dict[str, str]) -> AsyncGenerator[Served, None]:
    api = Api(max_body_bytes=2**20, settings=settings)
    async with served(api) as running:
        while not running.api.is_ready:
            await asyncio.sleep(0.01)
        # Drop the requests of the readiness check.
        for engine in (running.api.embedder, running.api.writer):
            engine.seen.clear()
        yield running


@pytest.fixture
async def service() -> AsyncGenerator[Served, None]:
    async with ready({}) as running:
        yield running


@pytest.fixture
async def storing(tmp_path: Path) -> AsyncGenerator[Served, None]:
    """A service that stores responses."""
    async with ready({"STATE": "on", "MEMORIA_DATA_DIR": str(tmp_path)}) as running:
        yield running
