"""Requests of `POST /v1/chat/completions`, as the JSON that clients send."""

import json
from typing import Any

import msgspec
import pytest

from app.http.codec import BodyDecoder
from domain.conversation import Conversation, Function, ToolChoice
from domain.errors import InvalidRequestError
from domain.openai.chat import MAX_TOOLS, REFUSED, ChatBody
from domain.requests import GenerationRequest
from domain.sampling import SamplingParameters, StructuredOutputs

decoder = BodyDecoder(ChatBody)
HELLO = {"role": "user", "content": "Hello"}
WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "The weather in a city.",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}
CALL = {"id": "call_1", "type": "function", "function": {"name": "get_weather", "arguments": '{"city": "Oslo"}'}}


def tool(name: str, **more: Any) -> dict:
    return {"type": "function", "function": {"name": name, **more}}


def body_of(**fields: Any) -> ChatBody:
    return decoder.decode(json.dumps({"model": "m", "messages": [HELLO], **fields}).encode())


def request_of(**fields: Any) -> GenerationRequest:
    body = body_of(**fields)
    return body.to_request(body.to_conversation())


def conversation_of(**fields: Any) -> Conversation:
    conversation = request_of(**fields).prompt
    assert isinstance(conversation, Conversation)
    return conversation


def sampling_of(**fields: Any) -> SamplingParameters:
    return request_of(**fields).sampling


def refusal(**fields: Any) -> InvalidRequestError:
    with pytest.raises(InvalidRequestError) as caught:
        request_of(**fields)
    return caught.value


def with_results(message: dict) -> list[dict]:
    """An assistant message and the results of its calls."""
    calls = message.get("tool_calls") or []
    return [
        {"role": "assistant", **message},
        *({"role": "tool", "tool_call_id": call["id"], "content": "20 degrees"} for call in calls),
    ]


def messages_of(*messages: dict) -> list[dict]:
    return [msgspec.to_builtins(message) for message in conversation_of(messages=list(messages)).messages]


# Parameters


def test_defaults_are_openais_and_leave_the_rest_to_the_model():
    request = request_of()
    assert request.sampling == SamplingParameters(max_tokens=None, n=1)
    assert (request.echo, request.suffix) == (False, None)
    assert (request.truncate_prompt_tokens, request.add_special_tokens) == (None, None)
    conversation = conversation_of()
    assert conversation == Conversation(messages=conversation.messages)
    assert (conversation.tool_choice, conversation.parallel_tool_calls) == (ToolChoice.NONE, True)
    assert (conversation.add_generation_prompt, conversation.continue_final_message) == (True, False)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("n", 3),
        ("temperature", 0.0),
        ("temperature", 2.0),
        ("top_p", 0.9),
        ("seed", -1),
        ("presence_penalty", -2.0),
        ("frequency_penalty", 1.5),
        ("top_k", -1),
        ("min_p", 0.1),
        ("repetition_penalty", 1.1),
        ("min_tokens", 2),
        ("stop_token_ids", [5]),
        ("allowed_token_ids", [5, 6]),
        ("bad_words", ["x"]),
        ("ignore_eos", True),
        ("include_stop_str_in_output", True),
        ("skip_special_tokens", False),
        ("spaces_between_special_tokens", False),
    ],
)
def test_a_parameter_reaches_the_sampling(name, value):
    assert getattr(sampling_of(**{name: value}), name) == value


@pytest.mark.parametrize(("name", "value"), [("truncate_prompt_tokens", 5), ("add_special_tokens", True)])
def test_prompt_options_reach_the_request(name, value):
    assert getattr(request_of(**{name: value}), name) == value


