"""Stored responses and conversations, through the application on a real SQLite file."""

import asyncio
import json
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import httpx
import pytest

from domain.conversation import AssistantMessage, Conversation, UserMessage
from domain.errors import BackendTimeoutError, OverloadedError
from domain.results import ToolCallDelta
from domain.state import StoredResponse
from tests.unit.messages_serving import USAGE, delta, end
from tests.unit.responses_serving import (
    CONVERSATIONS,
    RESPONSES,
    SAYS_HELLO,
    ResponsesApi,
    events_of,
    response_of,
    stored_serving,
    text_of,
)
from tests.unit.serving import NEVER_S, error_of
from tests.unit.waiting import eventually, until

ALICE, BOB = "sk-alice-0123456789", "sk-bob-0123456789"
FUNCTION = {"type": "function", "name": "look"}
CALL = [delta(tool_calls=[ToolCallDelta(index=0, id="call_1", name="look", arguments="{}")]), end(), USAGE]


@pytest.fixture(scope="module")
async def shared(tmp_path_factory) -> AsyncGenerator[ResponsesApi, None]:
    async with stored_serving(tmp_path_factory.mktemp("state")) as running:
        yield running


@pytest.fixture
def api(shared) -> ResponsesApi:
    shared.script = SAYS_HELLO
    shared.writer.delay_s = 0.0
    shared.writer.fail_next = None
    return shared


def messages(api: ResponsesApi) -> list[Any]:
    prompt = api.seen.prompt
    assert isinstance(prompt, Conversation)
    return prompt.messages


def data_of(answer: httpx.Response) -> list[dict[str, Any]]:
    """The events of a stream, of which OpenAI's SDK does not have one: `response.cancelled`."""
    lines = answer.text.split("\n")
    return [json.loads(line.removeprefix("data: ")) for line in lines if line.startswith("data: ")]


async def retrieved(api: ResponsesApi, response_id: str) -> dict[str, Any]:
    return response_of(await api.http.get(f"{RESPONSES}/{response_id}"))


async def test_a_response_is_stored_by_default_and_retrieved_as_it_was(api):
    response = response_of(await api.respond())
    assert response["store"] is True
    assert await retrieved(api, response["id"]) == response


async def test_a_streamed_response_is_stored_before_it_is_completed(api):
    events = events_of(await api.respond(stream=True))
    assert await retrieved(api, events[0]["response"]["id"]) == events[-1]["response"]


async def test_nothing_is_stored_on_request(api):
    response = response_of(await api.respond(store=False))
    assert response["store"] is False
    missing = await api.http.get(f"{RESPONSES}/{response['id']}")
    assert (missing.status_code, error_of(missing)["param"]) == (404, "response_id")


async def test_a_response_is_continued(api):
    first = response_of(await api.respond("One", instructions="Be brief."))
    second = response_of(await api.respond("Two", previous_response_id=first["id"]))
    assert messages(api) == [
        UserMessage(content="One"), AssistantMessage(content="Hello."), UserMessage(content="Two"),
    ]  # fmt: skip
    assert second["previous_response_id"] == first["id"]
    response_of(await api.respond("Three", previous_response_id=second["id"], store=False))
    assert [message.content for message in messages(api)] == ["One", "Hello.", "Two", "Hello.", "Three"]


async def test_a_call_is_answered_in_the_next_response(api):
    api.script = CALL
    first = response_of(await api.respond("Look.", tools=[FUNCTION]))
    api.script = SAYS_HELLO
    output = {"type": "function_call_output", "call_id": "call_1", "output": "a fox"}
    response_of(await api.respond([output], previous_response_id=first["id"], tools=[FUNCTION]))
    assert [type(message).__name__ for message in messages(api)] == [
        "UserMessage", "AssistantMessage", "ToolMessage",
    ]  # fmt: skip
    unanswered = await api.respond("Go on.", previous_response_id=first["id"])
    assert "No tool output found for function call call_1" in error_of(unanswered)["message"]


