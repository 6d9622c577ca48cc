"""The page of a real service: streamed answers, and an engine that is killed and restarted."""

import asyncio
import signal
from collections.abc import AsyncGenerator
from pathlib import Path

import psutil
import pytest
from openai import AsyncOpenAI
from playwright.async_api import expect

from tests.page.conftest import OpenPage
from tests.processes import ServiceProcess, tiny_environment

pytestmark = pytest.mark.integration

DETECTED_MS = 30_000
RECOVERED_MS = 150_000


@pytest.fixture(scope="module")
async def real(tiny_models: dict[str, Path], browser: object) -> AsyncGenerator[ServiceProcess, None]:
    """Requests the browser first: without one no engine has to be started."""
    service = ServiceProcess(tiny_environment(tiny_models))
    try:
        await asyncio.to_thread(service.wait_until_ready)
        yield service
    finally:
        await asyncio.to_thread(service.end)


async def generating_engine(service: ServiceProcess) -> psutil.Process:
    """The engine process that uses CPU time while text is generated."""
    processes = service.engine_processes()
    before = [sum(process.cpu_times()[:2]) for process in processes]
    async with AsyncOpenAI(base_url=f"{service.url}/v1", api_key="unused") as client:
        await client.completions.create(
            model="tiny-gen", prompt="x", max_tokens=400, extra_body={"ignore_eos": True}
        )
    worked = [sum(process.cpu_times()[:2]) - cpu for process, cpu in zip(processes, before, strict=True)]
    return processes[worked.index(max(worked))]


async def test_an_answer_is_streamed_into_the_page_and_its_request_is_listed(
    open_page: OpenPage, real: ServiceProcess
):
    page = await open_page(f"{real.url}/#playground")
    await expect(page.locator(".model-name").first).to_have_text("tiny-gen")
    await page.get_by_role("button", name="Send").click()
    await expect(page.locator("#chat-meta")).to_contain_text("in total", timeout=60_000)
    await expect(page.locator("#chat-error")).to_be_empty()
    await page.get_by_role("link", name="Status").click()
    row = page.locator("#requests-body tr").first
    await expect(row).to_contain_text("POST /v1/chat/completions")
    await expect(row.locator(".outcome")).to_have_text("200 ok")
    assert "generating" in str(await row.locator(".timing-bar").get_attribute("aria-label"))
    await expect(page.locator("#chart-first-token-generate .legend b").first).not_to_have_text("–")


async def test_texts_are_compared(open_page: OpenPage, real: ServiceProcess):
    page = await open_page(f"{real.url}/#playground")
    await page.get_by_role("tab", name="Embeddings").click()
    await expect(page.locator("#panel-embeddings .model-name")).to_have_text("tiny-embed")
    await page.get_by_role("button", name="Compare").click()
    cells = page.locator(".matrix td")
    await expect(cells).to_have_count(25)
    values = [float(text.replace("−", "-")) for text in await cells.all_text_contents()]
    assert values[::6] == [1.0] * 5


async def test_a_killed_engine_and_its_restart_are_shown(open_page: OpenPage, real: ServiceProcess):
    page = await open_page(real.url)
    card, other = page.locator("#model-generate"), page.locator("#model-embed")
    pill = card.locator(".pill").first
    await expect(pill).to_have_text("ready")
    engine = await generating_engine(real)
    playground = await open_page(f"{real.url}/#playground")
    await expect(playground.locator(".model-name").first).to_have_text("tiny-gen")
    engine.send_signal(signal.SIGKILL)
    await expect(pill).not_to_have_text("ready", timeout=DETECTED_MS)
    # It is dead for half a second and then starting; the page may miss the first state.
    await expect(pill).not_to_have_attribute("data-mood", "good")
    await expect(card.locator(".reason")).not_to_be_empty()
    await expect(page.locator("#overall")).to_have_text("not ready")
    await expect(other.locator(".pill").first).to_have_text("ready")
    await playground.get_by_role("button", name="Send").click()
    await expect(playground.locator("#chat-error")).to_contain_text("503")
    message = await playground.locator("#chat-error p").first.text_content()
    assert str(message).endswith(".")
    await expect(pill).to_have_text("ready", timeout=RECOVERED_MS)
    await expect(page.locator("#overall")).to_have_text("all ready")
    await expect(card.locator("dd").first).to_have_text("1")
    await expect(card.locator("dd").nth(1)).not_to_have_text("none")
    await playground.get_by_label("Message").fill("Are you back?")
    await playground.get_by_role("button", name="Send").click()
    await expect(playground.locator("#chat-meta")).to_contain_text("in total", timeout=60_000)
    await expect(playground.locator("#chat-error")).to_be_empty()
