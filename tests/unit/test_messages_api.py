"""Anthropic's Messages API: answers, streams and token counts, through the application and Anthropic's SDK."""

import asyncio
import json
from collections.abc import AsyncGenerator
from typing import Any

import pytest

from domain.conversation import ToolChoice
from domain.results import FinishReason, ToolCallDelta
from domain.sampling import StructuredOutputs
from tests.unit.messages_serving import (
    HELLO,
    TOOL,
    USAGE,
    MessagesApi,
    delta,
    end,
    events_of,
    joined,
    message_of,
    messages_serving,
)
from tests.unit.observed import observing
from tests.unit.sdks import anthropic
from tests.unit.serving import COUNT_TOKENS, MESSAGES, MESSAGES_BODIES, NEVER_S, Leaving, left
from tests.unit.waiting import until

THINK = [delta(reasoning="Let me "), delta(reasoning="see."), delta("\n\n"), delta("A "), end("fox."), USAGE]
CALL = [
    delta(reasoning="Look."),
    delta("I look."),
    delta(tool_calls=[ToolCallDelta(index=0, id="call-1", name="look", arguments='{"at"')]),
    delta(tool_calls=[ToolCallDelta(index=0, arguments=': "x"}')]),
    delta("\n"),
    delta(tool_calls=[ToolCallDelta(index=1, id="call-2", name="look", arguments='{"at": "y"}')]),
    end(),
    USAGE,
]


@pytest.fixture(scope="module")
async def shared() -> AsyncGenerator[MessagesApi, None]:
    async with messages_serving() as running:
        yield running


@pytest.fixture
def api(shared) -> MessagesApi:
    shared.script = ()
    shared.writer.delay_s = 0.0
    return shared


def without_ids(message: dict[str, Any]) -> dict[str, Any]:
    content = [{**block, "signature": ""} if "signature" in block else block for block in message["content"]]
    return message | {"id": "", "content": content}


# Answers


async def test_an_answer_has_thinking_and_text(api):
    api.script = THINK
    message = message_of(await api.message())
    thinking, text = message["content"]
    assert (thinking["type"], thinking["thinking"]) == ("thinking", "Let me see.")
    assert thinking["signature"]
    assert text == {"type": "text", "text": "\n\nA fox.", "citations": None}
    assert (message["type"], message["role"], message["model"]) == ("message", "assistant", "fake-write")
    assert message["id"].startswith("msg_")
    assert (message["stop_reason"], message["stop_sequence"]) == ("end_turn", None)


async def test_cached_tokens_are_not_input_tokens(api):
    api.script = THINK
    usage = message_of(await api.message())["usage"]
    assert usage["input_tokens"] + usage["cache_read_input_tokens"] == USAGE.prompt_tokens
    assert (usage["cache_read_input_tokens"], usage["cache_creation_input_tokens"]) == (4, 0)
    assert (usage["output_tokens"], usage["output_tokens_details"]) == (5, {"thinking_tokens": 2})