async def test_items_are_referred_to_by_their_id(api):
    api.script = [delta(reasoning="Think."), delta("Hel"), end("lo."), USAGE]
    first = response_of(await api.respond("One"))
    references = [{"type": "item_reference", "id": item["id"]} for item in first["output"]]
    response_of(
        await api.respond([{"role": "user", "content": "One"}, *references, {"role": "user", "content": "Two"}])
    )
    assert messages(api)[1] == AssistantMessage(content="Hello.", reasoning="Think.")
    missing = await api.respond([{"type": "item_reference", "id": "msg_missing"}])
    assert (missing.status_code, error_of(missing)["param"]) == (404, "input[0].id")


async def test_input_items_are_listed_in_pages(api):
    first = response_of(await api.respond("One"))
    second = response_of(await api.respond([{"role": "user", "content": "Two"}], previous_response_id=first["id"]))
    path = f"{RESPONSES}/{second['id']}/input_items"
    listed = (await api.http.get(f"{path}?order=asc")).json()
    assert [item["content"][0]["text"] for item in listed["data"]] == ["One", "Hello.", "Two"]
    assert (listed["first_id"], listed["has_more"]) == (listed["data"][0]["id"], False)
    page = (await api.http.get(f"{path}?limit=1&after={listed['last_id']}")).json()
    assert [item["content"][0]["text"] for item in page["data"]] == ["Hello."]
    assert page["has_more"] is True
    for query in ("limit=0", "limit=x", "order=up"):
        assert (await api.http.get(f"{path}?{query}")).status_code == 400
    assert (await api.http.get(f"{path}?after=msg_missing")).status_code == 404


async def test_a_response_is_deleted_and_then_missing_everywhere(api):
    first = response_of(await api.respond("One"))
    second = response_of(await api.respond("Two", previous_response_id=first["id"]))
    deleted = await api.http.delete(f"{RESPONSES}/{first['id']}")
    assert deleted.json() == {"id": first["id"], "object": "response", "deleted": True}
    assert (await api.http.get(f"{RESPONSES}/{first['id']}")).status_code == 404
    assert (await api.http.delete(f"{RESPONSES}/{first['id']}")).status_code == 404
    for response_id in (first["id"], second["id"]):
        refused = await api.respond(previous_response_id=response_id)
        assert (refused.status_code, error_of(refused)["code"]) == (400, "previous_response_not_found")


async def test_a_failed_stream_is_stored_as_failed(api):
    api.script = [delta("Hel"), BackendTimeoutError("It took too long.")]
    response_id = events_of(await api.respond(stream=True))[0]["response"]["id"]
    await eventually(lambda: not api.app.responses._endings)
    stored = await retrieved(api, response_id)
    assert (stored["status"], stored["error"]["message"]) == ("failed", "It took too long.")
    refused = await api.respond(previous_response_id=response_id)
    assert error_of(refused)["code"] == "previous_response_not_found"


async def test_a_stream_that_is_refused_leaves_nothing(api, monkeypatch):
    begun = []
    state = api.app.responses.state
    assert state is not None
    begin = state.begin_durably

    async def begin_durably(response: StoredResponse) -> None:
        begun.append(response.id)
        await begin(response)

    monkeypatch.setattr(state, "begin_durably", begin_durably)
    api.script = [BackendTimeoutError("It took too long.")]
    assert (await api.respond(stream=True)).status_code == 504
    await eventually(lambda: not api.app.responses._endings)
    (response_id,) = begun
    assert (await api.http.get(f"{RESPONSES}/{response_id}")).status_code == 404


async def ended(api: ResponsesApi, response_id: str) -> dict[str, Any]:
    """The response once it has ended."""
    runs = api.app.responses._runs
    assert runs is not None
    run = runs.find("", response_id)
    await eventually(lambda: run is None or run.task is None or run.task.done())
    return await retrieved(api, response_id)


