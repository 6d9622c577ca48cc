"""Preparation of requests: unsupported ones are rejected, and schemas are normalized once."""

import contextlib
import copy
import json
from typing import Any

import msgspec
import pytest

import adapters.vllm.dialect.prepare as prepare_module
from adapters.vllm.dialect.grammar_size import MAX_CHOICE_LENGTH, MAX_FORM_BYTES, MAX_OPTIONAL_PARTS
from adapters.vllm.dialect.pattern import length_pattern
from adapters.vllm.dialect.prepare import MAX_BAD_WORDS, prepare
from app.http.codec import BodyDecoder
from domain.conversation import Conversation, Function, ToolChoice, UserMessage
from domain.errors import InvalidRequestError
from domain.openai.chat import ChatBody
from domain.openai.completions import CompletionBody
from domain.requests import GenerationRequest
from domain.sampling import SamplingParameters, StructuredOutputs

BODIES = {
    "completions": (BodyDecoder(CompletionBody), {"model": "m", "prompt": "x"}),
    "chat": (BodyDecoder(ChatBody), {"model": "m", "messages": [{"role": "user", "content": "x"}]}),
}
SHORT, SHORT_PATTERN = {"type": "string", "maxLength": 3}, {"type": "string", "pattern": length_pattern(0, 3)}
UNSUPPORTED = {"type": "object", "not": {}}
UNSUPPORTED_TAG = json.dumps({"type": "json_schema", "json_schema": UNSUPPORTED})
MANY_OPTIONAL_PARTS = "a?" * (MAX_OPTIONAL_PARTS + 1)
TALK = [UserMessage(content="hi")]


def request_of(endpoint: str, **fields: Any) -> GenerationRequest:
    """The domain's request for a body with these fields."""
    decoder, least = BODIES[endpoint]
    body = decoder.decode(json.dumps(least | fields).encode())
    if isinstance(body, ChatBody):
        return body.to_request(body.to_conversation())
    return body.to_requests()[0]


def refusal(request: GenerationRequest) -> InvalidRequestError:
    before = copy.deepcopy(request)
    with pytest.raises(InvalidRequestError) as caught:
        prepare(request)
    assert request == before
    return caught.value


def tool(name: str = "f", **more: Any) -> dict:
    return {"type": "function", "function": {"name": name, **more}}


def allowed(*names: str, mode: str = "auto") -> dict:
    return {"type": "allowed_tools", "allowed_tools": {"mode": mode, "tools": [tool(name) for name in names]}}


@pytest.fixture(params=BODIES)
def endpoint(request):
    return request.param


# Requests without schemas


@pytest.mark.parametrize(
    "fields", [{}, {"bad_words": ["x"]}, {"stream": True}, {"stop": ["x"], "logit_bias": {"5": 1}}], ids=str
)
def test_a_request_without_schemas_is_returned_unchanged(endpoint, fields):
    request = request_of(endpoint, **fields)
    assert prepare(request) is request


@pytest.mark.parametrize(
    "form", [{"regex": "a+"}, {"choice": ["a"]}, {"grammar": 'root ::= "a"'}, {"json_object": True}], ids=str
)
def test_structured_outputs_without_a_schema_are_unchanged(endpoint, form):
    request = request_of(endpoint, structured_outputs=form)
    assert prepare(request) == request


def test_bad_words_are_at_most_128_different_ones(endpoint):
    words = [f"w{number}" for number in range(MAX_BAD_WORDS)]
    assert len(prepare(request_of(endpoint, bad_words=words * 2)).sampling.bad_words) == 256
    error = refusal(request_of(endpoint, bad_words=[*words, "more"]))
    assert (error.param, error.code) == ("bad_words", "array_above_max_length")


# Structured outputs


@pytest.mark.parametrize(
    "fields",
    [
        {"guided_json": SHORT},
        {"guided_json": json.dumps(SHORT)},
        {"structured_outputs": {"json": SHORT}},
        {"structured_outputs": {"json": json.dumps(SHORT)}},
    ],
    ids=str,
)
def test_a_schema_is_normalized(endpoint, fields):
    request = request_of(endpoint, **fields)
    before = copy.deepcopy(request)
    assert prepare(request).sampling.structured_outputs == StructuredOutputs(json=SHORT_PATTERN)
    assert prepare(prepare(request)) == prepare(request)
    assert request == before


def test_the_schema_of_a_response_format_is_normalized():
    asked = {"type": "json_schema", "json_schema": {"name": "n", "schema": SHORT}}
    sampling = prepare(request_of("chat", response_format=asked)).sampling
    assert sampling.structured_outputs == StructuredOutputs(json=SHORT_PATTERN)