@pytest.mark.parametrize(
    ("last", "reason", "sequence"),
    [
        (end("x"), "end_turn", None),
        (end("x", FinishReason.LENGTH), "max_tokens", None),
        (end("x", stop_sequence="END"), "stop_sequence", "END"),
        (end(tool_calls=[ToolCallDelta(index=0, id="c", name="look", arguments="{}")]), "tool_use", None),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
async def test_an_answer_says_why_it_ended(api, last, reason, sequence, stream):
    api.script = [last, USAGE]
    response = await api.message(stream=stream)
    message = joined(events_of(response.text)) if stream else message_of(response)
    assert (message["stop_reason"], message["stop_sequence"]) == (reason, sequence)


async def test_calls_are_blocks_with_their_input(api):
    api.script = CALL
    message = message_of(await api.message(tools=[TOOL]))
    assert [block["type"] for block in message["content"]] == ["thinking", "text", "tool_use", "tool_use"]
    assert [(block["id"], block["name"], block["input"]) for block in message["content"][2:]] == [
        ("call-1", "look", {"at": "x"}),
        ("call-2", "look", {"at": "y"}),
    ]
    assert message["stop_reason"] == "tool_use"


@pytest.mark.parametrize("stream", [False, True])
async def test_parallel_calls_can_be_switched_off(api, stream):
    api.script = CALL
    choice = {"type": "auto", "disable_parallel_tool_use": True}
    response = await api.message(tools=[TOOL], tool_choice=choice, stream=stream)
    message = joined(events_of(response.text)) if stream else message_of(response)
    assert [block["id"] for block in message["content"] if block["type"] == "tool_use"] == ["call-1"]


@pytest.mark.parametrize("arguments", ['{"at": "x', "[1]", "null", "no JSON", '{"a": 1e999'])
async def test_a_call_without_a_json_object_is_an_answer_nevertheless(api, arguments):
    call = ToolCallDelta(index=0, id="c", name="look", arguments=arguments)
    api.script = [end(reason=FinishReason.LENGTH, tool_calls=[call]), USAGE]
    (block,) = message_of(await api.message(tools=[TOOL]))["content"]
    assert block["input"] == {"INVALID_JSON": arguments}


async def test_a_call_without_arguments_has_an_empty_input(api):
    api.script = [end(tool_calls=[ToolCallDelta(index=0, id=None, name="look", arguments="")]), USAGE]
    (block,) = message_of(await api.message(tools=[TOOL]))["content"]
    assert block["input"] == {}
    assert block["id"].startswith("toolu_")


@pytest.mark.parametrize(
    "thinking",
    [
        {"type": "disabled"},
        {"type": "adaptive", "display": "omitted"},
        {"type": "enabled", "budget_tokens": 1024, "display": "omitted"},
    ],
)
@pytest.mark.parametrize("stream", [False, True])
async def test_thinking_that_is_not_wanted_is_not_returned(api, thinking, stream):
    api.script = THINK
    response = await api.message(thinking=thinking, stream=stream)
    message = joined(events_of(response.text)) if stream else message_of(response)
    assert [block["type"] for block in message["content"]] == ["text"]
    assert "thinking_tokens" in message["usage"]["output_tokens_details"]


@pytest.mark.parametrize(
    "thinking",
    [{"type": "enabled", "budget_tokens": 2000}, {"type": "adaptive", "display": "summarized"},
     {"type": "between_tools"}],
)  # fmt: skip
async def test_thinking_is_returned_otherwise(api, thinking):
    api.script = THINK
    message = message_of(await api.message(thinking=thinking))
    assert [block["type"] for block in message["content"]] == ["thinking", "text"]


# What reaches the engine


async def test_the_engine_gets_the_same_request_as_for_chat(api):
    schema = {"type": "object", "properties": {}, "required": []}
    message_of(
        await api.message(
            system="Be brief.",
            temperature=0.5,
            top_p=0.9,
            top_k=5,
            stop_sequences=["z"],
            output_config={"effort": "low", "format": {"type": "json_schema", "schema": schema}},
            thinking={"type": "disabled"},
        )
    )
    sampling, conversation = api.seen.sampling, api.seen.prompt
    assert (sampling.temperature, sampling.top_p, sampling.top_k, sampling.stop) == (0.5, 0.9, 5, ["z"])
    assert (sampling.max_tokens, sampling.n) == (8, 1)
    assert sampling.structured_outputs == StructuredOutputs(json=schema)
    assert conversation.reasoning_effort == "low"
    assert conversation.template_arguments == {"enable_thinking": False, "thinking": False}
    assert [message.content for message in conversation.messages] == ["Be brief.", "Hello"]


@pytest.mark.parametrize(
    ("choice", "kind", "name", "strict"),
    [
        (None, ToolChoice.AUTO, None, None),
        ({"type": "auto"}, ToolChoice.AUTO, None, None),
        ({"type": "any"}, ToolChoice.REQUIRED, None, True),
        ({"type": "tool", "name": "look"}, ToolChoice.NAMED, "look", True),
    ],
)
async def test_tools_are_the_functions_of_chat(api, choice, kind, name, strict):
    api.script = THINK
    message_of(await api.message(tools=[TOOL], tool_choice=choice))
    conversation = api.seen.prompt
    assert (conversation.tool_choice, conversation.tool_name) == (kind, name)
    assert conversation.tool_params == ["tools[0].input_schema"]
    (function,) = conversation.tools
    assert (function.name, function.description, function.strict) == ("look", "Looks.", strict)
    assert function.parameters == TOOL["input_schema"]


async def test_a_tool_that_must_not_be_called_is_not_shown_to_the_model(api):
    api.script = THINK
    message_of(await api.message(tools=[TOOL], tool_choice={"type": "none"}))
    assert api.seen.prompt.tools == []


async def test_everything_that_has_no_effect_is_accepted(api):
    cache = {"cache_control": {"type": "ephemeral", "ttl": "1h"}}
    block = {"type": "text", "text": "x", "citations": [], **cache}
    response = await api.message(
        system=[block],
        messages=[{"role": "user", "content": [block]}],
        tools=[{**TOOL, **cache, "type": "custom", "defer_loading": True, "eager_input_streaming": True,
                "input_examples": [{}], "allowed_callers": ["direct"], "strict": False}],
        metadata={"user_id": "u"},
        service_tier="auto",
        context_management={"edits": []},
        container="c",
        mcp_servers=[],
        inference_geo="us",
        speed="standard",
        diagnostics={},
        **cache,
    )  # fmt: skip
    message_of(response)
    assert "x-memoria-ignored" not in response.headers


# Streams


@pytest.mark.parametrize("script", [THINK, CALL, [end(), USAGE], [end("\n"), USAGE], ()], ids=range(5))
async def test_a_stream_is_the_complete_answer(api, script):
    api.script = script
    # The fake's own letters depend on the prompt alone.
    more = {"tools": [TOOL], "temperature": 0}
    message = message_of(await api.message(**more))
    response = await api.message(stream=True, **more)
    assert response.headers["content-type"].startswith("text/event-stream")
    events = events_of(response.text)
    whole, parts = without_ids(message), without_ids(joined(events))
    for block in whole["content"] + parts["content"]:
        # White space between blocks belongs to none.
        block["text"] = block.get("text", "").strip()
    assert parts == whole
    start = events[0]["message"]
    assert (start["content"], start["stop_reason"], start["usage"]["output_tokens"]) == ([], None, 0)


async def test_thinking_ends_with_its_signature(api):
    api.script = THINK
    events = events_of((await api.message(stream=True)).text)
    kinds = [event["delta"]["type"] for event in events if event["type"] == "content_block_delta"]
    assert kinds == ["thinking_delta", "thinking_delta", "signature_delta", "text_delta", "text_delta"]


async def test_a_slow_engine_gets_pings_sent_meanwhile():
    async with messages_serving(keep_alive_s=0.01) as api:
        api.writer.delay_s = 0.035
        response = await api.message(stream=True, max_tokens=2)
        assert response.text.startswith('event: ping\ndata: {"type":"ping"}\n\n')
        assert ": keep-alive" not in response.text
        assert joined(events_of(response.text))["stop_reason"] == "max_tokens"


@pytest.mark.parametrize("stream", [False, True])
async def test_a_client_that_leaves_ends_its_generation(api, stream):
    await left(api, api.writer, MESSAGES, MESSAGES_BODIES[MESSAGES] | {"stream": stream})
    assert api.writer.running == 0


async def test_a_client_that_leaves_in_the_middle_of_a_stream_ends_it(api):
    client = Leaving(MESSAGES_BODIES[MESSAGES] | {"stream": True, "max_tokens": 9})
    call = asyncio.create_task(client.call(api.app, MESSAGES))
    await until(lambda: len(client.sent) > 3)
    api.writer.delay_s = NEVER_S
    client.leave.set()
    await call
    assert api.writer.running == 0
    assert not any(b"message_stop" in message.get("body", b"") for message in client.sent)


# Tokens


async def test_the_tokens_of_a_conversation_are_those_of_its_generation(api):
    body = {"model": "fake-write", "messages": HELLO, "system": "Be brief.", "tools": [TOOL]}
    counted = await api.http.post(COUNT_TOKENS, json=body)
    assert counted.json().keys() == {"input_tokens"}
    usage = message_of(await api.message(system="Be brief.", tools=[TOOL]))["usage"]
    assert counted.json()["input_tokens"] == usage["input_tokens"] > 0
    without = await api.http.post(COUNT_TOKENS, json=body | {"tools": []})
    assert without.json()["input_tokens"] < counted.json()["input_tokens"]


# The SDK


async def test_the_sdk_reads_answers_and_sends_them_back(api):
    async with api.sdk() as client:
        api.script = CALL
        answer = await client.messages.create(model="fake-write", max_tokens=8, messages=HELLO, tools=[TOOL])
        results = [
            {"type": "tool_result", "tool_use_id": block.id, "content": "a fox"}
            for block in answer.content
            if block.type == "tool_use"
        ]
        assert len(results) == 2
        history = [*HELLO, {"role": "assistant", "content": answer.content}, {"role": "user", "content": results}]
        api.script = THINK
        await client.messages.create(model="fake-write", max_tokens=8, messages=history, tools=[TOOL])
    roles = [message.__struct_config__.tag for message in api.seen.prompt.messages]
    assert roles == ["user", "assistant", "tool", "tool"]
    sent = api.seen.prompt.messages[1]
    assert (sent.reasoning, sent.content) == ("Look.", "I look.\n")
    assert [json.loads(call.function.arguments) for call in sent.tool_calls] == [{"at": "x"}, {"at": "y"}]


async def test_the_sdks_tool_runner_sends_whole_conversations(api):
    @anthropic.beta_async_tool
    async def look(at: str) -> str:
        """Looks."""
        api.script = [end("A fox."), USAGE]
        return f"a fox at {at}"

    api.script = [*CALL[2:4], end(), USAGE]
    async with api.sdk() as client:
        runner = client.beta.messages.tool_runner(model="fake-write", max_tokens=8, messages=HELLO, tools=[look])
        message = await runner.until_done()
    assert message.content[0].text == "A fox."
    assert [type(message).__name__ for message in api.seen.prompt.messages] == [
        "UserMessage",
        "AssistantMessage",
        "ToolMessage",
    ]
    assert api.seen.prompt.messages[-1].content == "a fox at x"


async def test_the_sdk_reads_streams(api):
    api.script = CALL
    async with api.sdk() as client:
        manager = client.messages.stream(model="fake-write", max_tokens=8, messages=HELLO, tools=[TOOL])
        async with manager as stream:
            texts = [event.text async for event in stream if isinstance(event, anthropic.lib.streaming.TextEvent)]
            message = await stream.get_final_message()
    assert texts == ["I look."]
    assert [block.type for block in message.content] == ["thinking", "text", "tool_use", "tool_use"]
    assert message.content[2].input == {"at": "x"}
    assert (message.usage.output_tokens, message.usage.cache_read_input_tokens) == (5, 4)


async def test_the_sdk_counts_tokens_and_lists_models(api):
    async with api.sdk() as client:
        counted = await client.messages.count_tokens(model="fake-write", messages=HELLO)
        assert counted.input_tokens > 0
        # The list is OpenAI's, and has the field that matters.
        assert "fake-write" in [model.id async for model in client.models.list()]
        beta = await client.beta.messages.create(
            model="fake-write", max_tokens=4, messages=HELLO, betas=["context-management-2025-06-27"]
        )
        assert beta.usage.output_tokens == 4


async def test_the_sdk_raises_its_own_errors(api):
    async with api.sdk() as client:
        with pytest.raises(anthropic.NotFoundError) as caught:
            await client.messages.create(model="none", max_tokens=8, messages=HELLO)
    assert caught.value.request_id


# Telemetry


async def test_a_message_is_observed_as_a_chat_is():
    async with observing() as api:
        records = []
        for path in (MESSAGES, "/v1/chat/completions"):
            api.listener.forget()
            await api.http.post(path, json=MESSAGES_BODIES[MESSAGES])
            records.append((api.listener.request, api.listener.operation))
    (message, operation), (chat, chat_operation) = records
    assert (message.route, message.status) == (MESSAGES, 200)
    assert (message.operation, message.model, message.role) == (chat.operation, chat.model, chat.role)
    assert (operation.name, operation.prompt_tokens) == (chat_operation.name, chat_operation.prompt_tokens)