async def test_a_background_response_is_fetched_later(api):
    response = response_of(await api.respond(background=True))
    assert (response["status"], response["background"], response["output"]) == ("in_progress", True, [])
    later = await ended(api, response["id"])
    assert (later["status"], text_of(later)) == ("completed", "Hello.")
    response_of(await api.respond("Two", previous_response_id=response["id"]))
    assert [message.content for message in messages(api)] == ["Hi", "Hello.", "Two"]


async def test_a_background_response_is_streamed_again_from_any_event(api, monkeypatch):
    monkeypatch.setattr("app.responses.background.FLUSH_INTERVAL_S", 0.0)
    events = events_of(await api.respond(background=True, stream=True))
    assert [event["type"].removeprefix("response.") for event in (*events[:3], events[-1])] == [
        "created", "queued", "in_progress", "completed",
    ]  # fmt: skip
    response_id = events[0]["response"]["id"]
    again = await api.http.get(f"{RESPONSES}/{response_id}?stream=true")
    assert events_of(again) == events
    rest = await api.http.get(f"{RESPONSES}/{response_id}?stream=true&starting_after=3")
    assert events_of(rest) == events[4:]
    # From the store, once the process has forgotten it.
    runs = api.app.responses._runs
    assert runs is not None
    await eventually(lambda: not runs._runs)
    assert events_of(await api.http.get(f"{RESPONSES}/{response_id}?stream=true&starting_after=3")) == events[4:]


async def test_another_response_is_not_streamed_again(api):
    response = response_of(await api.respond())
    refused = await api.http.get(f"{RESPONSES}/{response['id']}?stream=true")
    assert (refused.status_code, error_of(refused)["param"]) == (400, "stream")


async def test_a_background_response_is_cancelled(api):
    api.script = ()
    api.writer.delay_s = NEVER_S
    response = response_of(await api.respond(background=True))
    await until(lambda: api.writer.running == 1)
    cancelled = response_of(await api.http.post(f"{RESPONSES}/{response['id']}/cancel"))
    assert cancelled["status"] == "cancelled"
    assert api.writer.running == 0
    assert (await retrieved(api, response["id"]))["status"] == "cancelled"
    again = response_of(await api.http.post(f"{RESPONSES}/{response['id']}/cancel"))
    assert again["status"] == "cancelled"


async def test_the_events_of_a_failed_background_response_have_no_gap(api):
    api.script = [delta("Hel"), BackendTimeoutError("It took too long.")]
    events = events_of(await api.respond(background=True, stream=True))
    assert [event["sequence_number"] for event in events] == list(range(len(events)))
    assert [event["type"].removeprefix("response.") for event in events[-2:]] == ["output_item.done", "failed"]


async def test_the_events_of_a_cancelled_background_response_have_no_gap(api, monkeypatch):
    monkeypatch.setattr("app.responses.background.FLUSH_INTERVAL_S", 0.0)
    never = asyncio.Event()
    generated = asyncio.Event()

    async def generate(_request: Any, *, streams: bool) -> AsyncGenerator[Any, None]:
        assert streams
        yield delta("Hel")
        generated.set()
        await never.wait()

    monkeypatch.setattr(api.writer, "_generate", generate)
    response = response_of(await api.respond(background=True))
    await asyncio.wait_for(generated.wait(), 10)
    path = f"{RESPONSES}/{response['id']}"
    cancelled = response_of(await api.http.post(f"{path}/cancel"))
    assert text_of(cancelled) == "Hel"
    events = data_of(await api.http.get(f"{path}?stream=true"))
    assert [event["sequence_number"] for event in events] == list(range(len(events)))
    assert [event["type"].removeprefix("response.") for event in events[-3:]] == [
        "content_part.done", "output_item.done", "cancelled",
    ]  # fmt: skip
    assert data_of(await api.http.get(f"{path}?stream=true&starting_after=6")) == events[7:]


