"""Conversations and sampling parameters as vLLM's request fields, compared as JSON."""

from typing import Any

import msgspec
import pytest

from adapters.vllm.dialect.request_fields import conversation_fields, message_fields, sampling_fields
from app.http.codec import encode
from domain.conversation import (
    AssistantMessage,
    Conversation,
    DeveloperMessage,
    Function,
    FunctionCall,
    RefusalPart,
    SystemMessage,
    TextPart,
    ToolCall,
    ToolChoice,
    ToolMessage,
    UserMessage,
)
from domain.sampling import SamplingParameters, StructuredOutputs


def as_json(value: Any) -> Any:
    return msgspec.json.decode(encode(value))


def sampling_json(**fields: Any) -> dict:
    return as_json(sampling_fields(SamplingParameters(**fields)))


def conversation_json(**fields: Any) -> dict:
    return as_json(conversation_fields(Conversation(**{"messages": [UserMessage(content="hi")], **fields})))


def message_json(**fields: Any) -> dict:
    return as_json(message_fields(AssistantMessage(**fields)))


# Sampling


def test_unset_parameters_are_omitted():
    assert sampling_json(max_tokens=None) == {"n": 1, "stop": []}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("max_tokens", 0),
        ("max_tokens", 16),
        ("n", 3),
        ("stop", ["a"]),
        ("temperature", 0.0),
        ("top_p", 0.5),
        ("seed", 0),
        ("presence_penalty", 0.0),
        ("frequency_penalty", -1.0),
        ("top_k", 0),
        ("min_p", 0.0),
        ("repetition_penalty", 1.0),
        ("min_tokens", 0),
        ("stop_token_ids", []),
        ("allowed_token_ids", [1]),
        ("bad_words", ["x"]),
        ("ignore_eos", False),
        ("include_stop_str_in_output", False),
        ("skip_special_tokens", False),
        ("spaces_between_special_tokens", False),
    ],
)
def test_set_parameters_are_sent_even_if_zero(name, value):
    assert sampling_json(**{name: value})[name] == value


def test_top_p_zero_becomes_a_tiny_value():
    assert 0 < sampling_json(top_p=0.0)["top_p"] < 1e-6


def test_every_parameter_is_sent():
    # The fields for log probabilities differ by endpoint, and `structured_outputs_param` is not sent.
    elsewhere = {"logprobs", "structured_outputs_param"}
    everything = {
        "logit_bias": {1: 1.0},
        "structured_outputs": StructuredOutputs(regex="a"),
        "stop_token_ids": [1],
        "allowed_token_ids": [1],
        "bad_words": ["x"],
        "stop": ["a"],
    }
    for name in SamplingParameters.__struct_fields__:
        everything.setdefault(name, 1)
    everything["structured_outputs_param"] = "response_format"
    assert set(sampling_json(**everything)) == set(SamplingParameters.__struct_fields__) - elsewhere


def test_logit_bias_keys_become_strings():
    assert sampling_json(logit_bias={7: -1.5})["logit_bias"] == {"7": -1.5}
    assert "logit_bias" not in sampling_json(logit_bias={})


@pytest.mark.parametrize(
    ("form", "sent"),
    [
        (StructuredOutputs(json={"type": "object"}), {"json": {"type": "object"}}),
        (StructuredOutputs(json={}), {"json": {}}),
        (StructuredOutputs(json='{"a": 1}'), {"json": '{"a": 1}'}),
        (StructuredOutputs(json_object=True), {"json_object": True}),
        (StructuredOutputs(regex="a+"), {"regex": "a+"}),
        (StructuredOutputs(choice=["a", "b"]), {"choice": ["a", "b"]}),
        (StructuredOutputs(grammar="g"), {"grammar": "g"}),
        (StructuredOutputs(structural_tag="{}"), {"structural_tag": "{}"}),
        (
            StructuredOutputs(json={}, disable_any_whitespace=True, whitespace_pattern=" ?"),
            {"json": {}, "disable_any_whitespace": True, "whitespace_pattern": " ?"},
        ),
    ],
    ids=str,
)
def test_structured_outputs_are_sent_without_unset_fields(form, sent):
    assert sampling_json(structured_outputs=form)["structured_outputs"] == sent


# Messages