@pytest.mark.parametrize("value", ['{"type": "object"}', {}, {"type": "object"}, "{not json", "null", "true"])
def test_a_normalized_schema_is_unchanged(endpoint, value):
    request = request_of(endpoint, guided_json=value)
    assert prepare(request) == request


def test_whitespace_options_are_kept(endpoint):
    more = {"disable_any_whitespace": True, "whitespace_pattern": " ?"}
    form = prepare(request_of(endpoint, structured_outputs={"json": SHORT, **more})).sampling.structured_outputs
    assert form == StructuredOutputs(json=SHORT_PATTERN, **more)


def test_schemas_in_a_structural_tag_are_normalized(endpoint):
    content = {"type": "json_schema", "json_schema": SHORT}
    tag = {"type": "structural_tag", "format": {"type": "tag", "begin": "<", "content": content, "end": ">"}}
    form = prepare(request_of(endpoint, structured_outputs={"structural_tag": json.dumps(tag)}))
    content["json_schema"] = SHORT_PATTERN
    assert json.loads(form.sampling.structured_outputs.structural_tag) == tag


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"guided_json": UNSUPPORTED}, "guided_json"),
        ({"guided_json": json.dumps(UNSUPPORTED)}, "guided_json"),
        ({"structured_outputs": {"json": UNSUPPORTED}}, "structured_outputs"),
        ({"structured_outputs": {"structural_tag": UNSUPPORTED_TAG}}, "structured_outputs"),
    ],
    ids=str,
)  # fmt: skip
def test_an_unsupported_schema_is_rejected_for_its_field(endpoint, fields, param):
    error = refusal(request_of(endpoint, **fields))
    assert (error.param, error.code) == (param, "invalid_value")
    assert error.message == f"The schema in '{param}' uses 'not', which the engine does not support."


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"guided_regex": MANY_OPTIONAL_PARTS}, "guided_regex"),
        ({"guided_json": {"properties": {"a": {"pattern": MANY_OPTIONAL_PARTS}}}}, "guided_json"),
        ({"guided_choice": ["a" * (MAX_CHOICE_LENGTH + 1)]}, "guided_choice"),
        ({"guided_grammar": 'root ::= "a"' + "?" * (MAX_OPTIONAL_PARTS + 1)}, "guided_grammar"),
        (
            {"structured_outputs": {"structural_tag": json.dumps({"pattern": MANY_OPTIONAL_PARTS})}},
            "structured_outputs",
        ),
    ],
    ids=lambda value: str(value)[:30],
)
def test_a_grammar_that_takes_long_to_compile_is_rejected_for_its_field(endpoint, fields, param):
    error = refusal(request_of(endpoint, **fields))
    assert (error.param, error.code) == (param, "invalid_value")
    assert error.message.startswith(f"'{param}' ")
    assert error.message.endswith("which would take too long to compile into a grammar. Please simplify it.")


def test_too_large_structured_outputs_are_rejected(endpoint):
    room = MAX_FORM_BYTES - len('{"regex":""}')
    request = request_of(endpoint, guided_regex="a" * room)
    assert prepare(request).sampling.structured_outputs.regex == "a" * room
    error = refusal(request_of(endpoint, guided_regex="a" * (room + 1)))
    assert (error.param, error.code) == ("guided_regex", "string_above_max_length")


@pytest.mark.parametrize("form", ["json", "structural_tag"])
def test_no_nesting_depth_of_a_json_text_breaks_the_service(form):
    # Beyond some depth it can't be decoded, and the engine rejects it.
    for depth in (*range(60, 90), *range(300, 1200)):
        text = '{"a":' * depth + "1" + "}" * depth
        outputs = StructuredOutputs(**{form: text})
        request = GenerationRequest(prompt="x", sampling=SamplingParameters(structured_outputs=outputs))
        with contextlib.suppress(InvalidRequestError):
            prepare(request)


def test_a_schema_as_text_has_the_limits_of_an_object(endpoint):
    error = refusal(request_of(endpoint, guided_json='{"maximum": ' + str(2**64) + "}"))
    assert (error.param, error.code) == ("guided_json", "invalid_value")
    error = refusal(request_of(endpoint, guided_json='{"a":' * 65 + "{}" + "}" * 65))
    assert (error.param, error.code) == ("guided_json", "invalid_value")


# Tools


@pytest.mark.parametrize(
    ("choice", "strict", "is_refused"),
    [("auto", None, False), ("auto", True, True), ("required", None, True), ("required", False, False),
     ("none", True, False)],
)  # fmt: skip
def test_unsupported_tool_schemas_are_rejected_if_calls_are_constrained(choice, strict, is_refused):
    more = {} if strict is None else {"strict": strict}
    request = request_of("chat", tools=[tool(parameters=UNSUPPORTED, **more)], tool_choice=choice)
    if not is_refused:
        assert prepare(request) == request
        return
    error = refusal(request)
    assert (error.param, error.code) == ("tools[0].function.parameters", "invalid_value")
    assert error.message == (
        "The schema in 'tools[0].function.parameters' uses 'not', which the engine does not support."
    )


