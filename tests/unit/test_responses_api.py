"""`/v1/responses` without a store: answers, streams, tools, and what is refused, through the application."""

import asyncio
import json
from collections.abc import AsyncGenerator
from typing import Any

import pytest

from domain.conversation import AssistantMessage, Conversation, SystemMessage, ToolChoice, UserMessage
from domain.errors import BackendTimeoutError
from domain.openai.responses.sealing import unseal
from domain.results import FinishReason, ToolCallDelta
from domain.sampling import StructuredOutputs
from domain.state import StoredResponse
from tests.unit.messages_serving import USAGE, delta, end
from tests.unit.responses_serving import (
    RESPONSES,
    SAYS_HELLO,
    ResponsesApi,
    events_of,
    response_of,
    responses_serving,
    stored_serving,
    text_of,
)
from tests.unit.serving import NEVER_S, Leaving, error_of
from tests.unit.waiting import eventually, until

FUNCTION = {
    "type": "function",
    "name": "look",
    "parameters": {"type": "object", "properties": {"at": {"type": "string"}}, "required": ["at"]},
}
CALL = [
    delta(tool_calls=[ToolCallDelta(index=0, id="call_1", name="look", arguments='{"at": "x"}')]),
    end(),
    USAGE,
]
SCHEMA = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}


@pytest.fixture(scope="module")
async def shared() -> AsyncGenerator[ResponsesApi, None]:
    async with responses_serving(settings={"MAX_BODY_BYTES": "100000"}) as running:
        yield running


@pytest.fixture
def api(shared) -> ResponsesApi:
    shared.script = SAYS_HELLO
    shared.writer.delay_s = 0.0
    return shared


def conversation(api: ResponsesApi) -> Conversation:
    prompt = api.seen.prompt
    assert isinstance(prompt, Conversation)
    return prompt


async def test_a_text_is_answered(api):
    response = response_of(await api.respond("Hi", instructions="Be brief.", max_output_tokens=8, temperature=0.5))
    assert (response["object"], response["status"], text_of(response)) == ("response", "completed", "Hello.")
    assert response["id"].startswith("resp_")
    assert response["model"] == "fake-write"
    assert response["usage"]["input_tokens_details"]["cached_tokens"] == USAGE.cached_tokens
    assert conversation(api).messages == [SystemMessage(content="Be brief."), UserMessage(content="Hi")]
    assert (api.seen.sampling.max_tokens, api.seen.sampling.temperature) == (8, 0.5)


async def test_without_a_store_nothing_is_stored_and_the_response_says_so(api):
    response = response_of(await api.respond(store=True))
    assert response["store"] is False
    assert error_of(await api.http.get(f"{RESPONSES}/{response['id']}"))["message"].endswith("as 'input'.")
    refused = await api.respond(previous_response_id=response["id"])
    assert (refused.status_code, error_of(refused)["code"]) == (400, "previous_response_not_found")
    assert "STATE is off" in error_of(refused)["message"]
    refused = await api.respond(background=True)
    assert (refused.status_code, error_of(refused)["param"]) == (400, "background")


async def test_a_stream_has_openais_events(api):
    events = events_of(await api.respond(stream=True))
    assert [event["type"] for event in (*events[:2], events[-1])] == [
        "response.created", "response.in_progress", "response.completed",
    ]  # fmt: skip
    assert [event["delta"] for event in events if event["type"] == "response.output_text.delta"] == ["Hel", "lo."]
    assert text_of(events[-1]["response"]) == "Hello."


async def test_the_sdk_reads_answers_and_streams(api):
    client = api.openai()
    assert (await client.responses.create(model="fake-write", input="Hi")).output_text == "Hello."
    async with client.responses.stream(model="fake-write", input="Hi") as stream:
        texts = [event.delta async for event in stream if event.type == "response.output_text.delta"]
        final = await stream.get_final_response()
    assert (texts, final.output_text) == (["Hel", "lo."], "Hello.")


async def test_a_conversation_of_items_is_continued(api):
    items = [
        {"role": "user", "content": "One?"},
        {"type": "reasoning", "summary": [], "content": [{"type": "reasoning_text", "text": "Think."}]},
        {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "1"}]},
        {"role": "user", "content": [{"type": "input_text", "text": "Two?"}]},
    ]
    response_of(await api.respond(items))
    assert conversation(api).messages == [
        UserMessage(content="One?"),
        AssistantMessage(content="1", reasoning="Think."),
        UserMessage(content="Two?"),
    ]