@pytest.mark.parametrize(
    ("name", "value", "field"),
    [
        ("reasoning_effort", "low", "reasoning_effort"),
        ("reasoning_effort", "none", "reasoning_effort"),
        ("parallel_tool_calls", False, "parallel_tool_calls"),
        ("include_reasoning", False, "include_reasoning"),
        ("chat_template_kwargs", {"enable_thinking": False}, "template_arguments"),
        ("documents", [{"title": "a", "text": "b"}], "documents"),
        ("add_generation_prompt", False, "add_generation_prompt"),
        ("continue_final_message", True, "continue_final_message"),
    ],
)
def test_template_fields_reach_the_conversation(name, value, field):
    assert getattr(conversation_of(**{name: value}), field) == value


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("user", "u"),
        ("safety_identifier", "s"),
        ("store", True),
        ("store", False),
        ("metadata", {"a": "b"}),
        ("service_tier", "auto"),
        ("service_tier", "default"),
        ("service_tier", "flex"),
        ("service_tier", "priority"),
        ("prompt_cache_key", "k"),
        ("prompt_cache_retention", "24h"),
        ("prediction", {"type": "content", "content": "x"}),
        ("verbosity", "low"),
        ("modalities", ["text"]),
        ("response_format", {"type": "text"}),
    ],
)
def test_ignored_fields_are_accepted(name, value):
    assert request_of(**{name: value}) == request_of()


@pytest.mark.parametrize("effort", ["none", "minimal", "low", "medium", "high", "xhigh"])
def test_every_reasoning_effort_is_accepted(effort):
    assert conversation_of(reasoning_effort=effort).reasoning_effort == effort


def test_null_equals_absent_for_optional_fields():
    optional = {name: None for name in ChatBody.__struct_fields__ if name not in ("model", "messages")}
    assert body_of(**optional) == body_of()
    assert request_of(**optional) == request_of()


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"messages": None}, "messages"),
        ({"messages": "Hello"}, "messages"),
        ({"messages": []}, "messages"),
        ({"messages": [HELLO, "x"]}, "messages[1]"),
        ({"messages": [{"content": "x"}]}, "messages[0].role"),
        ({"messages": [{"role": "wizard", "content": "x"}]}, "messages[0].role"),
        ({"messages": [{"role": "user"}]}, "messages[0].content"),
        ({"messages": [{"role": "user", "content": None}]}, "messages[0].content"),
        ({"messages": [{"role": "user", "content": []}]}, "messages[0].content"),
        ({"messages": [{"role": "user", "content": [{"type": "text"}]}]}, "messages[0].content[0].text"),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]},
            "messages[0].content[0].type",
        ),
        ({"messages": [{"role": "user", "content": "x", "foo": 1}]}, "messages[0].foo"),
        ({"messages": [HELLO, {"role": "tool", "content": "x"}]}, "messages[1].tool_call_id"),
        ({"messages": [{"role": "assistant", "content": "", "tool_calls": [{}]}]}, None),
        ({"model": None}, "model"),
        ({"n": 0}, "n"),
        ({"n": 129}, "n"),
        ({"temperature": 2.1}, "temperature"),
        ({"temperature": "hot"}, "temperature"),
        ({"top_p": 1.5}, "top_p"),
        ({"top_logprobs": 21, "logprobs": True}, "top_logprobs"),
        ({"top_logprobs": -1, "logprobs": True}, "top_logprobs"),
        ({"logprobs": 5}, "logprobs"),
        ({"max_completion_tokens": -1}, "max_completion_tokens"),
        ({"modalities": ["text", "audio"]}, "modalities[1]"),
        ({"reasoning_effort": "enormous"}, "reasoning_effort"),
        ({"service_tier": "gold"}, "service_tier"),
        ({"verbosity": "chatty"}, "verbosity"),
        ({"response_format": {"type": "yaml"}}, "response_format.type"),
        ({"response_format": {"type": "json_schema"}}, "response_format.json_schema"),
        ({"response_format": {"type": "json_schema", "json_schema": {}}}, "response_format.json_schema.name"),
        ({"tools": [{"type": "custom", "custom": {"name": "x"}}]}, "tools[0].type"),
        ({"tools": [{"type": "function"}]}, "tools[0].function"),
        ({"tools": [{"type": "function", "function": {}}]}, "tools[0].function.name"),
        ({"tools": [tool("a b")]}, "tools[0].function.name"),
        ({"tools": [tool("")]}, "tools[0].function.name"),
        ({"tools": [tool("x" * 65)]}, "tools[0].function.name"),
        ({"tool_choice": "sometimes", "tools": [WEATHER]}, "tool_choice"),
        ({"tool_choice": {"type": "function"}, "tools": [WEATHER]}, "tool_choice.function"),
        ({"tool_choice": {"type": "custom", "custom": {"name": "x"}}, "tools": [WEATHER]}, "tool_choice.type"),
        ({"stream_options": {"include_usage": 1}, "stream": True}, "stream_options.include_usage"),
        ({"metadata": {"a": 1}}, "metadata[...]"),
        ({"metadata": {"a": "x" * 513}}, "metadata[...]"),
        ({"metadata": {"x" * 65: "a"}}, None),
        ({"metadata": {str(number): "a" for number in range(17)}}, "metadata"),
        ({"chat_template_kwargs": []}, "chat_template_kwargs"),
        ({"documents": [{"a": 1}]}, "documents[0][...]"),
    ],
    ids=str,
)
def test_errors_name_the_path_of_the_field(fields, param):
    error = refusal(**fields)
    assert type(error) is InvalidRequestError
    assert param is None or error.param == param


