"""Items of the Responses API as the messages of a conversation."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from domain.conversation import AssistantMessage, DeveloperMessage, SystemMessage, ToolMessage, UserMessage
from domain.errors import InvalidRequestError
from domain.openai.responses.conversation import SUMMARY, to_messages
from domain.openai.responses.items import ItemReference, MessageItem, read_items, stored_item
from domain.openai.responses.sealing import seal, unseal
from tests.unit.responses_parts import body, decode, items, refuse

USER = {"role": "user", "content": "hi"}
CALL = {"type": "function_call", "call_id": "c1", "name": "f", "arguments": '{"a":1}'}
OUTPUT = {"type": "function_call_output", "call_id": "c1", "output": "42"}


def test_each_role_becomes_a_message_of_that_role():
    values = [{"role": role, "content": role} for role in ("system", "developer", "user", "assistant")]
    assert to_messages(items(*values), "be brief") == [
        SystemMessage(content="be brief"),
        SystemMessage(content="system"),
        DeveloperMessage(content="developer"),
        UserMessage(content="user"),
        AssistantMessage(content="assistant"),
    ]


def test_text_parts_are_joined_and_a_refusal_is_text():
    parts = [{"type": "output_text", "text": "a", "annotations": []}, {"type": "refusal", "refusal": "b"}]
    message = {"type": "message", "role": "assistant", "content": parts, "id": "msg_1", "status": "completed"}
    user = {"role": "user", "content": [{"type": "input_text", "text": "x"}, {"type": "input_text", "text": "y"}]}
    assert to_messages(items(user, message)) == [UserMessage(content="xy"), AssistantMessage(content="ab")]


def test_reasoning_text_and_calls_of_one_answer_are_one_message():
    reasoning = {"type": "reasoning", "summary": [], "content": [{"type": "reasoning_text", "text": "think"}]}
    said = {"role": "assistant", "content": "I look."}
    second = CALL | {"call_id": "c2", "name": "g"}
    answers = [OUTPUT, OUTPUT | {"call_id": "c2", "output": [{"type": "input_text", "text": "43"}]}]
    (user, assistant, *tools) = to_messages(items(USER, reasoning, said, CALL, second, *answers))
    assert user == UserMessage(content="hi")
    assert isinstance(assistant, AssistantMessage)
    assert (assistant.reasoning, assistant.content) == ("think", "I look.")
    assert [(call.id, call.function.name, call.function.arguments) for call in assistant.tool_calls or []] == [
        ("c1", "f", '{"a":1}'),
        ("c2", "g", '{"a":1}'),
    ]
    assert tools == [
        ToolMessage(content="42", tool_call_id="c1"),
        ToolMessage(content="43", tool_call_id="c2"),
    ]


def test_one_answer_after_another_stays_two_messages():
    first = {"type": "reasoning", "summary": [{"type": "summary_text", "text": "one"}]}
    again = {"type": "reasoning", "summary": [], "encrypted_content": seal("two")}
    messages = to_messages(items(USER, first, CALL, OUTPUT, again, {"role": "assistant", "content": "done"}))
    assert [type(message).__name__ for message in messages] == [
        "UserMessage", "AssistantMessage", "ToolMessage", "AssistantMessage",
    ]  # fmt: skip
    assert [getattr(message, "reasoning", None) for message in messages] == [None, "one", None, "two"]


@pytest.mark.parametrize(
    "between",
    [
        {"role": "assistant", "content": "And then"},
        {"type": "reasoning", "summary": [{"type": "summary_text", "text": "And then"}]},
    ],
)
def test_outputs_follow_the_message_of_their_calls(between):
    second = CALL | {"call_id": "c2"}
    messages = to_messages(items(CALL, between, second, OUTPUT, OUTPUT | {"call_id": "c2"}))
    assert [type(message).__name__ for message in messages] == ["AssistantMessage", "ToolMessage", "ToolMessage"]
    assert isinstance(messages[0], AssistantMessage)
    assert [call.id for call in messages[0].tool_calls or []] == ["c1", "c2"]
    assert "And then" in (messages[0].content, messages[0].reasoning)


def test_reasoning_of_another_service_is_ignored():
    foreign = {"type": "reasoning", "summary": [], "encrypted_content": "gAAAA"}
    (assistant,) = to_messages(items(foreign, {"role": "assistant", "content": "x"}))
    assert assistant == AssistantMessage(content="x")


def test_a_custom_call_is_a_call_with_one_text_argument():
    call = {"type": "custom_tool_call", "call_id": "c1", "name": "patch", "input": 'a "b"\n'}
    output = {"type": "custom_tool_call_output", "call_id": "c1", "output": "ok"}
    (assistant, tool) = to_messages(items(call, output))
    assert isinstance(assistant, AssistantMessage)
    assert json.loads((assistant.tool_calls or [])[0].function.arguments) == {"input": 'a "b"\n'}
    assert tool == ToolMessage(content="ok", tool_call_id="c1")


def test_a_compaction_is_a_summary():
    (message,) = to_messages(items({"type": "compaction", "encrypted_content": seal("we met")}))
    assert message == UserMessage(content=f"{SUMMARY}we met")


@pytest.mark.parametrize("content", ["", "gAAAA", "memoria-1:?"])
def test_a_compaction_of_another_service_is_refused(content):
    with pytest.raises(InvalidRequestError, match="only compactions that this service has made") as refused:
        items(USER, {"type": "compaction", "encrypted_content": content})
    assert refused.value.param == "input[1].encrypted_content"


@given(st.text())
def test_sealed_text_can_be_read_again(text):
    try:
        text.encode()
    except UnicodeEncodeError:
        return
    assert unseal(seal(text)) == text


@pytest.mark.parametrize(
    ("values", "problem"),
    [
        ([USER, OUTPUT], "No tool call found"),
        ([OUTPUT, CALL], "No tool call found"),
        ([USER, CALL], "No tool output found for function call c1"),
        ([USER, CALL, USER], "No tool output found"),
        ([{"type": "custom_tool_call", "call_id": "c9", "name": "p", "input": ""}], "custom tool call c9"),
    ],
)
def test_calls_and_outputs_belong_together(values, problem):
    with pytest.raises(InvalidRequestError, match=problem) as refused:
        to_messages(items(*values))
    assert refused.value.param == "input"


@pytest.mark.parametrize("values", [[CALL], [OUTPUT]])
def test_an_error_shows_the_start_of_a_long_id(values):
    with pytest.raises(InvalidRequestError) as refused:
        to_messages(items(*[value | {"call_id": "c" * 1000} for value in values]))
    assert "c" * 100 in refused.value.message
    assert "c" * 101 not in refused.value.message


@pytest.mark.parametrize(
    ("values", "problem"),
    [
        ([CALL, OUTPUT, OUTPUT], "Two tool outputs have the call_id c1"),
        ([OUTPUT, OUTPUT], "Two tool outputs have the call_id c1"),
        ([CALL, CALL, OUTPUT], "Two tool calls have the call_id c1"),
    ],
)
def test_a_request_has_each_open_call_and_output_once(values, problem):
    with pytest.raises(InvalidRequestError, match=problem) as refused:
        body(input=values).read_input(decode, refuse)
    assert refused.value.param == "input"


def test_the_id_of_an_answered_call_can_be_used_again():
    read = body(input=[CALL, OUTPUT, CALL, OUTPUT]).read_input(decode, refuse)
    assert [type(message).__name__ for message in to_messages(read)] == ["AssistantMessage", "ToolMessage"] * 2


def test_stored_items_can_be_sent_again():
    again = body(input=[CALL, OUTPUT]).read_input(decode, refuse)
    assert len(to_messages([*items(CALL, OUTPUT), *again])) == 4


@pytest.mark.parametrize(
    ("value", "param"),
    [
        (5, "input[0]"),
        ({"type": 5}, "input[0].type"),
        ({"type": "web_search_call"}, "input[0]"),
        ({"role": "user"}, "input[0]"),
        ({"role": "tool", "content": "x"}, "input[0]"),
        ({"role": "user", "content": [{"type": "input_image", "image_url": "u"}]}, "input[0].content[0]"),
        ({"role": "user", "content": [{"type": "input_file", "file_id": "u"}]}, "input[0].content[0]"),
        (OUTPUT | {"output": [{"type": "input_image", "image_url": "u"}]}, "input[0].output[0]"),
    ],
)
def test_an_invalid_item_is_refused_by_its_place(value, param):
    with pytest.raises(InvalidRequestError) as refused:
        items(value)
    assert refused.value.param == param


def test_an_id_alone_is_a_reference():
    assert read_items([b'{"id": "msg_1"}'], decode, refuse) == [ItemReference(id="msg_1")]


def test_a_stored_message_has_an_id_a_status_and_parts():
    (message,) = items(USER)
    stored = stored_item(message)
    assert stored.id.startswith("msg_")
    assert json.loads(stored.data) == {
        "id": stored.id,
        "type": "message",
        "role": "user",
        "content": [{"type": "input_text", "text": "hi"}],
        "status": "completed",
    }


def test_a_stored_item_keeps_its_id_and_can_be_read_again():
    (message,) = items({"role": "assistant", "content": "x", "id": "msg_7"})
    stored = stored_item(message)
    assert stored.id == "msg_7"
    (again,) = read_items([stored.data], decode, refuse)
    assert isinstance(again, MessageItem)
    assert to_messages([again]) == [AssistantMessage(content="x")]