async def test_tools_are_called_and_answered(api):
    api.script = CALL
    response = response_of(await api.respond(tools=[FUNCTION], tool_choice="required"))
    (call,) = response["output"]
    assert (call["type"], call["name"], call["arguments"]) == ("function_call", "look", '{"at": "x"}')
    assert conversation(api).tool_choice is ToolChoice.REQUIRED
    api.script = SAYS_HELLO
    output = {"type": "function_call_output", "call_id": call["call_id"], "output": "a fox"}
    response = response_of(await api.respond([{"role": "user", "content": "Look."}, call, output]))
    assert text_of(response) == "Hello."
    assert [type(message).__name__ for message in conversation(api).messages] == [
        "UserMessage", "AssistantMessage", "ToolMessage",
    ]  # fmt: skip


async def test_the_sdk_parses_structured_output(api):
    api.script = [delta('{"a":'), end(" 1}"), USAGE]
    form = {"type": "json_schema", "name": "answer", "schema": SCHEMA, "strict": True}
    response = response_of(await api.respond(text={"format": form}))
    assert json.loads(text_of(response)) == {"a": 1}
    assert api.seen.sampling.structured_outputs == StructuredOutputs(json=SCHEMA)
    await api.respond(text={"format": {"type": "json_object"}})
    assert api.seen.sampling.structured_outputs == StructuredOutputs(json_object=True)


async def test_vllms_fields_reach_the_engine(api):
    response_of(await api.respond(top_k=5, stop=["\n"], seed=7, chat_template_kwargs={"enable_thinking": False}))
    sampling = api.seen.sampling
    assert (sampling.top_k, sampling.stop, sampling.seed) == (5, ["\n"], 7)
    assert conversation(api).template_arguments == {"enable_thinking": False}


async def test_the_limit_makes_it_incomplete(api):
    api.script = [delta("Hel"), end(reason=FinishReason.LENGTH), USAGE]
    response = response_of(await api.respond(max_output_tokens=1))
    assert (response["status"], response["incomplete_details"]) == ("incomplete", {"reason": "max_output_tokens"})


async def test_truncation_drops_the_oldest_items():
    short = ResponsesApi()
    short.writer.max_model_len = 400
    items = [{"role": "user", "content": f"{number} " + "x" * 90} for number in range(8)]
    async with responses_serving(short) as api:
        refused = await api.respond(items, max_output_tokens=16)
        assert (error_of(refused)["code"], error_of(refused)["param"]) == ("context_length_exceeded", "input")
        system = {"role": "system", "content": "S"}
        response_of(await api.respond([system, *items], truncation="auto", max_output_tokens=16))
        contents = [str(message.content) for message in conversation(api).messages]
        assert [content[0] for content in contents] == ["S", "5", "6", "7"]


async def test_unknown_tools_and_fields_are_passed_over_and_reported(api):
    answer = await api.respond(
        [{"role": "user", "content": "Hi", "zz_item": 1}, {"type": "web_search_call", "id": "ws_1"}],
        tools=[{"type": "web_search"}, FUNCTION | {"zz_tool": 1}, {"type": "namespace", "name": "n", "tools": []}],
        zz_body=1,
    )
    response = response_of(answer)
    assert [tool["name"] for tool in response["tools"]] == ["look"]
    ignored = set(answer.headers["x-memoria-ignored"].split(", "))
    assert ignored == {
        "zz_body", "input[0].zz_item", "input[1] (web_search_call)", "tools[0] (web_search)", "tools[1].zz_tool",
        "tools[2] (namespace)",
    }  # fmt: skip


async def test_a_failure_in_mid_stream_is_an_event(api):
    api.script = [delta("Hel"), BackendTimeoutError("It took too long.")]
    events = events_of(await api.respond(stream=True))
    assert events[-1]["type"] == "response.failed"
    assert events[-1]["response"]["error"] == {"code": "server_error", "message": "It took too long."}
    assert text_of(events[-1]["response"]) == "Hel"
    assert [event["type"].removeprefix("response.") for event in events[4:]] == [
        "output_text.delta", "output_text.done", "content_part.done", "output_item.done", "failed",
    ]  # fmt: skip
    assert [event["sequence_number"] for event in events] == list(range(len(events)))


async def test_an_unexpected_failure_in_mid_stream_is_an_error(api):
    api.script = [delta("Hel"), ZeroDivisionError()]
    events = events_of(await api.respond(stream=True))
    assert [event["type"] for event in events[-2:]] == ["error", "response.failed"]
    assert [event["sequence_number"] for event in events] == list(range(len(events)))


async def test_a_failure_before_the_first_event_has_its_own_status(api):
    api.script = [BackendTimeoutError("It took too long.")]
    assert (await api.respond(stream=True)).status_code == 504
    assert (await api.respond()).status_code == 504