@pytest.mark.parametrize("name", ["model", "messages"])
def test_a_missing_parameter_is_named(name):
    fields = {"model": "m", "messages": [HELLO]}
    del fields[name]
    with pytest.raises(InvalidRequestError) as caught:
        decoder.decode(json.dumps(fields).encode())
    assert (caught.value.param, caught.value.code) == (name, "missing_required_parameter")


def test_metadata_of_the_maximum_size_is_accepted():
    request_of(metadata={f"{number:064}": "x" * 512 for number in range(16)})


# Unsupported fields of OpenAI's API


@pytest.mark.parametrize("name", REFUSED)
@pytest.mark.parametrize("value", [{}, [], "x", False, {"a": 1}])
def test_unsupported_fields_are_rejected_by_name(name, value):
    error = refusal(**{name: value})
    assert (error.param, error.code) == (name, "unsupported_parameter")
    assert f"'{name}'" in error.message


@pytest.mark.parametrize("name", REFUSED)
def test_unsupported_fields_may_be_null(name):
    assert request_of(**{name: None}) == request_of()


# Token limits


@pytest.mark.parametrize("name", ["max_tokens", "max_completion_tokens"])
def test_max_tokens_and_max_completion_tokens_limit_the_tokens(name):
    assert sampling_of(**{name: 7}).max_tokens == 7


def test_without_a_limit_the_context_is_the_limit():
    # OpenAI's default of 16 is for completions only.
    assert sampling_of().max_tokens is None


def test_both_limits_together_are_rejected():
    error = refusal(max_tokens=5, max_completion_tokens=5)
    assert (error.param, error.code) == ("max_tokens", "invalid_parameter_combination")


@pytest.mark.parametrize("name", ["max_tokens", "max_completion_tokens"])
def test_a_limit_of_zero_tokens_is_rejected(name):
    error = refusal(**{name: 0})
    assert (error.param, error.code) == (name, "integer_below_min_value")


# Log probabilities


@pytest.mark.parametrize(
    ("fields", "logprobs"),
    [
        ({}, None),
        ({"logprobs": False}, None),
        ({"logprobs": True}, 0),
        ({"logprobs": True, "top_logprobs": 0}, 0),
        ({"logprobs": True, "top_logprobs": 20}, 20),
    ],
    ids=str,
)
def test_log_probabilities_are_returned_on_request(fields, logprobs):
    assert sampling_of(**fields).logprobs == logprobs


