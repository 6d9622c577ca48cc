"""Takes screenshots of the page for the documentation: `python -m tests.page.screenshots` writes docs/page/*.png.

They show a real service with its packaged models and a running batch, after minutes of requests, of which some
fail or are cancelled.
"""

import asyncio
import contextlib
import json
import random
import sys
import time
from pathlib import Path

from openai import APIError, AsyncOpenAI
from playwright.async_api import Browser, Page, async_playwright

from tests.page.chromium import installer, launch
from tests.page.conftest import LAPTOP, PHONE
from tests.processes import ServiceProcess

FOLDER = Path(__file__).resolve().parents[2] / "docs" / "page"
EMBED, GENERATE = "all-MiniLM-L6-v2", "SmolLM2-135M-Instruct"
TRAFFIC_S = 150
BATCH_LINES = 20_000
TOO_LONG = 400
"""Repetitions of a question that exceed the context."""
LARGEST = 300_000
QUESTIONS = [
    "What is the capital of France?",
    "Write two sentences about the sea.",
    "List three uses of a paper clip.",
    "Why is the sky blue?",
]


async def main() -> None:
    if reason := installer.why_not():
        sys.exit(reason)
    FOLDER.mkdir(parents=True, exist_ok=True)
    service = ServiceProcess({})
    try:
        await asyncio.to_thread(service.wait_until_ready)
        async with async_playwright() as playwright:
            browser = await launch(playwright)
            async with AsyncOpenAI(base_url=f"{service.url}/v1", api_key="unused", max_retries=0) as client:
                await start_batch(client)
                await traffic(client, until=time.monotonic() + TRAFFIC_S)
                running = asyncio.create_task(traffic(client, until=time.monotonic() + 60))
                await take_all(browser, service.url)
                running.cancel()
                await asyncio.gather(running, return_exceptions=True)
            await browser.close()
    finally:
        await asyncio.to_thread(service.end)
    for picture in FOLDER.glob("*.png"):
        size = picture.stat().st_size
        print(f"{picture.name}: {size:,} bytes")
        assert size < LARGEST, picture


async def start_batch(client: AsyncOpenAI) -> None:
    """Create a batch of embeddings, of which some are longer than the model's context."""
    lines = []
    for number in range(BATCH_LINES):
        text = QUESTIONS[number % len(QUESTIONS)] * (TOO_LONG if number % 40 == 7 else 1)
        body = {"model": EMBED, "input": text}
        line = {"custom_id": f"line-{number}", "method": "POST", "url": "/v1/embeddings", "body": body}
        lines.append(json.dumps(line))
    file = await client.files.create(file=("corpus.jsonl", "\n".join(lines).encode()), purpose="batch")
    await client.batches.create(input_file_id=file.id, endpoint="/v1/embeddings", completion_window="24h")


async def traffic(client: AsyncOpenAI, *, until: float) -> None:
    """Send random requests of all kinds from five users."""
    await asyncio.gather(*(user(client, random.Random(number), until) for number in range(5)))


async def user(client: AsyncOpenAI, dice: random.Random, until: float) -> None:
    while time.monotonic() < until:
        with contextlib.suppress(APIError, TimeoutError):
            await ask(client, dice)
        await asyncio.sleep(dice.expovariate(1.2))


async def ask(client: AsyncOpenAI, dice: random.Random) -> None:
    kind = dice.random()
    if kind < 0.5:
        texts = [dice.choice(QUESTIONS)] * dice.randint(1, 6)
        await client.embeddings.create(model=EMBED, input=texts)
    elif kind < 0.53:
        await client.embeddings.create(model="text-embedding-none", input="text")
    elif kind < 0.56:
        async with asyncio.timeout(0.3):
            await client.completions.create(model=GENERATE, prompt=dice.choice(QUESTIONS), max_tokens=400)
    else:
        stream = await client.chat.completions.create(
            model=GENERATE,
            messages=[{"role": "user", "content": dice.choice(QUESTIONS)}],
            max_tokens=dice.randint(8, 60),
            stream=True,
        )
        async for _ in stream:
            pass


async def take_all(browser: Browser, url: str) -> None:
    for scheme in ("light", "dark"):
        page = await opened(browser, url, color_scheme=scheme, viewport={"width": LAPTOP["width"], "height": 1400})
        await take(page, f"status-{scheme}")
    phone = await opened(browser, url, color_scheme="light", viewport=PHONE, is_mobile=True, device_scale_factor=2)
    await take(phone, "phone")
    page = await opened(browser, f"{url}/#playground", color_scheme="light", viewport=LAPTOP)
    await page.locator("#chat-input").fill("What is the capital of France?")
    await page.locator("#chat-temperature").evaluate("field => { field.value = 0; }")
    for question in ("What is the capital of France?", "Write one sentence about it."):
        await page.locator("#chat-input").fill(question)
        await page.locator("#chat-send").click()
        await page.locator("#chat-meta", has_text="in total").wait_for(timeout=60_000)
        await page.locator("#chat-send").wait_for()
    await take(page, "playground")
    await page.get_by_role("tab", name="Embeddings").click()
    await page.get_by_role("button", name="Compare").click()
    await page.locator(".matrix").wait_for()
    await take(page, "embeddings")
    await page.get_by_role("tab", name="Rerank").click()
    await page.get_by_role("button", name="Sort").click()
    await page.locator("#ranking li").first.wait_for()
    await take(page, "rerank")


async def opened(browser: Browser, url: str, **options: object) -> Page:
    context = await browser.new_context(**options)  # type: ignore[arg-type]
    page = await context.new_page()
    await page.goto(url)
    await page.locator("#overall[data-mood=good]").wait_for(timeout=30_000)
    await page.wait_for_timeout(800)
    return page


async def take(page: Page, name: str) -> None:
    await page.screenshot(path=FOLDER / f"{name}.png")


if __name__ == "__main__":
    asyncio.run(main())