async def test_a_failure_after_a_comment_ends_a_response_that_was_in_progress():
    async def generate(_request: Any, *, streams: bool) -> AsyncGenerator[Any, None]:
        await asyncio.sleep(0.05)
        if streams:
            raise BackendTimeoutError("It took too long.")
        yield

    async with responses_serving(keep_alive_s=0.01) as api:
        api.writer._generate = generate  # type: ignore[method-assign]
        answer = await api.respond(stream=True)
    assert answer.status_code == 200
    data = [line.removeprefix("data: ") for line in answer.text.split("\n") if line.startswith("data: ")]
    events = [json.loads(event) for event in data]
    assert [(event["type"], event["response"]["status"]) for event in events] == [
        ("response.created", "in_progress"),
        ("response.in_progress", "in_progress"),
        ("response.failed", "failed"),
    ]
    assert [event["sequence_number"] for event in events] == [0, 1, 2]


async def test_a_client_that_leaves_ends_the_generation(api):
    api.script = ()
    api.writer.delay_s = NEVER_S
    leaving = Leaving({"model": "fake-write", "input": "Hi", "stream": True})
    scope: dict[str, Any] = {
        "type": "http", "method": "POST", "path": RESPONSES, "raw_path": RESPONSES.encode(), "query_string": b"",
        "headers": leaving.headers, "http_version": "1.1",
    }  # fmt: skip
    task = asyncio.create_task(api.app(scope, leaving.receive, leaving.send))
    await until(lambda: api.writer.running == 1)
    leaving.leave.set()
    await task
    assert api.writer.running == 0


class Blocked(Leaving):
    """A client that leaves while a certain part of its answer is sent to it."""

    def __init__(self, body: dict[str, Any], part: bytes) -> None:
        super().__init__(body)
        self._part = part

    async def send(self, message: dict[str, Any]) -> None:
        await super().send(message)
        if self._part in message.get("body", b""):
            self.leave.set()
            await asyncio.Event().wait()

    @property
    def response_id(self) -> str:
        body = b"".join(message.get("body", b"") for message in self.sent)
        return str(json.loads(body.split(b"\n")[1].removeprefix(b"data: "))["response"]["id"])


@pytest.mark.parametrize(
    ("part", "status"),
    [
        (b"response.output_text.delta", "cancelled"),
        (b"response.output_item.done", "completed"),
        (b"response.completed", "completed"),
    ],
)
async def test_a_complete_response_stays_so_when_its_client_leaves(tmp_path, part, status):
    async with stored_serving(tmp_path) as api:
        api.script = SAYS_HELLO
        state = api.app.responses.state
        assert state is not None
        finish, ends = state.finish, []

        async def counted(response: StoredResponse) -> None:
            await finish(response)
            ends.append(response.status)

        state.finish = counted  # type: ignore[method-assign]
        client = Blocked({"model": "fake-write", "input": "Hi", "stream": True}, part)
        await client.call(api.app, RESPONSES)
        await eventually(lambda: bool(ends))
        answer = await api.http.get(f"{RESPONSES}/{client.response_id}")
        assert answer.json()["status"] == status
        continued = await api.respond("And?", previous_response_id=client.response_id)
        assert continued.status_code == (200 if status == "completed" else 400)
    # The store is closed, so no other end is to come.
    assert ends[0] == status
    assert len(ends) == (2 if status == "completed" else 1)


async def test_tokens_are_counted_without_generating(api):
    answer = await api.http.post(f"{RESPONSES}/input_tokens", json={"model": "fake-write", "input": "abc"})
    assert answer.json() == {"object": "response.input_tokens", "input_tokens": len("user: abc\nassistant:")}


async def test_a_conversation_is_compacted(api):
    items = [{"role": "user", "content": "We met."}, {"role": "assistant", "content": "Where?"}]
    answer = await api.http.post(f"{RESPONSES}/compact", json={"model": "fake-write", "input": items})
    compaction = answer.json()
    assert (compaction["object"], compaction["usage"]["output_tokens"]) == ("response.compaction", 5)
    kept, summary = compaction["output"]
    assert (kept["content"], summary["type"]) == ([{"type": "input_text", "text": "We met."}], "compaction")
    assert "Summarize" in str(conversation(api).messages[-1].content)
    response_of(await api.respond([*compaction["output"], {"role": "user", "content": "Go on."}]))
    assert [message.content for message in conversation(api).messages] == [
        "We met.", "Summary of the conversation so far:\n\nHello.", "Go on.",
    ]  # fmt: skip


async def test_a_summary_without_text_is_its_reasoning(api):
    api.script = [delta("\n", reasoning="We met."), end(), USAGE]
    answer = await api.http.post(f"{RESPONSES}/compact", json={"model": "fake-write", "input": "Hi"})
    assert unseal(answer.json()["output"][-1]["encrypted_content"]) == "We met."


