"""The status view: what the page shows for given answers of `GET /status`."""

import asyncio
import re
from collections.abc import Callable
from typing import Any

import pytest
from openai import APIStatusError, AsyncOpenAI
from playwright.async_api import Error as PlaywrightError
from playwright.async_api import Page, Route, expect

from tests.page.conftest import OpenPage, Served, served
from tests.unit.serving import Api

SECRET = "xylophone"
"""Contained in every prompt here, and must not appear in a status."""
Change = Callable[[dict[str, Any]], None]


async def show(open_page: OpenPage, service: Served, change: Change) -> Page:
    """The page, with a changed answer of `GET /status`."""

    async def changed(route: Route) -> None:
        try:
            response = await route.fetch()
        except PlaywrightError:
            # The page asks once more while the service ends.
            await route.abort()
            return
        status = await response.json()
        change(status)
        await route.fulfill(response=response, json=status)

    return await open_page(service.url, prepare=lambda page: page.route("**/status", changed))


def generation(**fields: Any) -> Change:
    return lambda status: status["health"]["backends"]["generate"].update(fields)


def card(page: Page, role: str):
    return page.locator(f"#model-{role}")


def client(service: Served) -> AsyncOpenAI:
    return AsyncOpenAI(base_url=f"{service.url}/v1", api_key="unused", max_retries=0)


async def test_both_models_are_shown_ready(open_page: OpenPage, service: Served):
    page = await open_page(service.url)
    for role, name in {"generate": "fake-write", "embed": "fake-embed"}.items():
        await expect(card(page, role).locator(".name")).to_have_text(name)
        await expect(card(page, role).locator(".pill").first).to_have_text("ready")
        await expect(card(page, role).locator(".pill").first).to_have_attribute("data-mood", "good")
        await expect(card(page, role).locator(".since")).to_contain_text("since")
        await expect(card(page, role).locator(".reason")).to_be_hidden()
    await expect(page.locator("#overall")).to_have_text("all ready")
    await expect(page).to_have_title("all ready · memoria-vllm")


@pytest.mark.parametrize(
    ("setting", "on", "off", "tabs", "charts"),
    [
        ("GEN_BACKEND", "embed", "generate", ["Embeddings", "Rerank"], 4),
        ("EMBED_BACKEND", "generate", "embed", ["Chat", "Completion"], 5),
    ],
)
async def test_a_role_that_is_off_is_not_shown(open_page: OpenPage, setting, on, off, tabs, charts):
    async with served(Api(settings={setting: "off"})) as service:
        page = await open_page(service.url)
        await expect(page.locator("#overall")).to_have_text("all ready")
        await expect(card(page, on).locator(".pill").first).to_have_text("ready")
        await expect(card(page, off)).to_be_hidden()
        await expect(page.locator("#charts figure")).to_have_count(charts)
        await expect(page.locator(f"#chart-latency-{off}")).to_have_count(0)
        await expect(page.locator("#chart-requests .legend li")).to_have_count(2)
        await page.get_by_role("link", name="Playground", exact=True).click()
        shown = page.locator("#try-tabs [role=tab]:visible")
        assert await shown.all_inner_texts() == tabs
        await expect(shown.first).to_have_attribute("aria-selected", "true")
        await expect(page.locator("#snippet")).to_contain_text("fake-embed" if on == "embed" else "fake-write")
        await shown.first.press("End")
        await expect(shown.last).to_be_focused()
        last = "rerank" if on == "embed" else "completion"
        await page.locator(f"#{last}-send").click()
        meta = f"#{last}-meta"
        await expect(page.locator(meta)).to_contain_text("tokens")


