"""The playground's chat with the Responses API: it continues stored responses, or else sends the whole chat."""

import asyncio
import json
import re
from typing import Any

import pytest
from playwright.async_api import Locator, Page, Request, expect

from domain.errors import BackendFailedError, BackendUnavailableError
from tests.page.conftest import OpenPage, Served
from tests.page.test_playground import choose, disable_thinking, playground, send, sent


class Chat:
    """A page with the playground's chat, and the bodies that it sends."""

    def __init__(self, page: Page) -> None:
        self.page = page
        self.bodies: list[dict[str, Any]] = []
        page.on("request", self._note)

    def _note(self, request: Request) -> None:
        if request.method == "POST":
            self.bodies.append({"path": request.url.partition("/v1/")[2], **json.loads(request.post_data or "{}")})

    async def say(self, text: str) -> Locator:
        """Send a message and wait for the whole answer."""
        answer = await send(self.page, text)
        await expect(self.page.locator("#chat-meta")).to_contain_text("in total")
        await expect(self.page.get_by_role("button", name="Send")).to_be_visible()
        return answer

    async def use(self, api: str) -> None:
        await self.page.get_by_label("Endpoint of the chat").select_option(api)


async def chat(open_page: OpenPage, service: Served, *, thinks: bool = False) -> Chat:
    page = await playground(open_page, service)
    if not thinks:
        await disable_thinking(page)
    await choose(page, Max_tokens="5", Temperature="0")
    opened = Chat(page)
    await opened.use("Responses")
    return opened


def turns(service: Served) -> list[str]:
    """The messages of the last prompt."""
    return [type(message).__name__ for message in sent(service).prompt.messages]


async def test_an_answer_is_streamed_into_the_page(open_page: OpenPage, storing: Served):
    opened = await chat(open_page, storing)
    page = opened.page
    storing.api.writer.delay_s = 0.03
    await page.get_by_label("Max tokens").locator("visible=true").fill("60")
    answer = await send(page, "Hello there")
    said = answer.locator(".said")
    await expect(said).not_to_be_empty()
    lengths = [len(await said.text_content() or "")]
    while await page.get_by_role("button", name="Stop").is_visible() and len(set(lengths)) < 3:
        lengths.append(len(await said.text_content() or ""))
    assert len(set(lengths)) == 3, "the answer was not streamed"
    await expect(page.locator("#chat-meta")).to_contain_text(re.compile(r"first token after .+ in total .+req_"))
    await expect(page.locator("#chat-meta")).to_contain_text("+ 60 tokens")
    await expect(page.locator("#chat-error")).to_be_empty()


async def test_later_messages_continue_the_stored_response(open_page: OpenPage, storing: Served):
    opened = await chat(open_page, storing)
    await opened.page.get_by_label("System prompt").fill("Be short.")
    for text in ("One", "Two", "Three"):
        await opened.say(text)
    first, second, third = opened.bodies
    assert (first["path"], first["input"], "previous_response_id" in first) == ("responses", "One", False)
    assert (second["input"], third["input"]) == ("Two", "Three")
    assert second["previous_response_id"].startswith("resp_")
    assert third["previous_response_id"] not in (second["previous_response_id"], None)
    assert first["instructions"] == third["instructions"] == "Be short."
    assert (third["temperature"], third["max_output_tokens"]) == (0, 5)
    assert turns(storing) == ["SystemMessage", *["UserMessage", "AssistantMessage"] * 2, "UserMessage"]


async def test_without_a_store_the_whole_chat_is_sent(open_page: OpenPage, service: Served):
    opened = await chat(open_page, service)
    await opened.say("One")
    answer = await opened.page.locator("#chat-log .message.assistant .said").first.text_content()
    await opened.say("Two")
    assert opened.bodies[1]["input"] == [
        {"role": "user", "content": "One"},
        {"role": "assistant", "content": answer},
        {"role": "user", "content": "Two"},
    ]
    assert "previous_response_id" not in opened.bodies[1]
    assert turns(service) == ["UserMessage", "AssistantMessage", "UserMessage"]


async def test_a_new_chat_starts_a_new_chain(open_page: OpenPage, storing: Served):
    opened = await chat(open_page, storing)
    await opened.say("One")
    await opened.page.get_by_role("button", name="New chat").click()
    await opened.say("Two")
    assert "previous_response_id" not in opened.bodies[1]
    assert turns(storing) == ["UserMessage"]