@pytest.mark.parametrize("fields", [{}, {"logprobs": False}, {"logprobs": None}], ids=str)
@pytest.mark.parametrize("top", [0, 3])
def test_top_logprobs_requires_logprobs(fields, top):
    error = refusal(top_logprobs=top, **fields)
    assert error.param == "top_logprobs"


# Structured outputs


SCHEMA = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}


def test_a_json_object_is_requested():
    sampling = sampling_of(response_format={"type": "json_object"})
    assert sampling.structured_outputs == StructuredOutputs(json_object=True)
    assert sampling.structured_outputs_param == "response_format"


@pytest.mark.parametrize("strict", [True, False, None])
def test_a_schema_is_followed_regardless_of_strict(strict):
    json_schema = {"name": "answer", "schema": SCHEMA, "strict": strict, "description": "What it is."}
    sampling = sampling_of(response_format={"type": "json_schema", "json_schema": json_schema})
    assert sampling.structured_outputs == StructuredOutputs(json=SCHEMA)
    assert sampling.structured_outputs_param == "response_format"


def test_a_missing_schema_allows_any_json():
    sampling = sampling_of(response_format={"type": "json_schema", "json_schema": {"name": "any"}})
    assert sampling.structured_outputs == StructuredOutputs(json={})


@pytest.mark.parametrize("name", ["a b", "", "x" * 65, "é"])
def test_an_invalid_schema_name_is_rejected(name):
    error = refusal(response_format={"type": "json_schema", "json_schema": {"name": name, "schema": {}}})
    assert error.param == "response_format.json_schema.name"


def test_two_constraints_are_rejected():
    error = refusal(response_format={"type": "json_object"}, structured_outputs={"regex": "a"})
    assert error.param == "structured_outputs"


# Messages


@pytest.mark.parametrize("role", ["system", "developer", "user"])
@pytest.mark.parametrize("content", ["Hello", "", [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]])
@pytest.mark.parametrize("name", [None, "Ann"])
def test_content_may_be_text_or_parts(role, content, name):
    message = {"role": role, "content": content} | ({"name": name} if name else {})
    assert messages_of(message) == [message]


@pytest.mark.parametrize("content", ["20 degrees", [{"type": "text", "text": "20 degrees"}]])
def test_a_tool_message_is_accepted(content):
    message = {"role": "tool", "content": content, "tool_call_id": "call_1"}
    asked = {"role": "assistant", "tool_calls": [CALL]}
    assert messages_of(HELLO, asked, message)[2] == message


@pytest.mark.parametrize(
    "message",
    [
        {"content": "Hi"},
        {"content": ""},
        {"content": [{"type": "text", "text": "Hi"}]},
        {"content": [{"type": "refusal", "refusal": "No."}]},
        {"content": [{"type": "text", "text": "Hi"}, {"type": "refusal", "refusal": "No."}]},
        {"content": None, "tool_calls": [CALL]},
        {"tool_calls": [CALL]},
        {"tool_calls": [CALL, CALL | {"id": "call_2"}]},
        {"content": "Let me see.", "tool_calls": [CALL]},
        {"content": None, "refusal": "No."},
        {"content": "Hi", "name": "bot"},
        {"content": "Hi", "tool_calls": []},
        {"content": "Hi", "tool_calls": None, "function_call": None, "audio": None, "refusal": None},
    ],
    ids=str,
)
def test_an_assistant_message_is_accepted(message):
    messages = [HELLO, *with_results(message)]
    assert len(conversation_of(messages=messages).messages) == len(messages)


@pytest.mark.parametrize(
    "message",
    [{}, {"content": None}, {"content": None, "tool_calls": []}, {"content": None, "tool_calls": None}],
    ids=str,
)
def test_an_empty_assistant_message_is_rejected(message):
    error = refusal(messages=[HELLO, {"role": "assistant", **message}])
    assert error.param == "messages[1].content"


def test_function_call_is_rejected_by_name():
    message = {"role": "assistant", "content": None, "function_call": {"name": "f", "arguments": "{}"}}
    error = refusal(messages=[HELLO, message])
    assert (error.param, error.code) == ("messages[1].function_call", "unsupported_parameter")


