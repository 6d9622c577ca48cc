"""The playground over fake engines: inputs are sent, answers and errors are shown."""

import asyncio
import json
import re
import shutil
import subprocess
import sys
from typing import Any

import pytest
from playwright.async_api import Locator, Page, Route, expect

from domain.errors import BackendFailedError
from tests.page.conftest import OpenPage, Served, served
from tests.unit.serving import Api


async def playground(open_page: OpenPage, service: Served, tab: str = "Chat", **options: Any) -> Page:
    page = await open_page(f"{service.url}/#playground", **options)
    await expect(page.locator(".model-name").first).to_have_text("fake-write")
    await page.get_by_role("tab", name=tab).click()
    return page


async def choose(page: Page, **options: str) -> None:
    """Fill in options of the chat."""
    await page.locator("#panel-chat summary").click()
    for name, value in options.items():
        await page.get_by_label(name.replace("_", " ")).locator("visible=true").fill(value)


async def send(page: Page, text: str) -> Locator:
    """Send a chat message; returns the element of the answer."""
    await page.get_by_label("Message").fill(text)
    await page.get_by_role("button", name="Send").click()
    return page.locator("#chat-log .message.assistant").last


async def disable_thinking(page: Page) -> None:
    """Make the fake answer with text instead of reasoning, without the page's knowledge."""

    async def changed(route: Route) -> None:
        body = json.loads(route.request.post_data or "{}")
        await route.continue_(post_data=json.dumps(body | {"chat_template_kwargs": {"enable_thinking": False}}))

    await page.route(re.compile("/v1/(chat/completions|responses)$"), changed)


def sent(service: Served) -> Any:
    return service.api.writer.seen[-1]


async def test_a_chat_is_streamed_into_the_page(open_page: OpenPage, service: Served):
    page = await playground(open_page, service)
    await disable_thinking(page)
    service.api.writer.delay_s = 0.03
    await choose(page, Max_tokens="60")
    answer = await send(page, "Hello there")
    await expect(page.locator("#chat-log .message.user .said")).to_have_text("Hello there")
    said = answer.locator(".said")
    await expect(said).not_to_be_empty()
    lengths = [len(await said.text_content() or "")]
    while await page.get_by_role("button", name="Stop").is_visible() and len(set(lengths)) < 3:
        lengths.append(len(await said.text_content() or ""))
    assert len(set(lengths)) == 3, "the answer was not streamed"
    assert lengths == sorted(lengths)
    await expect(page.locator("#chat-meta")).to_contain_text("tokens/s")
    await expect(page.locator("#chat-meta")).to_contain_text(re.compile(r"first token after .+ in total .+req_"))
    await expect(page.get_by_role("button", name="Send")).to_be_visible()


async def test_reasoning_is_shown_separately(open_page: OpenPage, service: Served):
    page = await playground(open_page, service)
    answer = await send(page, "Hello")
    await expect(answer.locator(".thought")).to_contain_text(re.compile("Thinking: [a-z ]+"))
    await expect(answer.locator(".said")).to_be_hidden()


async def test_earlier_messages_are_sent_again(open_page: OpenPage, service: Served):
    page = await playground(open_page, service)
    await disable_thinking(page)
    await choose(page, System_prompt="Be short.", Max_tokens="5", Temperature="0")
    first = await send(page, "One")
    await expect(first.locator(".said")).to_have_text(re.compile("^.{5}$"))
    said = await first.locator(".said").text_content()
    await expect(page.get_by_role("button", name="Send")).to_be_visible()
    second = await send(page, "Two")
    await expect(second.locator(".said")).to_have_text(re.compile("^.{5}$"))
    request = sent(service)
    turns = request.prompt.messages
    names = [type(turn).__name__ for turn in turns]
    assert names == ["SystemMessage", "UserMessage", "AssistantMessage", "UserMessage"]
    assert str(said) in str(turns[2])
    assert (request.sampling.temperature, request.sampling.max_tokens) == (0, 5)
    await page.get_by_role("button", name="New chat").click()
    await expect(page.locator("#chat-log .message")).to_have_count(0)
    await send(page, "Three")
    await expect(page.get_by_role("button", name="Send")).to_be_visible()
    assert len(sent(service).prompt.messages) == 2


async def test_stopping_an_answer_stops_the_engine(open_page: OpenPage, service: Served):
    page = await playground(open_page, service)
    await disable_thinking(page)
    service.api.writer.delay_s = 0.1
    answer = await send(page, "Go on and on")
    await expect(answer.locator(".said")).not_to_be_empty()
    await page.get_by_role("button", name="Stop").click()
    await expect(page.locator("#chat-meta")).to_contain_text("Interrupted")
    await expect(answer.locator(".tag")).to_have_text("interrupted")
    while service.api.writer.running:
        await asyncio.sleep(0.01)
    assert len(await answer.locator(".said").text_content() or "") < 60