async def test_a_response_that_was_deleted_is_replaced_by_the_whole_chat(open_page: OpenPage, storing: Served):
    opened = await chat(open_page, storing)
    await opened.say("One")
    await opened.say("Two")
    deleted = opened.bodies[1]["previous_response_id"]
    assert (await storing.api.http.delete(f"/v1/responses/{deleted}")).status_code == 200
    await opened.say("Three")
    await expect(opened.page.locator("#chat-error")).to_be_empty()
    *_, refused, repeated = opened.bodies
    assert "previous_response_id" in refused
    assert len(repeated["input"]) == 5
    await opened.say("Four")
    assert opened.bodies[-1]["input"] == "Four"
    assert len(turns(storing)) == 7


async def test_reasoning_is_shown_separately(open_page: OpenPage, storing: Served):
    opened = await chat(open_page, storing, thinks=True)
    answer = await opened.say("Hello")
    await expect(answer.locator(".thought")).to_contain_text(re.compile("Thinking: [a-z ]+"))
    await expect(answer.locator(".said")).to_be_hidden()


async def test_the_api_can_be_changed_during_a_chat(open_page: OpenPage, storing: Served):
    opened = await chat(open_page, storing)
    await opened.say("One")
    await opened.use("Chat completions")
    await expect(opened.page.locator("#chat-stored")).to_be_hidden()
    await opened.say("Two")
    await opened.use("Responses")
    await opened.say("Three")
    assert [body["path"] for body in opened.bodies] == ["responses", "chat/completions", "responses"]
    assert len(opened.bodies[1]["messages"]) == 3
    assert len(opened.bodies[2]["input"]) == 5


async def test_an_interrupted_answer_is_not_continued(open_page: OpenPage, storing: Served):
    opened = await chat(open_page, storing)
    await opened.say("One")
    storing.api.writer.delay_s = 0.1
    await opened.page.get_by_label("Max tokens").locator("visible=true").fill("200")
    answer = await send(opened.page, "Go on and on")
    await expect(answer.locator(".said")).not_to_be_empty()
    await opened.page.get_by_role("button", name="Stop").click()
    await expect(answer.locator(".tag")).to_have_text("interrupted")
    while storing.api.writer.running:
        await asyncio.sleep(0.01)
    storing.api.writer.delay_s = 0.0
    await opened.say("Two")
    assert [each["role"] for each in opened.bodies[-1]["input"]] == ["user", "assistant"] * 2 + ["user"]


async def test_a_rejected_request_is_shown_and_left_out(open_page: OpenPage, storing: Served):
    opened = await chat(open_page, storing)
    await opened.say("One")
    await opened.page.locator("#chat-temperature").fill("3")
    await send(opened.page, "Two")
    alert = opened.page.locator("#chat-error")
    await expect(alert).to_contain_text("Invalid 'temperature'")
    await expect(alert).to_contain_text("400 · invalid_request_error")
    await opened.page.locator("#chat-temperature").fill("0")
    await opened.say("Three")
    assert opened.bodies[-1]["input"] == "Three"
    assert opened.bodies[-1]["previous_response_id"] == opened.bodies[-2]["previous_response_id"]
    assert turns(storing) == ["UserMessage", "AssistantMessage", "UserMessage"]


@pytest.mark.parametrize(
    "error", [BackendFailedError("The engine broke."), BackendUnavailableError("The engine broke.")]
)
async def test_a_failure_during_the_answer_is_shown(open_page: OpenPage, storing: Served, error: Exception):
    opened = await chat(open_page, storing)
    storing.api.writer.fail_next = error
    answer = await send(opened.page, "Hello")
    await expect(opened.page.locator("#chat-error")).to_contain_text("The engine broke.")
    await expect(answer.locator(".tag")).to_have_text("interrupted")


async def test_a_stream_without_its_last_event_is_an_error(open_page: OpenPage, storing: Served):
    opened = await chat(open_page, storing)
    event = {"type": "response.output_text.delta", "delta": "Half"}
    body = f": keep-alive\n\nevent: {event['type']}\ndata: {json.dumps(event)}\n\n"
    await opened.page.route("**/v1/responses", lambda route: route.fulfill(body=body))
    answer = await send(opened.page, "Hello")
    await expect(answer.locator(".said")).to_have_text("Half")
    await expect(opened.page.locator("#chat-error")).to_contain_text("The stream ended before the answer was")


async def test_the_program_continues_the_response_too(open_page: OpenPage, storing: Served):
    opened = await chat(open_page, storing)
    snippet = opened.page.locator("#snippet")
    await expect(snippet).to_contain_text("client.responses.create(")
    await expect(snippet).not_to_contain_text("previous_response_id")
    await opened.say("One")
    await opened.page.get_by_label("Message").fill("Two")
    await expect(snippet).to_contain_text('previous_response_id="resp_')
    await expect(snippet).to_contain_text('input="Two"')