@pytest.mark.parametrize("stream", [False, True])
async def test_a_trigger_at_the_end_compacts_the_conversation(api, stream):
    items = [{"role": "user", "content": "We met."}, {"type": "compaction_trigger"}]
    answer = await api.respond(items, stream=stream, tools=[FUNCTION])
    response = events_of(answer)[-1]["response"] if stream else response_of(answer)
    (item,) = response["output"]
    assert (item["type"], unseal(item["encrypted_content"])) == ("compaction", "Hello.")
    assert "Summarize" in str(conversation(api).messages[-1].content)
    assert not conversation(api).tools


@pytest.mark.parametrize(
    ("more", "param", "code"),
    [
        ({"model": "other"}, "model", "model_not_found"),
        ({"model": 5}, "model", "invalid_type"),
        ({"input": None}, "input", "missing_required_parameter"),
        ({"input": []}, "input", "missing_required_parameter"),
        ({"input": 5}, "input", "invalid_type"),
        ({"input": [{"role": "user", "content": 5}]}, "input[0].content", "invalid_type"),
        ({"input": [{"role": "user"}]}, "input[0].content", "missing_required_parameter"),
        ({"input": [{"id": "msg_1"}]}, "input[0].id", None),
        ({"tools": [{"type": "function"}]}, "tools[0].name", "missing_required_parameter"),
        ({"tools": [FUNCTION], "tool_choice": {"type": "function", "name": "x"}}, "tool_choice", "invalid_value"),
        ({"tools": [{"type": "web_search"}], "tool_choice": "required"}, "tool_choice", "invalid_value"),
        ({"max_output_tokens": 0}, "max_output_tokens", "integer_below_min_value"),
        ({"temperature": 3}, "temperature", "invalid_value"),
        ({"top_logprobs": 21}, "top_logprobs", "invalid_value"),
        ({"stream_options": {}}, "stream_options", None),
        ({"prompt": {"id": "p"}}, "prompt", "unsupported_parameter"),
        ({"moderation": {"model": "m"}}, "moderation", "unsupported_parameter"),
        ({"store": False, "background": True}, "background", None),
        (
            {"previous_response_id": "a", "conversation": "b"},
            "previous_response_id",
            "invalid_parameter_combination",
        ),
        ({"conversation": "conv_1"}, "conversation", None),
        ({"metadata": {"a": 5}}, "metadata[...]", "invalid_type"),
        ({"text": {"format": {"type": "xml"}}}, "text.format.type", "invalid_value"),
    ],
)
async def test_what_is_refused(api, more, param, code):
    answer = await api.respond(**more)
    assert answer.status_code in (400, 404)
    error = error_of(answer)
    assert error["param"] == param, error
    if code is not None:
        assert error["code"] == code


async def test_strict_tools_refuse_what_is_unknown():
    async with responses_serving(settings={"STRICT_TOOLS": "true"}) as api:
        for more, param in [
            ({"tools": [{"type": "web_search"}]}, "tools[0].type"),
            ({"zz": 1}, "zz"),
            ({"input": [{"type": "web_search_call"}]}, "input[0].type"),
            ({"input": [{"role": "user", "content": "x", "zz": 1}]}, "input[0].zz"),
        ]:
            answer = await api.respond(**more)
            assert (answer.status_code, error_of(answer)["param"]) == (400, param)


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", f"{RESPONSES}/resp_1"),
        ("GET", f"{RESPONSES}/resp_1?stream=true"),
        ("DELETE", f"{RESPONSES}/resp_1"),
        ("POST", f"{RESPONSES}/resp_1/cancel"),
        ("GET", f"{RESPONSES}/resp_1/input_items"),
        ("GET", "/v1/conversations/conv_1"),
        ("DELETE", "/v1/conversations/conv_1"),
        ("GET", "/v1/conversations/conv_1/items"),
        ("GET", "/v1/conversations/conv_1/items/msg_1"),
        ("DELETE", "/v1/conversations/conv_1/items/msg_1"),
    ],
)
async def test_nothing_is_found_without_a_store(api, method, path):
    answer = await api.http.request(method, path)
    assert answer.status_code == 404
    assert "STATE is off" in error_of(answer)["message"]


@pytest.mark.parametrize("query", ["stream=x", "starting_after=a", "stream=true&starting_after=1.5"])
async def test_a_mistyped_query_is_refused(api, query):
    answer = await api.http.get(f"{RESPONSES}/resp_1?{query}")
    assert answer.status_code == 400
    assert error_of(answer)["param"] in query