async def test_a_new_chat_during_an_answer_starts_empty(open_page: OpenPage, service: Served):
    page = await playground(open_page, service)
    await disable_thinking(page)
    service.api.writer.delay_s = 0.1
    answer = await send(page, "Go on and on")
    await expect(answer.locator(".said")).not_to_be_empty()
    await page.get_by_role("button", name="New chat").click()
    await expect(page.get_by_role("button", name="Send")).to_be_visible()
    await expect(page.locator("#chat-log .message")).to_have_count(0)
    await expect(page.locator("#chat-meta")).to_be_empty()
    service.api.writer.delay_s = 0.0
    await send(page, "Another thing")
    await expect(page.locator("#chat-meta")).to_contain_text("in total")
    assert len(sent(service).prompt.messages) == 1


async def test_markup_stays_text(open_page: OpenPage, service: Served):
    page = await playground(open_page, service)
    await send(page, "<img src=x onerror=alert(1)><b>bold</b>")
    said = page.locator("#chat-log .message.user .said")
    await expect(said).to_have_text("<img src=x onerror=alert(1)><b>bold</b>")
    await expect(said.locator("img, b")).to_have_count(0)


async def test_a_rejected_request_shows_openais_message(open_page: OpenPage, service: Served):
    page = await playground(open_page, service)
    await choose(page, Temperature="3")
    await send(page, "Hello")
    alert = page.locator("#chat-error")
    await expect(alert).to_contain_text("Invalid 'temperature'")
    await expect(alert).to_contain_text("400 · invalid_request_error")
    # The next request does not contain the rejected message.
    await page.locator("#chat-temperature").fill("1")
    await send(page, "Again")
    await expect(page.get_by_role("button", name="Send")).to_be_visible()
    await expect(alert).to_be_empty()
    assert len(sent(service).prompt.messages) == 1


async def test_a_failure_during_the_answer_is_shown(open_page: OpenPage, service: Served):
    page = await playground(open_page, service)
    await disable_thinking(page)
    service.api.writer.fail_next = BackendFailedError("The engine broke.")
    answer = await send(page, "Hello")
    await expect(page.locator("#chat-error")).to_contain_text("The engine broke.")
    await expect(answer.locator(".tag")).to_have_text("interrupted")


async def test_a_stream_without_its_end_mark_is_an_error(open_page: OpenPage, service: Served):
    page = await playground(open_page, service)
    chunk = {"choices": [{"index": 0, "delta": {"content": "Half"}}]}
    body = f": keep-alive\n\ndata: {json.dumps(chunk)}\n\n"
    await page.route("**/v1/chat/completions", lambda route: route.fulfill(body=body))
    answer = await send(page, "Hello")
    await expect(answer.locator(".said")).to_have_text("Half")
    await expect(page.locator("#chat-error")).to_contain_text("The stream ended before the answer was complete.")


async def test_an_unreachable_service_is_reported(open_page: OpenPage, service: Served):
    page = await playground(open_page, service)
    await page.route("**/v1/chat/completions", lambda route: route.abort())
    await send(page, "Hello")
    await expect(page.locator("#chat-error")).to_contain_text("The service can't be reached.")


async def test_a_prompt_is_continued(open_page: OpenPage, service: Served):
    page = await playground(open_page, service, "Completion")
    await page.get_by_label("Prompt", exact=True).fill("abc")
    await page.locator("#panel-completion").get_by_text("Options").click()
    await page.locator("#completion-temperature").fill("0")
    await page.locator("#completion-max").fill("6")
    await page.get_by_role("button", name="Continue").click()
    await expect(page.locator("#completion-output")).to_have_text(re.compile("^abc[a-z ]{6}$"))
    await expect(page.locator("#completion-output mark")).to_have_text(re.compile("^[a-z ]{6}$"))
    await expect(page.locator("#completion-meta")).to_contain_text("3 + 6 tokens")


async def test_texts_are_compared_pairwise(open_page: OpenPage, service: Served):
    page = await playground(open_page, service, "Embeddings")
    await page.get_by_label("Texts").fill("aaa\n\n  aaa  \nzzz")
    await page.get_by_role("button", name="Compare").click()
    cells = page.locator(".matrix td")
    await expect(cells).to_have_count(9)
    values = [float(text.replace("−", "-")) for text in await cells.all_text_contents()]
    assert values[0] == values[1] == values[3] == values[4] == values[8] == 1.0
    assert values[2] == values[5] == values[6] == values[7] < 0.5
    await expect(page.locator(".matrix th[scope=row]")).to_have_text(["1 aaa", "2 aaa", "3 zzz"])
    colors = await cells.evaluate_all("cells => cells.map(cell => getComputedStyle(cell).backgroundColor)")
    assert colors[0] == colors[1] != colors[2]
    await expect(page.locator("#embeddings-meta")).to_contain_text("8 dimensions · 9 tokens")


@pytest.mark.parametrize("texts", ["", "one", "\n".join("123456789")])
async def test_too_few_or_too_many_texts_are_rejected(open_page: OpenPage, service: Served, texts: str):
    page = await playground(open_page, service, "Embeddings")
    await page.get_by_label("Texts").fill(texts)
    await page.get_by_role("button", name="Compare").click()
    await expect(page.locator("#embeddings-error")).to_contain_text("Enter 2 to 8 texts")
    assert service.api.embedder.seen == []