async def test_a_new_role_is_shown_without_changing_the_page(open_page: OpenPage, service: Served):
    async with client(service) as openai:
        await openai.embeddings.create(model="fake-embed", input=["text"])

    def add_role(status: dict[str, Any]) -> None:
        status["roles"].append({"key": "rerank", "noun": "reranking", "generates": False})
        backends, series = status["health"]["backends"], status["series"]["roles"]
        backends["rerank"] = backends["embed"] | {"model": "fake-rerank"}
        series["rerank"] = series["embed"]
        status["requests"][0]["role"] = "rerank"

    page = await show(open_page, service, add_role)
    await expect(page.locator("#models h3")).to_have_text(["Embedding", "Generation", "Reranking"])
    await expect(card(page, "rerank").locator(".name")).to_have_text("fake-rerank")
    legend = page.locator("#chart-requests .legend li")
    await expect(legend).to_have_text(
        [re.compile(name) for name in ("embedding", "generation", "reranking", "other")]
    )
    colors = await legend.locator(".swatch").evaluate_all(
        "swatches => swatches.map(each => getComputedStyle(each).backgroundColor)"
    )
    assert len(set(colors)) == 4
    await expect(page.locator("#chart-latency-rerank")).to_be_visible()
    await expect(page.locator("#chart-first-token-rerank")).to_have_count(0)
    await expect(page.locator("#requests-body td.number")).to_have_text("4")


@pytest.mark.parametrize(
    ("state", "mood"),
    [
        ("ready", "good"), ("busy", "busy"), ("starting", "coming"), ("unavailable", "bad"), ("dead", "bad"),
        ("hung", "bad"), ("failed", "bad"), ("draining", "away"), ("stopped", "away"), ("of the future", "bad"),
    ],
)  # fmt: skip
async def test_each_state_has_a_label_and_a_color(open_page: OpenPage, service: Served, state: str, mood: str):
    page = await show(open_page, service, generation(state=state, reason="That is why."))
    pill = card(page, "generate").locator(".pill").first
    await expect(pill).to_have_text(state)
    await expect(pill).to_have_attribute("data-mood", mood)
    await expect(card(page, "generate").locator(".reason")).to_have_text("That is why.")
    await expect(card(page, "embed").locator(".pill").first).to_have_text("ready")


async def test_the_last_error_and_the_restarts_are_shown(open_page: OpenPage, service: Served):
    error = {"message": "Its process ended.", "at": "2026-11-23T17:00:01Z"}
    page = await show(open_page, service, generation(restarts=3, last_error=error))
    facts = card(page, "generate").locator("dd")
    await expect(facts.nth(0)).to_have_text("3")
    await expect(facts.nth(1)).to_contain_text("Its process ended.")
    await expect(card(page, "embed").locator("dd").nth(1)).to_have_text("none")


async def test_a_queue_is_shown_against_its_bounds(open_page: OpenPage, service: Served):
    def queue(status: dict[str, Any]) -> None:
        status["health"]["backends"]["generate"]["queue"] |= {"running": 64, "waiting": 1000}

    page = await show(open_page, service, queue)
    running, waiting = (card(page, "generate").get_by_role("meter", name=name) for name in ("Running", "Waiting"))
    await expect(running).to_have_attribute("aria-valuenow", "64")
    await expect(running).to_have_attribute("aria-valuemax", "256")
    await expect(card(page, "generate").locator(".meters")).to_contain_text("64 of 256")
    await expect(waiting.locator(".fill")).to_have_class("fill full")
    shares = [await (await bar.locator(".fill").element_handle()).evaluate(SHARE) for bar in (running, waiting)]
    assert shares == pytest.approx([64 / 256, 1000 / 1024], abs=0.02)


async def test_the_classes_that_give_way_are_shown_while_they_have_requests(open_page: OpenPage, service: Served):
    def lines(status: dict[str, Any]) -> None:
        classes = status["health"]["backends"]["generate"]["queue"]["classes"]
        classes["batch"] |= {"running": 3, "waiting": 1200}

    page = await show(open_page, service, lines)
    await expect(card(page, "generate").locator("dd").nth(2)).to_have_text("batch: 3 running, 1,200 waiting")
    await expect(card(page, "embed").locator("dd").nth(2)).to_have_text("none")


