"""Accessibility and layout: small screens, dark mode, contrast, keyboard, names and roles, reduced motion."""

import asyncio
import re
from pathlib import Path
from typing import Any

import pytest
from openai import AsyncOpenAI
from playwright.async_api import Page, expect

from tests.page.conftest import LAPTOP, PHONE, OpenPage, Served

CHECKS = (Path(__file__).parent / "checks.js").read_text()
TABS = ["Chat", "Completion", "Embeddings", "Rerank"]
LONG = "a-very-long-name-without-any-place-to-break-" * 3


async def with_traffic(service: Served) -> None:
    async with AsyncOpenAI(base_url=f"{service.url}/v1", api_key="unused", max_retries=0) as client:
        messages: Any = [{"role": "user", "content": "Hello"}]
        await client.chat.completions.create(model="fake-write", messages=messages, max_tokens=9)
        await client.embeddings.create(model="fake-embed", input=["text"])
        for answer in [client.completions.create(model="none", prompt="x"), client.models.retrieve("none")]:
            await asyncio.gather(answer, return_exceptions=True)


async def check(page: Page, name: str) -> Any:
    """The result of a function in checks.js."""
    return await page.evaluate(f"({CHECKS}).{name}()")


@pytest.mark.parametrize("width", [360, 420, 700, 900, 1280])
async def test_nothing_overflows_at_any_width(open_page: OpenPage, service: Served, width: int):
    service.api.writer.name = LONG
    await with_traffic(service)
    page = await open_page(service.url, viewport={"width": width, "height": 740})
    await expect(page.locator("#requests-body tr")).to_have_count(4)
    assert await check(page, "overflow") == {"page": 0, "out": []}
    await page.get_by_role("link", name="Playground").first.click()
    for name in TABS:
        await page.get_by_role("tab", name=name).click()
        for field in await page.locator("textarea:visible").all():
            await field.fill(f"{LONG}\n{LONG}")
        await page.locator("button.primary:visible").click()
        meta = page.locator(f"#{name.lower()}-meta")
        await expect(meta).to_contain_text(re.compile("in total|dimensions|documents"))
        for language in ("curl", "Python"):
            await page.get_by_role("tab", name=language).click()
            assert await check(page, "overflow") == {"page": 0, "out": []}, name
        if name == "Chat":
            await page.get_by_label("Endpoint of the chat").select_option("Responses")
            await expect(page.locator("#chat-stored")).to_be_visible()
            assert await check(page, "overflow") == {"page": 0, "out": []}, "Responses"


async def test_touch_works_on_a_phone(open_page: OpenPage, service: Served):
    page = await open_page(service.url, viewport=PHONE, has_touch=True, is_mobile=True)
    await page.get_by_role("link", name="Playground").first.tap()
    await page.get_by_role("button", name="Send").tap()
    await expect(page.locator("#chat-meta")).to_contain_text("in total")
    # WCAG 2.2, 2.5.8: targets of at least 24 by 24 pixels, except links in sentences.
    small = await check(page, "small")
    assert small == []


# Light and dark


async def background(page: Page) -> float:
    """Lightness of the page, from 0 to 255."""
    color = await page.evaluate("getComputedStyle(document.body).backgroundColor")
    return sum(map(int, re.findall(r"\d+", color)[:3])) / 3


async def test_the_theme_follows_the_system(open_page: OpenPage, service: Served):
    page = await open_page(service.url, color_scheme="light")
    assert await background(page) > 200
    await page.emulate_media(color_scheme="dark")
    assert await background(page) < 60


async def test_a_chosen_theme_has_precedence_and_is_remembered(open_page: OpenPage, service: Served):
    page = await open_page(service.url, color_scheme="light")
    await page.get_by_label("Theme").select_option("Dark")
    assert await background(page) < 60
    await page.reload()
    assert await background(page) < 60
    await expect(page.get_by_label("Theme")).to_have_value("dark")
    await page.emulate_media(color_scheme="dark")
    await page.get_by_label("Theme").select_option("Light")
    assert await background(page) > 200
    await page.get_by_label("Theme").select_option("Auto")
    assert await background(page) < 60


@pytest.mark.parametrize("scheme", ["light", "dark"])
async def test_contrast_is_sufficient(open_page: OpenPage, service: Served, scheme: Any):
    """WCAG 2.2, 1.4.3 and 1.4.11, from the browser's computed styles."""
    await with_traffic(service)
    page = await open_page(service.url, color_scheme=scheme, reduced_motion="reduce")
    await expect(page.locator("#requests-body tr")).to_have_count(4)
    for state, mood in MOODS.items():
        # Sets each color in turn; no service is in all states at once.
        pill = page.locator("#model-generate .pill").first
        await pill.evaluate("(pill, mood) => { pill.dataset.mood = mood; }", mood)
        found = await check(page, "contrast")
        assert found["low"] == [], state
        assert found["seen"] > 60
    await page.get_by_role("link", name="Playground").first.click()
    await page.locator("#chat-temperature").evaluate("field => { field.value = 9; }")
    for name in TABS:
        await page.get_by_role("tab", name=name).click()
        await page.locator("button.primary:visible").click()
        await expect(page.locator(f"#{name.lower()}-meta")).not_to_be_empty()
        found = await check(page, "contrast")
        assert found["low"] == [], name
        assert found["seen"] > 20


MOODS = {"ready": "good", "busy": "busy", "starting": "coming", "dead": "bad", "stopped": "away"}

# Names, roles and order


async def test_elements_have_names_and_a_valid_structure(open_page: OpenPage, service: Served):
    await with_traffic(service)
    page = await open_page(service.url)
    await expect(page.locator("#requests-body tr")).to_have_count(4)
    assert await check(page, "audit") == []
    await page.get_by_role("link", name="Playground").first.click()
    for name in TABS:
        await page.get_by_role("tab", name=name).click()
        assert await check(page, "audit") == [], name