async def test_documents_are_sorted_by_their_relevance(open_page: OpenPage, service: Served):
    page = await playground(open_page, service, "Rerank")
    await expect(page.locator("#panel-rerank .model-name")).to_have_text("fake-embed")
    await page.get_by_label("Query").fill("aaa")
    await page.get_by_label("Documents, one per line").fill("zzz\n\n aaz \naaa")
    await page.get_by_role("button", name="Sort").click()
    rows = page.locator("#ranking li")
    await expect(rows.locator(".said")).to_have_text(["aaa", "aaz", "zzz"])
    assert (await rows.locator("b").all_text_contents())[0] == "1.00"
    await expect(page.locator("#rerank-meta")).to_contain_text("3 documents · 12 tokens")


async def test_a_reranking_model_sorts_if_there_is_one(open_page: OpenPage):
    async with served(Api(settings={"MODEL_RERANK_NAME": "fake-rerank"})) as service:
        page = await playground(open_page, service, "Rerank")
        await expect(page.locator("#panel-rerank .model-name")).to_have_text("fake-rerank")
        await page.get_by_role("button", name="Sort").click()
        await expect(page.locator("#rerank-meta")).to_contain_text("4 documents")
        assert service.api.reranker.seen[-1].queries == ["Which pets are asleep?"]


@pytest.mark.parametrize(("query", "documents"), [("", "x"), ("x", " \n ")])
async def test_without_a_query_or_documents_nothing_is_sorted(
    open_page: OpenPage, service: Served, query: str, documents: str
):
    page = await playground(open_page, service, "Rerank")
    await page.get_by_label("Query").fill(query)
    await page.get_by_label("Documents, one per line").fill(documents)
    await page.get_by_role("button", name="Sort").click()
    await expect(page.locator("#rerank-error")).to_contain_text("Enter a query and at least one document.")
    assert service.api.embedder.seen == []


# The programs

TYPED = 'It\'s a "test" \\ with ünïcode 🙂\nand $HOME `lines`'


async def code(page: Page, tab: str, language: str) -> str:
    if tab == "Embeddings":
        await page.get_by_label("Texts").fill(TYPED)
    elif tab == "Rerank":
        await page.get_by_label("Documents, one per line").fill(TYPED)
    elif tab == "Completion":
        await page.get_by_label("Prompt", exact=True).fill(TYPED)
    else:
        await page.get_by_label("Message").fill(TYPED)
    await page.get_by_role("tab", name=language).click()
    return str(await page.locator("#snippet").text_content())


def prompt_of(request: Any, tab: str) -> str:
    if tab == "Embeddings":
        return "\n".join(request.inputs)
    if tab == "Rerank":
        return "\n".join(request.inputs[1:])
    return str(request.prompt) if tab == "Completion" else str(request.prompt.messages[-1].content)


@pytest.mark.parametrize("tab", ["Chat", "Responses", "Completion", "Embeddings", "Rerank"])
@pytest.mark.parametrize("language", ["Python", "curl"])
async def test_the_program_sends_the_same_request_as_the_page(
    open_page: OpenPage, service: Served, tab: str, language: str
):
    if language == "curl" and shutil.which("curl") is None:
        pytest.skip("This machine has no curl.")
    page = await playground(open_page, service, "Chat" if tab == "Responses" else tab)
    if tab == "Responses":
        await page.get_by_label("Endpoint of the chat").select_option("Responses")
    text = await code(page, tab, language)
    is_whole = tab in ("Embeddings", "Rerank")
    assert "stream" in text or is_whole
    command = [sys.executable, "-c", text] if language == "Python" else ["sh", "-c", text]
    run = await asyncio.to_thread(subprocess.run, command, capture_output=True, text=True, timeout=60)
    assert run.returncode == 0, run.stderr
    # In a chat the fake writes only reasoning.
    assert run.stdout.strip() or (tab in ("Chat", "Responses") and language == "Python")
    engine = service.api.embedder if is_whole else service.api.writer
    (by_program,) = engine.seen
    names = {"Chat": "Send", "Completion": "Continue", "Embeddings": "Compare", "Rerank": "Sort"}
    await page.get_by_role("button", name=names.get(tab, "Send")).click()
    while len(engine.seen) < 2:
        await asyncio.sleep(0.01)
    by_page = engine.seen[-1]
    assert prompt_of(by_program, tab) == prompt_of(by_page, tab) == TYPED
    if not is_whole:
        assert by_program.sampling.max_tokens == by_page.sampling.max_tokens
        assert by_program.sampling.temperature == by_page.sampling.temperature == 0.7


async def test_a_program_can_be_copied(open_page: OpenPage, service: Served):
    permissions = ["clipboard-read", "clipboard-write"]
    page = await playground(open_page, service, permissions=permissions)
    await page.get_by_role("button", name="Copy", exact=True).click()
    await expect(page.locator("#copied")).to_have_text("Copied.")
    copied = await page.evaluate("navigator.clipboard.readText()")
    assert copied == await page.locator("#snippet").text_content()
    assert "from openai import OpenAI" in copied