SHARE = "bar => parseFloat(bar.style.width.match(/([0-9.]+)%/)[1]) / 100"


async def test_the_servers_behind_a_model_are_listed(open_page: OpenPage, service: Served):
    members = [
        {"address": "a:8000", "state": "ready", "breaker": "closed", "outstanding": 2, "ejections": 0},
        {"address": "b:8000", "state": "unavailable", "breaker": "open", "outstanding": 0, "ejections": 4},
    ]
    members = [member | {"last_error": "No answer."} for member in members]
    page = await show(open_page, service, generation(members=members))
    items = card(page, "generate").locator(".members li")
    await expect(items).to_have_count(2)
    await expect(items.nth(1)).to_contain_text("b:8000")
    await expect(items.nth(1).locator(".pill")).to_have_attribute("data-mood", "bad")
    await expect(items.nth(1)).to_contain_text("ejected 4 ×")


async def test_a_memory_plan_is_a_bar_with_a_legend_and_a_mark(open_page: OpenPage, service: Served):
    planned = [{"name": "weights", "bytes": 3 * 2**30}, {"name": "kv_cache", "bytes": 2**30}]
    memory = {"planned": planned, "measured_bytes": 2 * 2**30}
    page = await show(open_page, service, generation(memory=memory))
    box = card(page, "generate").locator(".memory")
    await expect(box.get_by_role("img")).to_have_attribute(
        "aria-label", "Memory: 4 GiB planned, 2 GiB measured: weights 3 GiB, kv cache 1 GiB"
    )
    await expect(box.locator(".legend li")).to_have_text(["weights 3 GiB", "kv cache 1 GiB", "measured 2 GiB"])
    widths = await box.locator(".part").evaluate_all(
        "parts => parts.map(part => Number(part.getAttribute('width')))"
    )
    assert widths == pytest.approx([748, 248])
    assert await box.locator(".mark").first.get_attribute("x") == "498"
    await expect(card(page, "embed").locator(".memory")).to_contain_text("No memory plan for this engine.")


async def test_a_plan_that_was_not_measured_has_no_mark(open_page: OpenPage, service: Served):
    memory = {"planned": [{"name": "weights", "bytes": 1000}], "measured_bytes": None}
    page = await show(open_page, service, generation(memory=memory))
    await expect(card(page, "generate").locator(".memory .part")).to_have_count(1)
    await expect(card(page, "generate").locator(".memory .mark")).to_have_count(0)


async def test_a_failed_engine_can_be_restarted(open_page: OpenPage, service: Served):
    page = await show(open_page, service, generation(state="failed", reason="Lost too often."))
    address = f"{service.url}/admin/engines/generate/restart"
    async with page.expect_request(address) as request:
        await card(page, "generate").get_by_role("button", name="Try again now").click()
    assert (await request.value).method == "POST"
    await expect(card(page, "embed").get_by_role("button", name="Try again now")).to_be_hidden()


async def test_the_gpu_and_the_cache_are_shown_if_there_are_any(open_page: OpenPage, service: Served):
    cache = {"hits": 60, "shared": 15, "misses": 25, "entries": 9, "bytes": 2**20, "max_bytes": 2**28}
    more = {"gpu_memory": {"used_gib": 33.14, "total_gib": 79.6}, "embedding_cache": cache}
    page = await show(open_page, service, lambda status: status["health"].update(more))
    await expect(page.locator("#facts")).to_have_text(
        "GPU memory 33.1 of 79.6 GiB in use · Embedding cache: 75 % hits of 100 inputs, 1 MiB of 256 MiB"
    )


