"""Anthropic's messages as the domain's conversation."""

import itertools
import json
from operator import attrgetter
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from adapters.vllm.dialect.request_fields import conversation_fields
from app.http.codec import BodyDecoder
from domain.anthropic.blocks import (
    DocumentBlock,
    ImageBlock,
    RedactedThinkingBlock,
    TextBlock,
    ThinkingBlock,
    ToolResultBlock,
    ToolUseBlock,
)
from domain.anthropic.messages import (
    CountTokensBody,
    MessagesBody,
    OutputConfig,
    ThinkingAdaptive,
    ThinkingDisabled,
    ThinkingEnabled,
)
from domain.anthropic.tools import AnyToolChoice, MessagesTool, NamedToolChoice
from domain.conversation import (
    AssistantMessage,
    Conversation,
    FunctionCall,
    SystemMessage,
    ToolCall,
    ToolMessage,
    UserMessage,
)
from domain.errors import InvalidRequestError
from domain.openai.tool_turns import check_tool_turns
from tests.unit.messages_serving import TOOL
from tests.unit.sdks import anthropic

decoder = BodyDecoder(MessagesBody)
CALL = {"type": "tool_use", "id": "c1", "name": "look", "input": {"at": "x", "n": [1, None]}}
CALLED = ToolCall(id="c1", function=FunctionCall(name="look", arguments='{"at":"x","n":[1,null]}'))
ANOTHER_CALL = CALL | {"id": "c2"}
CALLING = AssistantMessage(content=None, tool_calls=[CALLED])
CALLING_TWICE = AssistantMessage(content=None, tool_calls=[CALLED, msgspec.structs.replace(CALLED, id="c2")])


def text(value: str) -> dict[str, Any]:
    return {"type": "text", "text": value}


def turn(role: str, *content: Any) -> dict[str, Any]:
    is_text = bool(content) and isinstance(content[0], str)
    return {"role": role, "content": content[0] if is_text else list(content)}


def user(*content: Any) -> dict[str, Any]:
    return turn("user", *content)


def assistant(*content: Any) -> dict[str, Any]:
    return turn("assistant", *content)


def result(content: Any = None, **more: Any) -> dict[str, Any]:
    return {"type": "tool_result", "tool_use_id": "c1", "content": content, **more}


def conversation(*messages: dict[str, Any], **more: Any) -> Conversation:
    body = {"model": "m", "max_tokens": 8, "messages": list(messages), **more}
    return decoder.decode(json.dumps(body).encode()).to_conversation()