@pytest.mark.parametrize("kind", ["custom", "functions", "function\n", ""])
def test_calls_of_other_types_are_rejected(kind):
    message = {"role": "assistant", "tool_calls": [CALL | {"type": kind}]}
    error = refusal(messages=[HELLO, message])
    assert error.param == "messages[1].tool_calls[0].type"


def test_arguments_may_be_invalid_json():
    broken = {"id": "c", "type": "function", "function": {"name": "f", "arguments": "{not json"}}
    message = conversation_of(messages=with_results({"tool_calls": [broken]})).messages[0]
    assert message.tool_calls[0].function.arguments == "{not json"


@pytest.mark.parametrize(
    "answer",
    [
        {"content": "Hi", "refusal": None, "annotations": []},
        {"content": "Hi", "refusal": None, "annotations": [], "reasoning_content": "Hm."},
        {"content": "Hi", "refusal": None, "annotations": [], "reasoning": "Hm."},
        {"content": None, "refusal": None, "annotations": [], "tool_calls": [CALL]},
        {"content": None, "refusal": None, "annotations": [], "tool_calls": [CALL], "reasoning_content": "Hm."},
        {"content": None, "refusal": None, "annotations": [], "reasoning_content": "All of it was thinking."},
        {"content": "Hi", "refusal": None, "annotations": None, "audio": None, "parsed": None},
        {"content": '{"a": 1}', "refusal": None, "annotations": [], "parsed": {"a": 1}},
    ],
    ids=str,
)
def test_a_response_message_may_be_sent_back(answer):
    messages = [HELLO, *with_results(answer), HELLO]
    assert len(conversation_of(messages=messages).messages) == len(messages)


@pytest.mark.parametrize(
    ("messages", "param"),
    [
        ([HELLO, {"role": "tool", "tool_call_id": "call_1", "content": "x"}], "messages[1].role"),
        ([HELLO, {"role": "assistant", "tool_calls": [CALL]}], "messages[1].tool_calls"),
        ([HELLO, {"role": "assistant", "tool_calls": [CALL]}, HELLO], "messages[1].tool_calls"),
        ([*with_results({"tool_calls": [CALL]})[:1], *with_results({"tool_calls": [CALL | {"id": "x"}]})[1:]],
         "messages[1].tool_call_id"),
    ],
    ids=["no call", "no result", "no result in between", "another call"],
)  # fmt: skip
def test_calls_and_results_belong_together(messages, param):
    error = refusal(messages=messages)
    assert (error.param, error.code) == (param, "invalid_value")


def test_a_call_may_be_continued():
    messages = [HELLO, {"role": "assistant", "content": "x", "tool_calls": [CALL]}]
    assert conversation_of(messages=messages, continue_final_message=True).continue_final_message


def test_a_message_parsed_by_openais_sdk_may_be_sent_back():
    # openai-python: what `chat.completions.parse` returned, appended to the messages, carries these.
    function = CALL["function"] | {"parsed_arguments": {"city": "Oslo"}}
    message = {"role": "assistant", "content": None, "parsed": None, "tool_calls": [CALL | {"function": function}]}
    answer = {"role": "tool", "tool_call_id": "call_1", "content": "20 degrees"}
    assert len(conversation_of(messages=[HELLO, message, answer]).messages) == 3


# Tools


def test_a_tool_reaches_the_conversation():
    (found,) = conversation_of(tools=[WEATHER]).tools
    assert found.name == "get_weather"
    assert found.description == "The weather in a city."
    assert found.parameters == WEATHER["function"]["parameters"]


@pytest.mark.parametrize("parameters", [None, {}])
def test_a_tool_without_parameters_has_an_empty_schema(parameters):
    # OpenAI: "Omitting `parameters` defines a function with an empty parameter list."
    (found,) = conversation_of(tools=[tool("f", parameters=parameters)]).tools
    assert found.parameters == {"type": "object", "properties": {}}