async def test_requests_are_listed_with_where_their_time_went(open_page: OpenPage, service: Served):
    service.api.writer.delay_s = 0.01
    page = await open_page(service.url)
    await expect(page.locator("#requests-empty")).to_be_visible()
    async with client(service) as openai:
        messages = [{"role": "user", "content": SECRET}]
        chunks = await openai.chat.completions.create(
            model="fake-write", messages=messages, stream=True, max_tokens=20
        )
        async for _ in chunks:
            pass
        await openai.embeddings.create(model="fake-embed", input=[SECRET])
    rows = page.locator("#requests-body tr")
    await expect(rows).to_have_count(2)
    await expect(rows.nth(0)).to_contain_text("POST /v1/embeddings")
    await expect(rows.nth(0)).to_contain_text("fake-embed")
    await expect(rows.nth(1)).to_contain_text("POST /v1/chat/completions")
    await expect(rows.nth(1).locator(".outcome")).to_have_text("200 ok")
    await expect(rows.nth(1).locator(".tag")).to_have_text("stream")
    await expect(rows.nth(1).locator("td").nth(3)).to_contain_text("→ 20")
    for number in (0, 1):
        widths = (
            await rows.nth(number)
            .locator(".timing-bar .part")
            .evaluate_all("parts => parts.map(part => parseFloat(part.style.width))")
        )
        assert sum(widths) == pytest.approx(100, abs=0.1)
    label = await rows.nth(1).locator(".timing-bar").get_attribute("aria-label")
    assert "to first token" in str(label)
    assert "generating" in str(label)
    label = await rows.nth(0).locator(".timing-bar").get_attribute("aria-label")
    assert "computing" in str(label)


async def test_no_content_of_prompts_or_answers_is_shown(open_page: OpenPage, service: Served):
    async with client(service) as openai:
        answer = await openai.completions.create(model="fake-write", prompt=SECRET, temperature=0, max_tokens=12)
        await openai.embeddings.create(model="fake-embed", input=[SECRET], user=SECRET)
        with pytest.raises(APIStatusError):
            await openai.completions.create(model=SECRET, prompt=SECRET)
    page = await open_page(service.url)
    await expect(page.locator("#requests-body tr")).to_have_count(3)
    status = await (await page.request.get(f"{service.url}/status")).text()
    for secret in (SECRET, answer.choices[0].text):
        assert secret not in status
        assert secret not in await page.content()


async def test_failures_and_disconnected_clients_are_distinguished(open_page: OpenPage, service: Served):
    async with client(service) as openai:
        with pytest.raises(APIStatusError):
            await openai.completions.create(model="none", prompt="x")
        service.api.writer.delay_s = 0.05
        request = asyncio.create_task(openai.completions.create(model="fake-write", prompt="x", max_tokens=200))
        while not service.api.writer.running:
            await asyncio.sleep(0.01)
        request.cancel()
    page = await open_page(service.url)
    rows = page.locator("#requests-body tr")
    await expect(rows).to_have_count(2)
    await expect(rows.nth(0).locator(".outcome")).to_have_text("499 client disconnected")
    await expect(rows.nth(1).locator(".outcome")).to_have_text("404 model not found")
    await expect(page.locator("#chart-errors .legend b")).to_have_text("1")


async def test_charts_show_what_happened(open_page: OpenPage, service: Served):
    page = await open_page(service.url)
    for name in ("requests", "tokens", "errors", "first-token-generate", "latency-generate", "latency-embed"):
        await expect(page.locator(f"#chart-{name} svg .grid")).to_be_attached()
    await expect(page.locator("#chart-latency-embed .legend b")).to_have_text(["–", "–", "–"])
    async with client(service) as openai:
        for _ in range(3):
            await openai.embeddings.create(model="fake-embed", input=["text"])
    await expect(page.locator("#chart-latency-embed .legend b").first).not_to_have_text("–")
    path = await page.locator("#chart-latency-embed path.line.p50").get_attribute("d")
    assert path
    assert path.startswith("M")
    assert await page.locator("#chart-latency-generate path.line.p50").get_attribute("d") == ""