async def test_only_background_responses_are_cancelled(api):
    response = response_of(await api.respond())
    refused = await api.http.post(f"{RESPONSES}/{response['id']}/cancel")
    assert (refused.status_code, error_of(refused)["param"]) == (400, "response_id")


async def test_a_background_response_waits_while_the_queue_is_full(api, monkeypatch):
    monkeypatch.setattr("app.responses.background.QUEUE_RETRY_S", 0.0)
    api.script = ()
    api.writer.fail_next = OverloadedError("Full.", retry_after_s=1)
    response = response_of(await api.respond(background=True, max_output_tokens=1))
    assert (await ended(api, response["id"]))["status"] == "incomplete"


async def test_a_conversation_collects_its_items(api):
    made = (await api.http.post(CONVERSATIONS, json={"metadata": {"a": "b"}})).json()
    assert made["id"].startswith("conv_")
    assert (made["object"], made["metadata"]) == ("conversation", {"a": "b"})
    response = response_of(await api.respond("One", conversation=made["id"]))
    assert response["conversation"] == {"id": made["id"]}
    response_of(await api.respond("Two", conversation={"id": made["id"]}, stream=False))
    assert [message.content for message in messages(api)] == ["One", "Hello.", "Two"]
    listed = (await api.http.get(f"{CONVERSATIONS}/{made['id']}/items?order=asc")).json()
    assert [item["content"][0]["text"] for item in listed["data"]] == ["One", "Hello.", "Two", "Hello."]


async def test_a_conversation_is_changed_and_deleted(api):
    path = f"{CONVERSATIONS}/{(await api.http.post(CONVERSATIONS, json={})).json()['id']}"
    assert (await api.http.post(path, json={"metadata": {"x": "y"}})).json()["metadata"] == {"x": "y"}
    assert (await api.http.get(path)).json()["metadata"] == {"x": "y"}
    items = [{"role": "user", "content": "One"}, {"role": "assistant", "content": "Two"}]
    added = (await api.http.post(f"{path}/items", json={"items": items})).json()
    assert [item["role"] for item in added["data"]] == ["user", "assistant"]
    item_path = f"{path}/items/{added['first_id']}"
    assert (await api.http.get(item_path)).json()["content"] == [{"type": "input_text", "text": "One"}]
    assert (await api.http.delete(item_path)).json()["object"] == "conversation"
    assert (await api.http.get(item_path)).status_code == 404
    deleted = (await api.http.delete(path)).json()
    assert (deleted["object"], deleted["deleted"]) == ("conversation.deleted", True)
    assert (await api.http.get(path)).status_code == 404
    missing = await api.respond(conversation=path.rpartition("/")[2])
    assert (missing.status_code, error_of(missing)["param"]) == (404, "conversation")


async def test_too_many_items_are_refused(api):
    items = [{"role": "user", "content": "x"}] * 21
    refused = await api.http.post(CONVERSATIONS, json={"items": items})
    assert (refused.status_code, error_of(refused)["param"]) == (400, "items")


async def test_the_sdk_keeps_a_conversation(api):
    client = api.openai()
    conversation = await client.conversations.create(items=[{"role": "user", "content": "One", "type": "message"}])
    answer = await client.responses.create(model="fake-write", input="Two", conversation=conversation.id)
    assert answer.output_text == "Hello."
    listed = await client.conversations.items.list(conversation.id, order="asc")
    assert len(listed.data) == 3
    stored = await client.responses.retrieve(answer.id)
    assert stored.output_text == "Hello."
    assert len((await client.responses.input_items.list(answer.id)).data) == 1
    await client.responses.delete(answer.id)
    assert (await client.conversations.delete(conversation.id)).deleted


