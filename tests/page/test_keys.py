"""The page of a service that requires API keys."""

from collections.abc import AsyncGenerator

import pytest
from playwright.async_api import Page, expect

from tests.page.conftest import OpenPage, Served, served
from tests.unit.serving import Api

KEY = "sk-0123456789-abcdefghij"
WRONG = "sk-9876543210-wrongwrong"


@pytest.fixture
async def guarded() -> AsyncGenerator[Served, None]:
    async with served(Api(settings={"API_KEYS": KEY})) as running:
        yield running


async def enter_key(page: Page, key: str) -> None:
    await page.get_by_label("API key", exact=True).fill(key)
    await page.get_by_role("button", name="Use this key").click()


async def test_the_page_asks_for_a_key_and_shows_nothing_before(open_page: OpenPage, guarded: Served):
    page = await open_page(guarded.url)
    await expect(page.get_by_role("heading", name="This service requires an API key")).to_be_visible()
    await expect(page.get_by_label("API key", exact=True)).to_be_focused()
    await expect(page.locator("#view-status")).to_be_hidden()
    await expect(page.locator("#key-error")).to_be_empty()
    await expect(page.locator("#overall")).to_have_text("key required")


async def test_without_a_key_the_page_does_not_poll(open_page: OpenPage, guarded: Served):
    page = await open_page(guarded.url)
    await expect(page.get_by_label("API key", exact=True)).to_be_visible()
    requests: list[str] = []
    page.on("request", lambda request: requests.append(request.url))
    await page.wait_for_timeout(2500)
    assert requests == []


async def test_a_wrong_key_shows_openais_message(open_page: OpenPage, guarded: Served):
    page = await open_page(guarded.url)
    await enter_key(page, WRONG)
    await expect(page.locator("#key-error")).to_contain_text("Incorrect API key provided")
    assert WRONG not in str(await page.locator("#key-error").text_content())
    await enter_key(page, "ключ")
    await expect(page.locator("#key-error")).to_contain_text("ASCII")
    await enter_key(page, KEY)
    await expect(page.locator("#overall")).to_have_text("all ready")


async def test_a_valid_key_shows_everything(open_page: OpenPage, guarded: Served):
    page = await open_page(guarded.url)
    await enter_key(page, KEY)
    await expect(page.locator("#model-generate .name")).to_have_text("fake-write")
    await expect(page.locator("#key-panel")).to_be_hidden()
    await page.get_by_role("link", name="Playground").first.click()
    await page.get_by_role("button", name="Send").click()
    await expect(page.locator("#chat-meta")).to_contain_text("in total")
    await expect(page.locator("#chat-error")).to_be_empty()


async def test_the_key_is_stored_in_the_tab_only_and_never_shown(open_page: OpenPage, guarded: Served):
    page = await open_page(guarded.url)
    await enter_key(page, KEY)
    await expect(page.locator("#overall")).to_have_text("all ready")
    kept = await page.evaluate("[Object.values(sessionStorage), Object.values(localStorage), document.cookie]")
    assert kept == [[KEY], [], ""]
    await page.goto(f"{guarded.url}/#playground")
    await page.reload()
    await expect(page.locator("#overall")).to_have_text("all ready")
    for language in ("Python", "curl"):
        await page.get_by_role("tab", name=language).click()
        await expect(page.locator("#snippet")).to_contain_text("OPENAI_API_KEY")
    assert KEY not in await page.content()
    assert KEY not in page.url
    other = await page.context.new_page()
    await other.goto(guarded.url)
    await expect(other.get_by_label("API key", exact=True)).to_be_visible()


async def test_another_key_can_be_entered(open_page: OpenPage, guarded: Served):
    page = await open_page(guarded.url)
    await enter_key(page, KEY)
    await expect(page.locator("#overall")).to_have_text("all ready")
    await page.get_by_role("button", name="Key", exact=True).click()
    field = page.get_by_label("API key", exact=True)
    await field.fill(KEY)
    # Status answers that arrive meanwhile don't clear the field.
    for _ in range(2):
        await page.wait_for_event("response", lambda response: response.url.endswith("/status"))
    await expect(field).to_have_value(KEY)
    await page.get_by_role("button", name="Use this key").click()
    await expect(page.locator("#key-panel")).to_be_hidden()
    await expect(field).to_have_value("")


async def test_without_session_storage_the_key_lasts_as_long_as_the_page(open_page: OpenPage, guarded: Served):
    async def forbid(page: Page) -> None:
        await page.add_init_script(
            "Object.defineProperty(window, 'sessionStorage', { get: () => { throw new Error('forbidden'); } });"
        )

    page = await open_page(guarded.url, prepare=forbid)
    await enter_key(page, KEY)
    await expect(page.locator("#overall")).to_have_text("all ready")
    await expect(page.locator("#key-panel")).to_be_hidden()
    await page.get_by_role("button", name="Key", exact=True).click()
    await page.get_by_role("button", name="Forget key").click()
    await expect(page.locator("#overall")).to_have_text("key required")


async def test_a_key_can_be_forgotten(open_page: OpenPage, guarded: Served):
    page = await open_page(guarded.url)
    await enter_key(page, KEY)
    await page.get_by_role("button", name="Key", exact=True).click()
    await page.get_by_role("button", name="Forget key").click()
    await expect(page.locator("#view-status")).to_be_hidden()
    assert await page.evaluate("sessionStorage.length") == 0
    await expect(page.get_by_label("API key", exact=True)).to_have_value("")


async def test_a_service_without_keys_requires_none(open_page: OpenPage, service: Served):
    page = await open_page(service.url)
    await expect(page.locator("#overall")).to_have_text("all ready")
    await expect(page.locator("#key-panel")).to_be_hidden()
    await expect(page.get_by_role("button", name="Key", exact=True)).to_be_hidden()