def test_a_schema_is_unchanged():
    parameters = {"type": "object", "properties": {"a": {}}, "additionalProperties": False, "$defs": {"x": {}}}
    (found,) = conversation_of(tools=[tool("f", parameters=parameters)]).tools
    assert found.parameters == parameters


@pytest.mark.parametrize("kind", ["string", "array", ["object", "null"], None, 1, {}, []])
def test_parameters_must_have_type_object(kind):
    error = refusal(tools=[WEATHER, tool("f", parameters={"type": kind})])
    assert (error.param, error.code) == ("tools[1].function.parameters", "invalid_function_parameters")


@pytest.mark.parametrize("strict", [True, False, None])
def test_strict_is_the_clients_choice_with_auto_tool_choice(strict):
    (found,) = conversation_of(tools=[tool("f", strict=strict)]).tools
    assert found.strict is strict


@pytest.mark.parametrize("choice", ["required", {"type": "function", "function": {"name": "f"}}], ids=str)
@pytest.mark.parametrize(("strict", "expected"), [(True, True), (None, True), (False, False)])
def test_forced_calls_are_strict_by_default(choice, strict, expected):
    (found,) = conversation_of(tools=[tool("f", strict=strict)], tool_choice=choice).tools
    assert found.strict is expected


def test_tools_are_limited():
    many = [tool(f"f{number}") for number in range(MAX_TOOLS + 1)]
    assert len(conversation_of(tools=many[:MAX_TOOLS]).tools) == MAX_TOOLS == 128
    error = refusal(tools=many)
    assert (error.param, error.code) == ("tools", "array_above_max_length")


@pytest.mark.parametrize("choice", [None, "none", "auto"])
def test_an_empty_list_of_tools_is_rejected(choice):
    assert refusal(tools=[], tool_choice=choice).param == "tools"


@pytest.mark.parametrize("name", ["a", "A-b_9", "x" * 64])
def test_valid_tool_names_are_accepted(name):
    (found,) = conversation_of(tools=[tool(name)]).tools
    assert found.name == name


@pytest.mark.parametrize("name", ["get.weather", "get weather", "wetter_für", "weather\n", "\nweather", "a\u0661"])
def test_invalid_tool_names_are_rejected(name):
    assert refusal(tools=[tool(name)]).param == "tools[0].function.name"


# Tool choice

PAIR = [tool("a"), tool("b")]


def names_of(conversation: Conversation) -> list[str]:
    return [function.name for function in conversation.tools]


@pytest.mark.parametrize(
    ("choice", "expected"),
    [(None, ToolChoice.AUTO), ("auto", ToolChoice.AUTO), ("required", ToolChoice.REQUIRED)],
)
def test_the_default_tool_choice_is_auto(choice, expected):
    conversation = conversation_of(tools=PAIR, tool_choice=choice)
    assert (conversation.tool_choice, conversation.tool_name, names_of(conversation)) == (
        expected,
        None,
        ["a", "b"],
    )


def test_tool_choice_none_removes_the_tools():
    conversation = conversation_of(tools=PAIR, tool_choice="none")
    assert (conversation.tool_choice, conversation.tools) == (ToolChoice.NONE, [])


def test_tool_choice_none_needs_no_tools():
    assert conversation_of(tool_choice="none").tool_choice is ToolChoice.NONE


def test_a_tool_can_be_named():
    choice = {"type": "function", "function": {"name": "b"}}
    conversation = conversation_of(tools=PAIR, tool_choice=choice)
    assert (conversation.tool_choice, conversation.tool_name) == (ToolChoice.NAMED, "b")