async def test_what_one_key_stored_no_other_key_sees(tmp_path):
    async with stored_serving(tmp_path, settings={"API_KEYS": f"{ALICE},{BOB}"}) as api:
        api.script = SAYS_HELLO
        alice, bob = ({"authorization": f"Bearer {key}"} for key in (ALICE, BOB))
        response = response_of(await api.respond("One", headers=alice))
        background = response_of(await api.respond(background=True, headers=alice))
        conversation = (await api.http.post(CONVERSATIONS, json={}, headers=alice)).json()["id"]
        for method, path in [
            ("GET", f"{RESPONSES}/{response['id']}"),
            ("GET", f"{RESPONSES}/{background['id']}"),
            ("GET", f"{RESPONSES}/{background['id']}?stream=true"),
            ("POST", f"{RESPONSES}/{background['id']}/cancel"),
            ("DELETE", f"{RESPONSES}/{response['id']}"),
            ("GET", f"{RESPONSES}/{response['id']}/input_items"),
            ("GET", f"{CONVERSATIONS}/{conversation}"),
            ("DELETE", f"{CONVERSATIONS}/{conversation}"),
            ("GET", f"{CONVERSATIONS}/{conversation}/items"),
        ]:
            assert (await api.http.request(method, path, headers=bob)).status_code == 404, (method, path)
        refused = await api.respond(previous_response_id=response["id"], headers=bob)
        assert error_of(refused)["code"] == "previous_response_not_found"
        assert (await api.respond(conversation=conversation, headers=bob)).status_code == 404
        reference = [{"type": "item_reference", "id": response["output"][0]["id"]}]
        assert (await api.respond(reference, headers=bob)).status_code == 404
        answer = await api.http.get(f"{RESPONSES}/{response['id']}", headers=alice)
        assert answer.json() == response


async def test_responses_outlive_the_service(tmp_path):
    async with stored_serving(tmp_path) as api:
        api.script = SAYS_HELLO
        first = response_of(await api.respond("One"))
    async with stored_serving(tmp_path) as api:
        api.script = SAYS_HELLO
        response_of(await api.respond("Two", previous_response_id=first["id"]))
        assert [message.content for message in messages(api)] == ["One", "Hello.", "Two"]


async def test_the_end_of_the_service_fails_background_responses(tmp_path):
    async with stored_serving(tmp_path) as api:
        api.writer.delay_s = NEVER_S
        response = response_of(await api.respond(background=True))
        await until(lambda: api.writer.running == 1)
        await api.app.responses.stop()
    async with stored_serving(tmp_path) as api:
        stored = await retrieved(api, response["id"])
    assert (stored["status"], stored["error"]["code"]) == ("failed", "server_error")


async def test_a_response_that_can_not_be_stored_is_answered_and_says_so(tmp_path, monkeypatch):
    from domain.errors import StateUnavailableError

    async def fail(*_arguments: Any) -> None:
        raise StateUnavailableError

    async with stored_serving(tmp_path) as api:
        api.script = SAYS_HELLO
        assert api.app.responses.state is not None
        monkeypatch.setattr(api.app.responses.state, "finish", fail)
        response = response_of(await api.respond())
        assert (text_of(response), response["store"]) == ("Hello.", False)
        events = events_of(await api.respond(stream=True))
        assert events[-1]["response"]["store"] is False
        monkeypatch.setattr(api.app.responses.state, "begin_durably", fail)
        events = events_of(await api.respond(stream=True))
        assert [events[0]["response"]["store"], events[-1]["response"]["store"]] == [False, False]
        refused = await api.respond(background=True)
        assert (refused.status_code, error_of(refused)["code"]) == (503, "state_unavailable")


def test_stored_bodies_are_readable(tmp_path: Path):
    # The file holds conversations: only its owner may read it.
    async def store() -> None:
        async with stored_serving(tmp_path) as api:
            api.script = SAYS_HELLO
            await api.respond()

    asyncio.run(store())
    (file,) = tmp_path.glob("*.sqlite3")
    assert file.stat().st_mode & 0o077 == 0
    assert json.dumps("Hello.").encode()[1:-1] in file.read_bytes()