CASES: dict[str, tuple[list[dict[str, Any]], list[Any]]] = {
    "a text": ([user("a")], [UserMessage(content="a")]),
    "texts": ([user(text("a"), text("b"))], [UserMessage(content="a\nb")]),
    "an empty text": ([user("")], [UserMessage(content="")]),
    "turns of one role": ([user("a"), user(text("b")), user("c")], [UserMessage(content="a\nb\nc")]),
    "instructions in between": (
        [user("a"), {"role": "system", "content": "s"}, {"role": "system", "content": [text("t")]}, user("b")],
        [UserMessage(content="a"), SystemMessage(content="s\nt"), UserMessage(content="b")],
    ),
    "an answer": (
        [user("a"), assistant("b"), user("c")],
        [UserMessage(content="a"), AssistantMessage(content="b"), UserMessage(content="c")],
    ),
    "an answer in parts": (
        [assistant(text("a"), text("b")), assistant("c"), user("d")],
        [AssistantMessage(content="abc"), UserMessage(content="d")],
    ),
    "reasoning": (
        [
            assistant(
                {"type": "thinking", "thinking": "t", "signature": "s"},
                {"type": "redacted_thinking", "data": "x"},
                text("a"),
            ),
            user("b"),
        ],
        [AssistantMessage(content="a", reasoning="t"), UserMessage(content="b")],
    ),
    "nothing but secrets": (
        [assistant({"type": "redacted_thinking", "data": "x"}), user("b")],
        [AssistantMessage(content=""), UserMessage(content="b")],
    ),
    "a call and its result": (
        [assistant(text("I look."), CALL), user(result("a fox"), text("And?"))],
        [
            AssistantMessage(content="I look.", tool_calls=[CALLED]),
            ToolMessage(content="a fox", tool_call_id="c1"),
            UserMessage(content="And?"),
        ],
    ),
    "a call alone": (
        [assistant(CALL), user(result([text("a"), text("b")]))],
        [AssistantMessage(content=None, tool_calls=[CALLED]), ToolMessage(content="a\nb", tool_call_id="c1")],
    ),
    "two results": (
        [assistant(CALL, ANOTHER_CALL), user(result("b", tool_use_id="c2"), result("a"))],
        [
            CALLING_TWICE,
            ToolMessage(content="b", tool_call_id="c2"),
            ToolMessage(content="a", tool_call_id="c1"),
        ],
    ),
    "calls in turn": (
        [assistant(CALL), user(result("a")), assistant(ANOTHER_CALL), user(result("b", tool_use_id="c2"))],
        [
            CALLING,
            ToolMessage(content="a", tool_call_id="c1"),
            AssistantMessage(content=None, tool_calls=[msgspec.structs.replace(CALLED, id="c2")]),
            ToolMessage(content="b", tool_call_id="c2"),
        ],
    ),
    "a result between texts": (
        [assistant(CALL), user(text("a"), result("b"), text("c"))],
        [CALLING, ToolMessage(content="b", tool_call_id="c1"), UserMessage(content="a\nc")],
    ),
    "a result after another turn": (
        [assistant(CALL), user("a"), user(result("b"))],
        [CALLING, ToolMessage(content="b", tool_call_id="c1"), UserMessage(content="a")],
    ),
    "results in several turns": (
        [assistant(CALL, ANOTHER_CALL), user(result("a")), user(text("c"), result("b", tool_use_id="c2"))],
        [
            CALLING_TWICE,
            ToolMessage(content="a", tool_call_id="c1"),
            ToolMessage(content="b", tool_call_id="c2"),
            UserMessage(content="c"),
        ],
    ),
    "instructions before a result": (
        [assistant(CALL), {"role": "system", "content": "s"}, user(result("b"), text("c"))],
        [
            CALLING,
            ToolMessage(content="b", tool_call_id="c1"),
            SystemMessage(content="s"),
            UserMessage(content="c"),
        ],
    ),
    "no result": ([assistant(CALL), user(result())], [CALLING, ToolMessage(content="", tool_call_id="c1")]),
    "an empty result": (
        [assistant(CALL), user(result([]))],
        [CALLING, ToolMessage(content="", tool_call_id="c1")],
    ),
    "a failure": (
        [assistant(CALL), user(result("no such place", is_error=True))],
        [CALLING, ToolMessage(content="Error: no such place", tool_call_id="c1")],
    ),
    "no failure": (
        [assistant(CALL), user(result("x", is_error=False))],
        [CALLING, ToolMessage(content="x", tool_call_id="c1")],
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_messages_are_translated(case):
    given_messages, expected = CASES[case]
    assert conversation(*given_messages).messages == expected


def refusal(*messages: dict[str, Any]) -> InvalidRequestError:
    with pytest.raises(InvalidRequestError) as caught:
        conversation(*messages)
    assert (caught.value.status, caught.value.code) == (400, "invalid_value")
    return caught.value


@pytest.mark.parametrize(
    "before",
    [
        [],
        [assistant("a")],
        [assistant(ANOTHER_CALL), user(result(tool_use_id="c2"))],
        [assistant(CALL), user(result("a")), assistant("b")],
    ],
    ids=["first", "after a text", "of another call", "of an earlier message"],
)
def test_a_result_without_a_call_before_it_is_refused(before):
    error = refusal(*before, user(text("a"), result("b")))
    assert error.param == f"messages[{len(before)}].content[1].tool_use_id"
    assert "'c1' is not the id of a 'tool_use' block in the assistant message before" in error.message


@pytest.mark.parametrize(
    "after",
    [
        [],
        [user("a")],
        [user(result(tool_use_id="c2"), text("a"))],
        [{"role": "system", "content": "s"}],
        [user("a"), assistant("b"), user(result("too late"))],
    ],
    ids=["last", "a text", "one of two", "instructions", "too late"],
)
def test_a_call_without_a_result_before_the_next_answer_is_refused(after):
    error = refusal(user("a"), assistant(text("I look."), CALL, ANOTHER_CALL), *after)
    assert error.param == "messages[1].content[1]"
    assert "'tool_use' blocks have no 'tool_result' block in the next message: 'c1'" in error.message


@pytest.mark.parametrize("system", ["s", [text("s")], [text("x-anthropic-billing-header: cch=1"), text("s")]])
def test_the_system_prompt_comes_first(system):
    assert conversation(user("a"), system=system).messages == [
        SystemMessage(content="s"),
        UserMessage(content="a"),
    ]


@pytest.mark.parametrize("system", ["", [], [text("x-anthropic-billing-header: cch=1")], None])
def test_without_a_system_prompt_there_is_no_message(system):
    assert conversation(user("a"), system=system).messages == [UserMessage(content="a")]


def test_the_last_answer_is_continued():
    told = conversation(user("a"), assistant("The answer is ("))
    assert (told.continue_final_message, told.add_generation_prompt) == (True, False)
    assert told.messages[-1] == AssistantMessage(content="The answer is (")


@pytest.mark.parametrize("last", [assistant(""), assistant(), assistant({"type": "thinking", "thinking": "t"})])
def test_an_empty_answer_is_not_continued(last):
    told = conversation(user("a"), last)
    assert (told.continue_final_message, told.add_generation_prompt) == (False, True)
    assert told.messages == [UserMessage(content="a")]


@pytest.mark.parametrize(
    ("thinking", "arguments", "included"),
    [
        (None, None, True),
        ({"type": "adaptive"}, None, True),
        ({"type": "between_tools"}, None, True),
        ({"type": "enabled", "budget_tokens": 1}, {"enable_thinking": True, "thinking": True}, True),
        ({"type": "disabled"}, {"enable_thinking": False, "thinking": False}, False),
        ({"type": "adaptive", "display": "omitted"}, None, False),
    ],
)
def test_thinking_is_left_to_the_chat_template(thinking, arguments, included):
    told = conversation(user("a"), thinking=thinking)
    assert (told.template_arguments, told.include_reasoning) == (arguments, included)


def test_the_field_of_each_schema_is_named():
    tools = [TOOL, {**TOOL, "name": "x" * 128, "input_schema": {}, "type": None}]
    told = conversation(user("a"), tools=tools)
    assert told.tool_params == ["tools[0].input_schema", "tools[1].input_schema"]
    assert [function.parameters for function in told.tools] == [
        TOOL["input_schema"],
        {"type": "object", "properties": {}},
    ]
    body = {"model": "m", "max_tokens": 8, "messages": [user("a")]}
    body |= {"output_config": {"format": {"type": "json_schema", "schema": {"type": "object"}}}}
    decoded = decoder.decode(json.dumps(body).encode())
    sampling = decoded.to_request(decoded.to_conversation()).sampling
    assert sampling.structured_outputs_param == "output_config.format.schema"


def test_many_turns_of_one_role_take_no_quadratic_time():
    told = conversation(*[user("a")] * 20_000)
    assert len(told.messages) == 1


def test_a_body_to_count_is_a_body_to_generate_without_sampling():
    common = set(CountTokensBody.__struct_fields__)
    assert common < set(MessagesBody.__struct_fields__)
    body = {"model": "m", "messages": [user("a")], "tools": [TOOL], "system": "s"}
    counted = msgspec.convert(body, CountTokensBody).to_tokenize_request().prompt
    assert counted == conversation(user("a"), tools=[TOOL], system="s")


# The fields of Anthropic's SDK, apart from those that it sends as headers.
HEADERS = {"user_profile_id", "workspace_id"}
SDK = {
    MessagesBody: "message_create_params.MessageCreateParamsBase",
    CountTokensBody: "MessageCountTokensParams",
    MessagesTool: "ToolParam",
    OutputConfig: "OutputConfigParam",
    ThinkingEnabled: "ThinkingConfigEnabledParam",
    ThinkingAdaptive: "ThinkingConfigAdaptiveParam",
    ThinkingDisabled: "ThinkingConfigDisabledParam",
    NamedToolChoice: "ToolChoiceToolParam",
    AnyToolChoice: "ToolChoiceAnyParam",
    TextBlock: "TextBlockParam",
    ThinkingBlock: "ThinkingBlockParam",
    RedactedThinkingBlock: "RedactedThinkingBlockParam",
    ToolUseBlock: "ToolUseBlockParam",
    ToolResultBlock: "ToolResultBlockParam",
    ImageBlock: "ImageBlockParam",
    DocumentBlock: "DocumentBlockParam",
}


@pytest.mark.parametrize("kind", SDK, ids=lambda kind: kind.__name__)
def test_every_field_of_the_sdk_is_known(kind):
    known = {*kind.__struct_fields__, kind.__struct_config__.tag_field}
    assert set(attrgetter(SDK[kind])(anthropic.types).__annotations__) - HEADERS <= known


texts = st.text(max_size=5)
blocks = st.lists(st.builds(text, texts), max_size=3)
turns = st.one_of(
    st.builds(lambda content: {"role": "user", "content": content}, texts | blocks),
    st.builds(
        lambda parts, call: {"role": "assistant", "content": [*parts, *([CALL] if call else [])]},
        blocks,
        st.booleans(),
    ),
    st.builds(lambda content: {"role": "system", "content": content}, texts | blocks),
    st.builds(lambda content, failed: user(result(content, is_error=failed)), texts | blocks, st.booleans()),
)


@given(messages=st.lists(turns, max_size=5))
def test_every_conversation_is_translated_or_refused(messages):
    try:
        told = conversation(*messages)
    except InvalidRequestError:
        return
    assert told.messages
    roles = [message.__struct_config__.tag for message in told.messages]
    assert all(first != second or first == "tool" for first, second in itertools.pairwise(roles))
    check_tool_turns(told.messages)
    # The adapters' own conversion, with fields for chat templates.
    fields = conversation_fields(told)["messages"]
    assert all(isinstance(message["content"], str) or message.get("tool_calls") for message in fields)