@pytest.mark.parametrize(
    ("message", "sent"),
    [
        (SystemMessage(content="a"), {"role": "system", "content": "a"}),
        (DeveloperMessage(content="a", name="x"), {"role": "developer", "content": "a", "name": "x"}),
        (UserMessage(content=""), {"role": "user", "content": ""}),
        (
            UserMessage(content=[TextPart(text="a"), TextPart(text="")]),
            {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": ""}]},
        ),
        (ToolMessage(content="1", tool_call_id="c"), {"role": "tool", "content": "1", "tool_call_id": "c"}),
    ],
    ids=lambda value: type(value).__name__,
)
def test_a_message_is_sent_unchanged(message, sent):
    assert as_json(message_fields(message)) == sent


def test_an_answer_is_sent_as_text():
    assert message_json(content="Hi") == {"role": "assistant", "content": "Hi"}
    assert message_json(content="") == {"role": "assistant", "content": ""}
    assert message_json(content="Hi", name="bot")["name"] == "bot"


def test_fields_for_clients_are_omitted():
    message = message_json(
        content="Hi", annotations=[{}], audio={"id": "x"}, parsed={"a": 1}, refusal=None, tool_calls=[]
    )
    assert message == {"role": "assistant", "content": "Hi"}


def test_a_tool_call_is_sent_completely():
    call = ToolCall(id="c", function=FunctionCall(name="f", arguments="{}"))
    message = message_json(content=None, tool_calls=[call])
    assert message["content"] is None
    assert message["tool_calls"] == [
        {"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}},
    ]


@pytest.mark.parametrize("name", ["reasoning", "reasoning_content"])
def test_reasoning_is_sent_under_vllms_name(name):
    message = message_json(content="Hi", **{name: "Hm."})
    assert message["reasoning"] == "Hm."
    assert "reasoning_content" not in message


def test_a_refusal_is_text_to_the_model():
    assert message_json(content=None, refusal="No.")["content"] == "No."
    parts = [TextPart(text="Well."), RefusalPart(refusal="No.")]
    assert message_json(content=parts)["content"] == [
        {"type": "text", "text": "Well."},
        {"type": "text", "text": "No."},
    ]


# Conversations

TOOLS = [
    Function(name="f", description="Does.", parameters={"type": "object", "properties": {}}, strict=True),
    Function(name="g", parameters={"type": "object", "properties": {}}),
]


def test_a_plain_conversation_is_its_messages():
    assert conversation_json() == {
        "messages": [{"role": "user", "content": "hi"}],
        "add_generation_prompt": True,
        "continue_final_message": False,
    }


def test_tools_are_sent_without_unset_fields():
    assert conversation_json(tools=TOOLS, tool_choice=ToolChoice.AUTO)["tools"] == [
        {
            "type": "function",
            "function": {
                "name": "f",
                "description": "Does.",
                "parameters": {"type": "object", "properties": {}},
                "strict": True,
            },
        },
        {"type": "function", "function": {"name": "g", "parameters": {"type": "object", "properties": {}}}},
    ]


@pytest.mark.parametrize(
    ("choice", "name", "sent"),
    [
        (ToolChoice.AUTO, None, "auto"),
        (ToolChoice.REQUIRED, None, "required"),
        (ToolChoice.NAMED, "f", {"type": "function", "function": {"name": "f"}}),
    ],
)
def test_tool_choice_is_sent_in_openais_format(choice, name, sent):
    assert conversation_json(tools=TOOLS, tool_choice=choice, tool_name=name)["tool_choice"] == sent


@pytest.mark.parametrize("parallel", [True, False])
def test_parallel_tool_calls_is_sent_with_tools(parallel):
    fields = conversation_json(tools=TOOLS, tool_choice=ToolChoice.AUTO, parallel_tool_calls=parallel)
    assert fields["parallel_tool_calls"] is parallel


def test_without_tools_no_tool_fields_are_sent():
    # vLLM rejects a tool choice without tools.
    assert {"tools", "tool_choice", "parallel_tool_calls"}.isdisjoint(conversation_json(parallel_tool_calls=False))


@pytest.mark.parametrize(
    ("field", "value", "name"),
    [
        ("reasoning_effort", "low", "reasoning_effort"),
        ("reasoning_effort", "none", "reasoning_effort"),
        ("include_reasoning", False, "include_reasoning"),
        ("template_arguments", {"enable_thinking": False}, "chat_template_kwargs"),
        ("documents", [{"text": "x"}], "documents"),
        ("documents", [], "documents"),
    ],
)
def test_template_variables_are_sent_if_set(field, value, name):
    assert conversation_json(**{field: value})[name] == value
    assert name not in conversation_json()


@pytest.mark.parametrize("message", [SystemMessage, UserMessage, AssistantMessage])
def test_cache_breakpoints_are_not_sent(message):
    part = TextPart(text="a", prompt_cache_breakpoint={"mode": "explicit"})
    assert as_json(message_fields(message(content=[part])))["content"] == [{"type": "text", "text": "a"}]