@pytest.mark.parametrize("mode", ["auto", "required"])
@pytest.mark.parametrize("allowed", [["a"], ["b"], ["b", "a"]])
def test_only_allowed_tools_are_passed_on(mode, allowed):
    choice = {"type": "allowed_tools", "allowed_tools": {"mode": mode, "tools": [tool(name) for name in allowed]}}
    conversation = conversation_of(tools=PAIR, tool_choice=choice)
    assert conversation.tool_choice == mode
    assert sorted(names_of(conversation)) == sorted(allowed)


@pytest.mark.parametrize(
    "choice",
    [
        {"type": "function", "function": {"name": "c"}},
        {"type": "allowed_tools", "allowed_tools": {"mode": "auto", "tools": [tool("a"), tool("c")]}},
    ],
    ids=str,
)
def test_choosing_an_unknown_tool_is_rejected_by_name(choice):
    error = refusal(tools=PAIR, tool_choice=choice)
    assert (error.param, error.code) == ("tool_choice", "invalid_value")
    assert "'c'" in error.message


@pytest.mark.parametrize(
    "choice",
    [
        "auto",
        "required",
        {"type": "function", "function": {"name": "a"}},
        {"type": "allowed_tools", "allowed_tools": {"mode": "auto", "tools": [tool("a")]}},
    ],
    ids=str,
)
def test_a_tool_choice_requires_tools(choice):
    assert refusal(tool_choice=choice).param == "tool_choice"


@pytest.mark.parametrize(
    ("allowed", "param"),
    [
        ({"mode": "auto", "tools": []}, "tool_choice.allowed_tools.tools"),
        ({"mode": "none", "tools": [tool("a")]}, "tool_choice.allowed_tools.mode"),
        ({"mode": "auto"}, "tool_choice.allowed_tools.tools"),
        ({"tools": [tool("a")]}, "tool_choice.allowed_tools.mode"),
    ],
    ids=str,
)
def test_allowed_tools_require_a_mode_and_tools(allowed, param):
    choice = {"type": "allowed_tools", "allowed_tools": allowed}
    assert refusal(tools=PAIR, tool_choice=choice).param == param


def test_tools_and_response_format_can_be_combined():
    request = request_of(tools=PAIR, response_format={"type": "json_object"})
    assert names_of(request.prompt) == ["a", "b"]
    assert request.sampling.structured_outputs == StructuredOutputs(json_object=True)


def test_the_tools_of_the_body_are_not_modified():
    body = body_of(tools=[tool("f")], tool_choice="required")
    body.to_conversation()
    assert body.tools[0].function == Function(name="f")


# Chat template


def test_continuing_a_message_adds_no_generation_prompt():
    conversation = conversation_of(continue_final_message=True)
    assert (conversation.continue_final_message, conversation.add_generation_prompt) == (True, False)


@pytest.mark.parametrize("opens", [False, True])
def test_add_generation_prompt_is_the_clients_choice(opens):
    assert conversation_of(add_generation_prompt=opens).add_generation_prompt is opens


def test_continuing_with_a_generation_prompt_is_rejected():
    error = refusal(continue_final_message=True, add_generation_prompt=True)
    assert error.param == "continue_final_message"


@pytest.mark.parametrize("name", ["chat_template", "messages", "tools", "tokenize", "conversation"])
def test_template_arguments_can_not_replace_the_template(name):
    error = refusal(chat_template_kwargs={"enable_thinking": True, name: "x"})
    assert error.param == f"chat_template_kwargs.{name}"


# Streams


def test_stream_options_require_a_stream():
    assert refusal(stream_options={"include_usage": True}).param == "stream_options"
    assert refusal(stream_options={}, stream=False).param == "stream_options"


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (None, False),
        ({}, False),
        ({"include_usage": None}, False),
        ({"include_usage": False}, False),
        ({"include_usage": True}, True),
        ({"include_usage": True, "include_obfuscation": True}, True),
        ({"include_obfuscation": False}, False),
    ],
    ids=str,
)
def test_include_usage_requests_usage(options, expected):
    body = body_of(stream=True, stream_options=options)
    assert body.include_usage is expected
    assert body.to_request(body.to_conversation())