async def test_a_table_stays_a_table_on_a_phone(open_page: OpenPage, service: Served):
    await with_traffic(service)
    page = await open_page(service.url, viewport=PHONE)
    table = page.get_by_role("table", name="Last requests")
    await expect(table.get_by_role("row")).to_have_count(5)
    await expect(table.get_by_role("columnheader")).to_have_text(
        ["Ended", "Request", "Outcome", "Tokens", "Where the time went", "Trace"]
    )
    await expect(table.get_by_role("row").nth(1).get_by_role("cell")).to_have_count(6)


# The keyboard


async def press_until(page: Page, key: str, selector: str) -> None:
    for _ in range(60):
        await page.keyboard.press(key)
        if await page.evaluate("selector => document.activeElement.matches(selector)", selector):
            return
    raise AssertionError(f"{selector} can't be reached with {key}")


async def test_a_chat_works_with_the_keyboard_only(open_page: OpenPage, service: Served):
    page = await open_page(service.url)
    await expect(page.locator("#overall")).to_have_text("all ready")
    await press_until(page, "Tab", "nav a[href='#playground']")
    await page.keyboard.press("Enter")
    await expect(page.locator("#view-playground")).to_be_visible()
    # The focus has moved into the view.
    await press_until(page, "Tab", "#tab-chat")
    await press_until(page, "Tab", "#chat-input")
    await page.keyboard.press("Control+A")
    await page.keyboard.type("One line")
    await page.keyboard.press("Shift+Enter")
    await page.keyboard.type("and another")
    await page.keyboard.press("Enter")
    await expect(page.locator("#chat-log .message.user .said")).to_have_text("One line\nand another")
    await expect(page.locator("#chat-meta")).to_contain_text("in total")
    await expect(page.locator("#chat-input")).to_be_focused()
    service.api.writer.delay_s = 0.1
    await page.keyboard.type("Go on")
    await press_until(page, "Tab", "#chat-send")
    await page.keyboard.press("Enter")
    await expect(page.locator("#chat-stop")).to_be_focused()
    await page.keyboard.press("Enter")
    await expect(page.locator("#chat-send")).to_be_focused()
    await expect(page.locator("#chat-meta")).to_contain_text("Interrupted")


async def test_escape_stops(open_page: OpenPage, service: Served):
    page = await open_page(f"{service.url}/#playground")
    await expect(page.locator(".model-name").first).to_have_text("fake-write")
    service.api.writer.delay_s = 0.1
    await page.locator("#chat-input").press("Enter")
    await expect(page.locator("#chat-stop")).to_be_visible()
    await page.keyboard.press("Escape")
    await expect(page.locator("#chat-meta")).to_contain_text("Interrupted")


async def test_arrow_keys_move_between_tabs(open_page: OpenPage, service: Served):
    page = await open_page(f"{service.url}/#playground")
    await page.get_by_role("tab", name="Chat").focus()
    for key, name in [
        ("ArrowRight", "Completion"), ("ArrowRight", "Embeddings"), ("ArrowRight", "Rerank"),
        ("ArrowRight", "Chat"), ("ArrowLeft", "Rerank"), ("Home", "Chat"), ("End", "Rerank"),
    ]:  # fmt: skip
        await page.keyboard.press(key)
        tab = page.get_by_role("tab", name=name)
        await expect(tab).to_be_focused()
        await expect(tab).to_have_attribute("aria-selected", "true")
        await expect(page.get_by_role("tabpanel", name=name)).to_be_visible()
        await expect(page.locator("#try-tabs [aria-selected=true]")).to_have_count(1)
        await expect(page.locator("#try-tabs [tabindex='0']")).to_have_count(1)
    await expect(page.locator(".try > [role=tabpanel]:visible")).to_have_count(1)


async def test_the_focus_is_visible(open_page: OpenPage, service: Served):
    await with_traffic(service)
    page = await open_page(service.url)
    await expect(page.locator("#requests-body tr")).to_have_count(4)
    for view in ("status", "playground"):
        await page.goto(f"{service.url}/#{view}")
        seen = []
        for _ in range(40):
            await page.keyboard.press("Tab")
            focused = await check(page, "focus")
            # When the view changes, the page itself moves the focus to a hidden heading.
            if focused[1] not in ("BODY", "HTML", "MAIN", "H1"):
                seen.append(focused)
        assert [each[0] for each in seen if each[2] == "none"] == []
        assert len({each[0] for each in seen}) > 10


async def test_the_skip_link_moves_to_the_content(open_page: OpenPage, service: Served):
    page = await open_page(service.url)
    await page.keyboard.press("Tab")
    await expect(page.get_by_role("link", name="Skip to content")).to_be_focused()
    await page.keyboard.press("Enter")
    await expect(page.locator("main")).to_be_focused()
    await expect(page.locator("#view-status")).to_be_visible()


@pytest.mark.parametrize(("motion", "moves"), [("reduce", False), ("no-preference", True)])
async def test_reduced_motion_is_respected(open_page: OpenPage, service: Served, motion: Any, moves: bool):
    page = await open_page(service.url, reduced_motion=motion, viewport=LAPTOP)
    pill = page.locator("#model-generate .pill").first
    await pill.evaluate("pill => { pill.dataset.mood = 'coming'; }")
    moving = "element => getComputedStyle(element).animationName !== 'none'"
    assert await pill.locator(".dot").evaluate(moving) is moves
    transition = await page.locator(".fill").first.evaluate("bar => getComputedStyle(bar).transitionDuration")
    assert (transition != "0s") is moves
