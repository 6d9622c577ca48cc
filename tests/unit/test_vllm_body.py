"""Conversations and sampling under vLLM's names. They are sent as JSON, so that is what is looked at."""

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


def sampled(**fields: Any) -> dict:
    return as_json(sampling_fields(SamplingParameters(**fields)))


def talked(**fields: Any) -> dict:
    return as_json(conversation_fields(Conversation(**{"messages": [UserMessage(content="hi")], **fields})))


def said(**fields: Any) -> dict:
    return as_json(message_fields(AssistantMessage(**fields)))


# Sampling


def test_what_a_request_leaves_open_is_left_to_the_model():
    assert sampled(max_tokens=None) == {"n": 1, "stop": []}


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
def test_what_a_request_says_is_sent_even_if_it_is_zero(name, value):
    assert sampled(**{name: value})[name] == value


def test_a_nucleus_of_zero_is_the_likeliest_token_alone():
    assert 0 < sampled(top_p=0.0)["top_p"] < 1e-6


def test_every_parameter_has_a_place():
    # Log probabilities are asked for in each endpoint's own way; which field asked for a form is ours alone.
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
    assert set(sampled(**everything)) == set(SamplingParameters.__struct_fields__) - elsewhere


def test_the_keys_of_biases_become_texts():
    assert sampled(logit_bias={7: -1.5})["logit_bias"] == {"7": -1.5}
    assert "logit_bias" not in sampled(logit_bias={})


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
def test_a_form_is_sent_with_nothing_but_what_is_set(form, sent):
    assert sampled(structured_outputs=form)["structured_outputs"] == sent


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
def test_a_message_is_sent_as_it_came(message, sent):
    assert as_json(message_fields(message)) == sent


def test_an_answer_is_sent_as_text():
    assert said(content="Hi") == {"role": "assistant", "content": "Hi"}
    assert said(content="") == {"role": "assistant", "content": ""}
    assert said(content="Hi", name="bot")["name"] == "bot"


def test_what_an_answer_carries_for_clients_is_left_out():
    message = said(content="Hi", annotations=[{}], audio={"id": "x"}, parsed={"a": 1}, refusal=None, tool_calls=[])
    assert message == {"role": "assistant", "content": "Hi"}


def test_a_call_is_sent_whole():
    call = ToolCall(id="c", function=FunctionCall(name="f", arguments="{}"))
    message = said(content=None, tool_calls=[call])
    assert message["content"] is None
    assert message["tool_calls"] == [
        {"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}},
    ]


@pytest.mark.parametrize("name", ["reasoning", "reasoning_content"])
def test_what_was_thought_is_sent_under_vllms_name(name):
    message = said(content="Hi", **{name: "Hm."})
    assert message["reasoning"] == "Hm."
    assert "reasoning_content" not in message


def test_a_refusal_is_text_to_the_model():
    assert said(content=None, refusal="No.")["content"] == "No."
    parts = [TextPart(text="Well."), RefusalPart(refusal="No.")]
    assert said(content=parts)["content"] == [{"type": "text", "text": "Well."}, {"type": "text", "text": "No."}]


# Conversations

TOOLS = [
    Function(name="f", description="Does.", parameters={"type": "object", "properties": {}}, strict=True),
    Function(name="g", parameters={"type": "object", "properties": {}}),
]


def test_a_plain_conversation_is_its_messages():
    assert talked() == {
        "messages": [{"role": "user", "content": "hi"}],
        "add_generation_prompt": True,
        "continue_final_message": False,
    }


def test_tools_are_sent_with_what_is_known_of_them():
    assert talked(tools=TOOLS, tool_choice=ToolChoice.AUTO)["tools"] == [
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
def test_the_choice_is_sent_in_openais_words(choice, name, sent):
    assert talked(tools=TOOLS, tool_choice=choice, tool_name=name)["tool_choice"] == sent


@pytest.mark.parametrize("parallel", [True, False])
def test_whether_calls_may_be_several_is_sent_with_tools(parallel):
    fields = talked(tools=TOOLS, tool_choice=ToolChoice.AUTO, parallel_tool_calls=parallel)
    assert fields["parallel_tool_calls"] is parallel


def test_without_tools_nothing_is_said_of_them():
    # vLLM refuses a choice without tools.
    assert {"tools", "tool_choice", "parallel_tool_calls"}.isdisjoint(talked(parallel_tool_calls=False))


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
def test_what_goes_into_the_template_is_sent_if_it_is_said(field, value, name):
    assert talked(**{field: value})[name] == value
    assert name not in talked()


@pytest.mark.parametrize("message", [SystemMessage, UserMessage, AssistantMessage])
def test_a_breakpoint_of_openais_cache_is_nothing_to_a_template(message):
    part = TextPart(text="a", prompt_cache_breakpoint={"mode": "explicit"})
    assert as_json(message_fields(message(content=[part])))["content"] == [{"type": "text", "text": "a"}]