@pytest.mark.parametrize("choice", [None, "auto", "required", {"type": "function", "function": {"name": "f"}}])
@pytest.mark.parametrize("strict", [True, False, None])
def test_a_tool_that_takes_long_to_compile_is_rejected_strict_or_not(choice, strict):
    expensive = tool(parameters={"properties": {"a": {"pattern": MANY_OPTIONAL_PARTS}}}, strict=strict)
    error = refusal(request_of("chat", tools=[tool("g"), expensive], tool_choice=choice))
    assert (error.param, error.code) == ("tools[1].function.parameters", "invalid_value")


@pytest.mark.parametrize("mode", ["auto", "required"])
def test_an_allowed_tool_is_reported_by_its_index_in_tools(mode):
    tools = [
        tool("a", parameters=UNSUPPORTED, strict=True),
        tool("b"),
        tool("c", parameters=UNSUPPORTED, strict=True),
    ]
    choice = allowed("b", "c", mode=mode)
    assert refusal(request_of("chat", tools=tools, tool_choice=choice)).param == "tools[2].function.parameters"
    assert prepare(request_of("chat", tools=tools, tool_choice=allowed("b", mode=mode)))


def test_tools_without_param_names_are_reported_by_their_index():
    tools = [Function(name="a"), Function(name="b", parameters=UNSUPPORTED, strict=True)]
    talk = Conversation(messages=TALK, tools=tools, tool_choice=ToolChoice.AUTO)
    error = refusal(GenerationRequest(prompt=talk, sampling=SamplingParameters()))
    assert error.param == "tools[1].function.parameters"


def test_strict_tools_are_normalized_in_a_copy():
    parameters = {"type": "object", "properties": {"a": SHORT}}
    tools = [tool("f", parameters=parameters, strict=True), tool("g", parameters=parameters)]
    request = request_of("chat", tools=tools)
    before = copy.deepcopy(request)
    strict, loose = prepare(request).prompt.tools
    assert strict.parameters == {"type": "object", "properties": {"a": SHORT_PATTERN}}
    assert loose.parameters == parameters
    assert request == before


@pytest.mark.parametrize("choice", ["required", {"type": "function", "function": {"name": "f"}}])
def test_forced_calls_follow_a_loose_schema_where_it_is_supported(choice):
    loose = tool("f", parameters={"type": "object", "properties": {"a": SHORT}}, strict=False)
    other = tool("g", parameters=UNSUPPORTED, strict=False)
    request = request_of("chat", tools=[loose, other], tool_choice=choice)
    first, second = prepare(request).prompt.tools
    assert (first.parameters["properties"], first.strict) == ({"a": SHORT_PATTERN}, True)
    assert (second, second.strict) == (request.prompt.tools[1], False)


def test_the_rest_of_a_conversation_is_unchanged():
    request = request_of("chat", tools=[tool(parameters={"properties": {"a": SHORT}}, strict=True)], seed=5)
    prepared = prepare(request)
    assert prepared != request
    assert msgspec.structs.replace(prepared.prompt, tools=request.prompt.tools) == request.prompt
    assert msgspec.structs.replace(prepared, prompt=request.prompt) == request


def test_tools_and_structured_outputs_are_both_prepared():
    tools = [tool(parameters={"type": "object", "properties": {"a": SHORT}}, strict=True)]
    prepared = prepare(request_of("chat", tools=tools, guided_json=SHORT))
    assert prepared.prompt.tools[0].parameters["properties"]["a"] == SHORT_PATTERN
    assert prepared.sampling.structured_outputs.json == SHORT_PATTERN


def test_prompts_of_one_request_share_the_preparation_of_their_form(monkeypatch):
    normalized = []
    monkeypatch.setattr(
        prepare_module, "normalize_schema", lambda schema, param: normalized.append(param) or {"type": "string"}
    )
    decoder, least = BODIES["completions"]
    body = decoder.decode(msgspec.json.encode(least | {"prompt": ["a", "b", "c"], "guided_json": SHORT}))
    prepared = [prepare(request) for request in body.to_requests()]
    assert normalized == ["guided_json"]
    assert [request.sampling.structured_outputs.json for request in prepared] == [{"type": "string"}] * 3


def test_what_is_refused_here_has_not_reached_the_engine():
    with pytest.raises(InvalidRequestError) as caught:
        prepare(request_of("chat", bad_words=[str(number) for number in range(MAX_BAD_WORDS + 1)]))
    assert caught.value.has_reached_engine is False
