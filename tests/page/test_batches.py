"""The batches on the status page: progress of real batches over the fake engines, and layout of given ones."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
from openai import AsyncOpenAI
from playwright.async_api import Dialog, Page, expect

from tests.page.conftest import PHONE, OpenPage, Served, ready
from tests.page.test_access import LONG, check, press_until
from tests.page.test_keys import enter_key
from tests.page.test_states import show
from tests.unit.serving import NEVER_S

FIRST, SECOND = "sk-first-0123456789", "sk-second-0123456789"
EMBED = "/v1/embeddings"


def hold(service: Served, word: str = "slow") -> None:
    """Make inputs with a word take forever."""
    embedder: Any = service.api.embedder
    original = embedder._embed

    async def embed(request: Any) -> Any:
        embedder.delay_s = NEVER_S if word in request.inputs[0] else 0.0
        return await original(request)

    embedder._embed = embed


async def begin(service: Served, *inputs: str, key: str = "any") -> str:
    """Create a batch with these inputs; returns its id."""
    async with AsyncOpenAI(base_url=f"{service.url}/v1", api_key=key, max_retries=0) as client:
        lines = [
            {"custom_id": str(n), "method": "POST", "url": EMBED, "body": {"model": "fake-embed", "input": text}}
            for n, text in enumerate(inputs)
        ]
        content = "".join(json.dumps(line) + "\n" for line in lines).encode()
        file = await client.files.create(file=("in.jsonl", content), purpose="batch")
        batch = await client.batches.create(input_file_id=file.id, endpoint=EMBED, completion_window="24h")
    return batch.id


def given(number: int, **fields: Any) -> dict[str, Any]:
    """A batch as `GET /status` has it."""
    batch = {
        "id": f"batch_{number:032x}", "endpoint": EMBED, "model": "fake-embed", "status": "in_progress",
        "total": 50_000, "completed": 12_000, "failed": 500, "lines_per_s": 123.4, "left_s": 304.0,
        "created": 1_700_000_000, "expires": 1_700_086_400, "ended": None,
    }  # fmt: skip
    return batch | fields


ALL = [
    given(1),
    given(2, status="validating", model=None, total=0, completed=0, failed=0, lines_per_s=None, left_s=None),
    given(3, status="finalizing", completed=49_500, lines_per_s=None, left_s=None),
    given(4, status="cancelling", model=LONG, lines_per_s=None, left_s=None),
    given(5, status="completed", completed=49_500, lines_per_s=None, left_s=None, ended=1_700_000_100),
    given(6, status="failed", completed=0, lines_per_s=None, left_s=None, ended=1_700_000_100),
    given(7, status="expired", lines_per_s=None, left_s=None, ended=1_700_000_100),
    given(8, status="cancelled", lines_per_s=None, left_s=None, ended=1_700_000_100),
]


async def with_batches(open_page: OpenPage, service: Served, batches: list[dict[str, Any]], **more: Any) -> Page:
    """The page of a service with these batches."""
    overview = {"batches": batches, "unfinished": 4, "unfinished_of_all": 4} | more

    def change(status: dict[str, Any]) -> None:
        status["batches"] = overview
        status["time"] = 1_700_000_200.0

    page = await show(open_page, service, change)
    await expect(page.locator(".batch")).to_have_count(len(batches))
    return page


async def test_without_batches_there_is_no_section(open_page: OpenPage, storing: Served, service: Served):
    for each in (storing, service):
        page = await open_page(each.url)
        await expect(page.locator("#overall")).to_have_text("all ready")
        await expect(page.locator("#batches-section")).to_be_hidden()


async def test_the_progress_of_a_batch_is_shown_until_it_ends(open_page: OpenPage, storing: Served):
    hold(storing)
    page = await open_page(storing.url)
    await expect(page.locator("#overall")).to_have_text("all ready")
    batch_id = await begin(storing, "quick 1", "quick 2", "x" * 3000, "slow 1", "slow 2")
    entry = page.locator(".batch")
    await expect(entry.locator(".lines")).to_contain_text("3 of 5 lines, 1 failed")
    await expect(entry.locator(".pill")).to_have_text("in progress")
    await expect(entry.locator("h3")).to_have_text(EMBED)
    await expect(entry).to_contain_text("fake-embed")
    await expect(entry).to_contain_text("expires in 23 h 59 min")
    bar = page.get_by_role("progressbar", name=f"Lines of {batch_id}")
    await expect(bar).to_have_attribute("aria-valuenow", "3")
    await expect(bar).to_have_attribute("aria-valuemax", "5")
    await expect(bar).to_have_attribute("aria-valuetext", "3 of 5 lines, 1 failed")
    widths = await bar.locator(".part").evaluate_all("parts => parts.map(part => part.style.width)")
    assert widths == ["max(3px, 40%)", "max(3px, 20%)"]
    # Only the requests that created it are listed.
    await expect(page.locator("#requests-body tr")).to_have_count(2)
    cancel = page.get_by_role("button", name=f"Cancel {batch_id}")

    asked: list[str] = []

    async def dismiss(dialog: Dialog) -> None:
        asked.append(dialog.message)
        await dialog.dismiss()

    page.once("dialog", dismiss)
    await cancel.click()
    assert "kept" in asked[0]
    await expect(entry.locator(".pill")).to_have_text("in progress")

    page.once("dialog", lambda dialog: dialog.accept())
    await cancel.click()
    await expect(entry.locator(".pill")).to_have_text("cancelled")
    await expect(entry.locator(".lines")).to_have_text("5 of 5 lines, 3 failed")
    await expect(entry).to_contain_text(re.compile(r"ended \d+ s ago"))
    await expect(cancel).to_be_hidden()
    await expect(entry).to_be_focused()
    await expect(page.locator("#announcer")).to_have_text(
        f"A batch for {EMBED} is cancelled: 5 of 5 lines, 3 failed"
    )


async def test_each_key_sees_and_cancels_its_own_batches(open_page: OpenPage, tmp_path: Path):
    settings = {"STATE": "on", "MEMORIA_DATA_DIR": str(tmp_path), "API_KEYS": f"{FIRST},{SECOND}"}
    async with ready(settings) as service:
        hold(service)
        first = await begin(service, "slow", key=FIRST)
        second = await begin(service, "slow", key=SECOND)
        page = await open_page(service.url)
        await enter_key(page, FIRST)
        await expect(page.locator(".batch .pill")).to_have_text("in progress")
        await expect(page.locator("#batches")).to_contain_text(first)
        await expect(page.locator("#batches-more")).to_have_text(
            "Not shown, but unfinished: 1 batch of other keys."
        )
        assert second not in await page.content()
        page.once("dialog", lambda dialog: dialog.accept())
        await page.get_by_role("button", name=f"Cancel {first}").click()
        await expect(page.locator(".batch .pill")).to_have_text("cancelled")


async def test_a_batch_that_can_not_be_cancelled_says_why(open_page: OpenPage, storing: Served):
    page = await with_batches(open_page, storing, [given(1)])
    page.once("dialog", lambda dialog: dialog.accept())
    await page.get_by_role("button", name="Cancel batch_").click()
    await expect(page.locator(".batch [role=alert]")).to_contain_text("not found")


async def test_speed_time_left_and_what_is_not_shown(open_page: OpenPage, storing: Served):
    page = await with_batches(open_page, storing, ALL, unfinished=84, unfinished_of_all=89)
    lines = page.locator(".batch .lines")
    await expect(lines.nth(0)).to_have_text("12,500 of 50,000 lines, 500 failed · 123 lines/s · 5 min left")
    await expect(lines.nth(1)).to_have_text("lines are not counted yet")
    assert await page.get_by_role("progressbar").nth(1).get_attribute("aria-valuenow") is None
    await expect(page.locator("#batches-more")).to_have_text(
        "Not shown, but unfinished: 80 more batches of this key, 5 batches of other keys."
    )
    moods = await page.locator(".batch .pill").evaluate_all("pills => pills.map(pill => pill.dataset.mood)")
    assert moods == ["coming", "coming", "coming", "away", "good", "bad", "bad", "away"]
    await expect(page.locator(".batch button:visible")).to_have_count(2)
    await expect(page.locator(".batch a")).to_have_count(0)


@pytest.mark.parametrize("width", [360, 700, 1280])
async def test_nothing_overflows(open_page: OpenPage, storing: Served, width: int):
    page = await with_batches(open_page, storing, ALL, unfinished_of_all=9)
    await page.set_viewport_size({"width": width, "height": PHONE["height"]})
    assert await check(page, "overflow") == {"page": 0, "out": []}
    assert await check(page, "small") == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
async def test_names_and_contrast(open_page: OpenPage, storing: Served, scheme: Any):
    page = await with_batches(open_page, storing, ALL, unfinished_of_all=9)
    await page.emulate_media(color_scheme=scheme, reduced_motion="reduce")
    assert await check(page, "audit") == []
    found = await check(page, "contrast")
    assert found["low"] == []
    assert found["seen"] > 100


async def test_a_batch_is_cancelled_with_the_keyboard_only(open_page: OpenPage, storing: Served):
    hold(storing)
    await begin(storing, "slow")
    page = await open_page(storing.url)
    await expect(page.locator(".batch .pill")).to_have_text("in progress")
    page.once("dialog", lambda dialog: dialog.accept())
    await press_until(page, "Tab", ".batch button")
    # Answers that arrive meanwhile leave the focus where it is.
    for _ in range(2):
        await page.wait_for_event("response", lambda response: response.url.endswith("/status"))
    await expect(page.locator(".batch button")).to_be_focused()
    await page.keyboard.press("Enter")
    await expect(page.locator(".batch .pill")).to_have_text("cancelled")