async def test_a_chart_can_be_read_by_keyboard(open_page: OpenPage, service: Served):
    async with client(service) as openai:
        with pytest.raises(APIStatusError):
            await openai.completions.create(model="none", prompt="x")
    page = await open_page(service.url)
    errors = page.locator("#chart-errors")
    await expect(errors.locator("svg .bar")).to_have_count(1)
    await errors.locator(".plot").focus()
    await page.keyboard.press("Home")
    await expect(errors.locator(".legend b")).to_have_text("0")
    await expect(errors.locator(".about")).to_have_text(re.compile(r"\d\d:\d\d:\d\d"))
    await expect(page.locator("#announcer")).to_contain_text("errors 0")
    # All charts share the cursor.
    await expect(page.locator("#chart-tokens .cursor line")).to_have_count(1)
    found = []
    for key in ["End", "ArrowLeft", "ArrowLeft", "ArrowLeft"]:
        await page.keyboard.press(key)
        found.append(await errors.locator(".legend b").text_content())
    assert "1" in found
    await page.keyboard.press("Escape")
    await expect(errors.locator(".about")).to_have_text("2 minutes")


async def test_rows_are_kept_while_new_ones_come(open_page: OpenPage, service: Served):
    page = await open_page(service.url)
    async with client(service) as openai:
        await openai.embeddings.create(model="fake-embed", input=["text"])
        row = page.locator("#requests-body tr").first
        await row.locator(".id").focus()
        await row.evaluate("row => row.dataset.mine = 'yes'")
        for _ in range(12):
            await openai.embeddings.create(model="fake-embed", input=["text"])
        await expect(page.locator("#requests-body tr")).to_have_count(10)
        await page.get_by_role("button", name="Show all 13").click()
    await expect(page.locator("#requests-body tr")).to_have_count(13)
    await page.get_by_role("button", name="Show fewer").click()
    await expect(page.locator("#requests-body tr")).to_have_count(10)


async def test_an_unreachable_service_is_reported_until_it_answers_again(open_page: OpenPage):
    async with served(Api()) as first:
        page = await open_page(first.url)
        await expect(page.locator("#overall")).to_have_text("all ready")
    await expect(page.locator("#notice")).to_contain_text("The service can't be reached.")
    await expect(page.locator("#notice")).to_contain_text("It last answered")
    await expect(page.locator("#overall")).to_have_text("unreachable")
    async with served(Api(), port=int(first.url.rpartition(":")[2])):
        await expect(page.locator("#overall")).to_have_text("all ready")
        await expect(page.locator("#notice")).to_be_hidden()


async def test_a_change_of_state_is_announced(open_page: OpenPage, service: Served):
    state = {"now": "ready"}
    page = await show(open_page, service, lambda status: generation(state=state["now"], reason="It fell.")(status))
    await expect(card(page, "generate").locator(".pill").first).to_have_text("ready")
    state["now"] = "dead"
    await expect(page.locator("#announcer")).to_have_text("Generation is now dead: It fell.")
    assert await page.locator("#announcer").get_attribute("role") == "status"


@pytest.mark.parametrize(
    ("first", "minutes", "begins"), [(0, 10, "−10 min"), (60, 6, "−6 min"), (119, 2, "−2 min")]
)
async def test_charts_begin_where_there_is_something_to_see(
    open_page: OpenPage, service: Served, first: int, minutes: int, begins: str
):
    def busy(status: dict[str, Any]) -> None:
        counts = status["series"]["roles"]["embed"]["requests"]
        counts[first:] = [10] * (len(counts) - first)

    page = await show(open_page, service, busy)
    await expect(page.locator("#traffic-title")).to_have_text(f"Last {minutes} minutes")
    await expect(page.locator("#chart-requests .grid text").nth(3)).to_have_text(begins)
    await expect(page.locator("#chart-latency-embed .about")).to_have_text(f"{minutes} minutes")
    if first == 0:
        await expect(page.locator("#chart-requests .legend b").first).to_have_text("2")
