"""Contract of every backend for conversations."""

import json
import random

import msgspec
import pytest
from jsonschema import validate

from domain.conversation import (
    AssistantMessage,
    Conversation,
    Function,
    FunctionCall,
    SystemMessage,
    TextPart,
    ToolCall,
    ToolChoice,
    ToolMessage,
    UserMessage,
)
from domain.errors import BackendFailedError, ContextLengthError, InvalidRequestError
from domain.requests import TokenizeRequest
from domain.results import FinishReason, TokenLogprob
from domain.sampling import StructuredOutputs
from tests.contract.cases import CONTEXT, Case, Generated, generate

WEATHER = Function(
    name="get_weather",
    description="The weather in a city",
    parameters={
        "type": "object",
        "properties": {
            "city": {"type": "string", "enum": ["Paris", "Rome"]},
            "days": {"type": "integer", "minimum": 1, "maximum": 9},
        },
        "required": ["city", "days"],
        "additionalProperties": False,
    },
    strict=True,
)
NOTHING = Function(name="nothing", parameters={"type": "object", "properties": {}}, strict=True)
PERSON = {
    "type": "object",
    "properties": {"name": {"enum": ["Ann", "Bob"]}, "age": {"type": "integer", "minimum": 0, "maximum": 99}},
    "required": ["name", "age"],
    "additionalProperties": False,
}


def conversation(*messages, thinks: bool = False, **fields) -> Conversation:
    return Conversation(
        messages=list(messages) or [UserMessage(content="Hello fox")],
        template_arguments={"enable_thinking": thinks},
        **fields,
    )


def without_white_space(case: Case) -> dict[int, float]:
    """A bias against white space, which a model with random weights prefers and most servers allow."""
    return {case.tokenize(text)[0]: -100.0 for text in (" ", "\n", "\t", "\r") if len(case.tokenize(text)) == 1}


STREAM = pytest.mark.parametrize("stream", [True, False], ids=["stream", "whole"])


async def test_joined_deltas_equal_the_complete_answer(generator: Case) -> None:
    parts = await generate(generator, conversation(), max_tokens=16)
    whole = await generate(generator, conversation(), max_tokens=16, stream=False)
    assert parts.text() == whole.text() != ""
    assert parts.usage == whole.usage
    assert len(parts.deltas) > len(whole.deltas) == 1


async def test_all_roles_and_text_parts_reach_the_prompt(generator: Case) -> None:
    short = await generate(generator, conversation(UserMessage(content="a b")))
    parts = await generate(generator, conversation(UserMessage(content=[TextPart(text="a b")])))
    long = await generate(
        generator,
        conversation(
            SystemMessage(content="Be kind."),
            UserMessage(content="w?"),
            AssistantMessage(tool_calls=[ToolCall(id="1", function=FunctionCall(name="f", arguments="{}"))]),
            ToolMessage(content="sunny", tool_call_id="1"),
            AssistantMessage(content="It is sunny.", reasoning_content="hm"),
            UserMessage(content="thanks"),
        ),
    )
    assert short.usage.prompt_tokens <= parts.usage.prompt_tokens < long.usage.prompt_tokens


@STREAM
async def test_usage_counts_cached_prompt_tokens(generator: Case, stream: bool) -> None:
    letters = "".join(random.choices("abcdefghijklmnopqrstuvwxyz", k=150))
    asked = conversation(UserMessage(content=letters))
    first, *again = [(await generate(generator, asked, stream=stream)).usage for _ in range(4)]
    assert first.cached_tokens == 0
    # Several servers have a cache each.
    assert again[-1].cached_tokens is not None
    assert 0 < again[-1].cached_tokens < again[-1].prompt_tokens


@STREAM
async def test_reasoning_is_separate_from_text(generator: Case, stream: bool) -> None:
    reasoning = await generate(generator, conversation(thinks=True), stream=stream)
    assert (reasoning.text(), reasoning.reasoning() != "") == ("", True)
    assert reasoning.usage.reasoning_tokens == reasoning.usage.completion_tokens == 8
    text = await generate(generator, conversation(), stream=stream)
    assert (text.text() != "", text.reasoning()) == (True, "")
    assert text.usage.reasoning_tokens == 0


async def test_without_a_limit_generation_fills_the_context(generator: Case) -> None:
    filled = await generate(generator, conversation(), max_tokens=None, stream=False, logit_bias={0: -100.0})
    assert filled.usage.prompt_tokens + filled.usage.completion_tokens == generator.max_model_len
    assert filled.finish_reason is FinishReason.LENGTH


@STREAM
async def test_several_choices(generator: Case, stream: bool) -> None:
    answers = await generate(
        generator, conversation(), n=3, temperature=1.5, seed=3, stream=stream, logit_bias={0: -100.0}
    )
    assert len({answers.text(index) for index in range(3)}) > 1
    assert answers.usage.completion_tokens == 24


@STREAM
@pytest.mark.parametrize("thinks", [False, True], ids=["text", "reasoning"])
async def test_the_last_delta_has_the_stop_sequence(generator: Case, stream: bool, thinks: bool) -> None:
    free = await generate(generator, conversation(thinks=thinks), max_tokens=16)
    stop = (free.reasoning() if thinks else free.text())[4:6]
    stopped = await generate(
        generator, conversation(thinks=thinks), max_tokens=16, stop=["never", stop], stream=stream
    )
    assert (stopped.finish_reason, stopped.deltas[-1].stop_sequence) == (FinishReason.STOP, stop)
    assert all(delta.stop_sequence is None for delta in stopped.deltas[:-1])


@STREAM
async def test_logprobs(generator: Case, stream: bool) -> None:
    answer = await generate(generator, conversation(), logprobs=2, stream=stream, logit_bias={0: -100.0})
    tokens = [token for delta in answer.deltas for token in delta.logprobs or []]
    assert len(tokens) == 8
    for token in tokens:
        assert token.logprob is not None
        assert token.top is not None
        assert len(token.top) >= 2
        assert token.token in [text for text, _ in token.top]
    bare = await generate(generator, conversation(), logprobs=0, stream=stream)
    assert all(token.logprob is not None for delta in bare.deltas for token in delta.logprobs or [])


def logprobs_of(answer: Generated) -> list[TokenLogprob]:
    return [token for delta in answer.deltas for token in delta.logprobs or []]


@STREAM
@pytest.mark.parametrize(
    "text", ["yes", "The quick brown fox", "n\u00e9 \u4e2d\U0001f98a!"], ids=["short", "long", "bytes"]
)
async def test_logprobs_are_those_of_the_text(generator: Case, stream: bool, text: str) -> None:
    """Not of the token that ends the turn."""
    if generator.is_fake and not text.isascii():
        pytest.skip("its tokens are ASCII characters")
    answer = await generate(
        generator,
        conversation(),
        structured_outputs=StructuredOutputs(choice=[text]),
        max_tokens=60,
        logprobs=2,
        stream=stream,
    )
    assert (answer.text(), answer.finish_reason) == (text, FinishReason.STOP)
    assert "".join(token.token for token in logprobs_of(answer)) == text
    assert len(logprobs_of(answer)) == answer.usage.completion_tokens - (0 if generator.is_fake else 1)


@STREAM
async def test_logprobs_end_before_a_stop_sequence(generator: Case, stream: bool) -> None:
    written = StructuredOutputs(choice=["The quick brown fox jumps over the lazy dog"])
    fields = {"structured_outputs": written, "max_tokens": 60}
    stop = "own f"
    if generator.is_fake:
        free = (await generate(generator, conversation(), max_tokens=16)).text()
        stop, fields = free[5:8], {"max_tokens": 16}
    answer = await generate(generator, conversation(), stop=[stop], logprobs=0, stream=stream, **fields)
    assert answer.deltas[-1].stop_sequence == stop
    assert answer.text() != ""
    assert "".join(token.token for token in logprobs_of(answer)) == answer.text()


@STREAM
async def test_reasoning_has_no_logprobs(generator: Case, stream: bool) -> None:
    answer = await generate(generator, conversation(thinks=True), logprobs=1, stream=stream)
    assert answer.reasoning() != ""
    assert logprobs_of(answer) == []


@pytest.mark.integration
@STREAM
async def test_logprobs_of_the_text_after_reasoning(generator: Case, stream: bool) -> None:
    if generator.is_fake:
        pytest.skip("its reasoning never ends")
    (end,) = generator.tokenize("</think>")
    answer = await generate(
        generator,
        conversation(thinks=True),
        structured_outputs=StructuredOutputs(choice=["quick fox"]),
        logit_bias={end: 8.0},
        seed=5,
        temperature=1.0,
        max_tokens=200,
        logprobs=1,
        stream=stream,
    )
    assert (answer.text(), answer.finish_reason) == ("quick fox", FinishReason.STOP)
    assert "".join(token.token for token in logprobs_of(answer)) == "quick fox"


@STREAM
async def test_tool_calls_have_no_logprobs(generator: Case, stream: bool) -> None:
    asked = conversation(tools=[WEATHER], tool_choice=ToolChoice.REQUIRED, parallel_tool_calls=False)
    bias = without_white_space(generator)
    answer = await generate(generator, asked, max_tokens=100, logprobs=1, stream=stream, logit_bias=bias)
    assert len(answer.calls()) == 1
    assert "".join(token.token for token in logprobs_of(answer)) == answer.text()


@STREAM
async def test_a_schema_is_followed(generator: Case, stream: bool) -> None:
    answer = await generate(
        generator,
        conversation(),
        structured_outputs=StructuredOutputs(json=PERSON),
        max_tokens=100,
        stream=stream,
        logit_bias=without_white_space(generator),
    )
    validate(json.loads(answer.text()), PERSON)
    assert answer.finish_reason is FinishReason.STOP


@STREAM
async def test_any_json_object(generator: Case, stream: bool) -> None:
    answer = await generate(
        generator,
        conversation(),
        structured_outputs=StructuredOutputs(json_object=True),
        max_tokens=200,
        stream=stream,
        logit_bias=without_white_space(generator),
    )
    assert isinstance(json.loads(answer.text()), dict)


async def test_a_choice_constraint_is_followed(generator: Case) -> None:
    answer = await generate(
        generator, conversation(), structured_outputs=StructuredOutputs(choice=["yes", "no"]), max_tokens=20
    )
    assert answer.text() in ("yes", "no")


@STREAM
@pytest.mark.parametrize(
    ("choice", "name"), [(ToolChoice.REQUIRED, None), (ToolChoice.NAMED, "get_weather")], ids=["required", "named"]
)
@pytest.mark.parametrize("strict", [True, False], ids=["strict", "loose"])
async def test_a_required_call_is_made(
    generator: Case, stream: bool, choice: ToolChoice, name: str | None, strict: bool
) -> None:
    tools = [msgspec.structs.replace(WEATHER, strict=strict)]
    asked = conversation(tools=tools, tool_choice=choice, tool_name=name, parallel_tool_calls=False)
    answer = await generate(
        generator, asked, max_tokens=100, stream=stream, logit_bias=without_white_space(generator)
    )
    (call,) = answer.calls()
    assert call.name == "get_weather"
    validate(json.loads(call.arguments), WEATHER.parameters)
    assert answer.text().strip() == ""


def noting(arguments: str) -> Conversation:
    """A conversation in which the model must call `note` with these arguments."""
    text = {"type": "string", "enum": [arguments]}
    note = {"type": "object", "properties": {"text": text}, "required": ["text"], "additionalProperties": False}
    tools = [Function(name="note", parameters=note, strict=True)]
    return conversation(tools=tools, tool_choice=ToolChoice.REQUIRED, parallel_tool_calls=False)


@pytest.mark.parametrize("stream", [True, False], ids=["stream", "whole"])
async def test_call_markers_in_arguments_are_text(generator: Case, stream: bool) -> None:
    if stream and generator.name == "vllm-http":
        pytest.skip("the server parses its own streams")
    text = 'a </tool_call> b <tool_call> "c" \\'
    answer = await generate(
        generator, noting(text), max_tokens=100, stream=stream, logit_bias=without_white_space(generator)
    )
    (call,) = answer.calls()
    assert (call.name, json.loads(call.arguments), answer.text()) == ("note", {"text": text}, "")


@STREAM
async def test_a_truncated_call_is_not_text(generator: Case, stream: bool) -> None:
    if generator.is_fake:
        pytest.skip("its calls are always complete")
    lengths = set()
    for max_tokens in (1, 3, 20, 24):
        answer = await generate(
            generator,
            noting("The quick brown fox jumps over the lazy dog"),
            max_tokens=max_tokens,
            stream=stream,
            logit_bias=without_white_space(generator),
        )
        assert (answer.text(), answer.finish_reason) == ("", FinishReason.LENGTH)
        for call in answer.calls():
            assert call.name == "note"
            assert '{"text": "The quick brown fox jumps over the lazy dog"}'.startswith(
                call.arguments.replace('{"text":"', '{"text": "')
            )
        lengths.add(len(answer.calls()))
    assert lengths == {0, 1}


@STREAM
async def test_strings_of_limited_length_are_valid_json(generator: Case, stream: bool) -> None:
    """Control characters must be escaped, so a model that is biased towards them can't generate them."""
    if generator.is_fake:
        pytest.skip("its output is unconstrained")
    control = dict.fromkeys(generator.tokenize("\x01"), 100.0)
    short = {"type": "string", "minLength": 3, "maxLength": 6}
    schema = {"type": "object", "properties": {"a": short}, "required": ["a"], "additionalProperties": False}
    form = StructuredOutputs(json=schema)
    answer = await generate(
        generator, conversation(), structured_outputs=form, max_tokens=60, stream=stream, logit_bias=control
    )
    validate(json.loads(answer.text()), schema)
    tools = [Function(name="f", parameters=schema, strict=True)]
    asked = conversation(tools=tools, tool_choice=ToolChoice.REQUIRED, parallel_tool_calls=False)
    answer = await generate(
        generator, asked, max_tokens=100, stream=stream, logit_bias=without_white_space(generator) | control
    )
    (call,) = answer.calls()
    validate(json.loads(call.arguments), schema)


async def test_the_named_tool_is_called(generator: Case) -> None:
    asked = conversation(tools=[WEATHER, NOTHING], tool_choice=ToolChoice.NAMED, tool_name="nothing")
    # The definitions of two tools leave no room for more.
    answer = await generate(generator, asked, max_tokens=50, logit_bias=without_white_space(generator))
    assert answer.calls()[0].name == "nothing"


@STREAM
async def test_a_call_by_the_models_choice_is_parsed(generator: Case, stream: bool) -> None:
    written = '<tool_call>\n{"name": "get_weather", "arguments": {"city": "Rome", "days": 3}}\n</tool_call>'
    lenient = Function(name="get_weather", parameters=WEATHER.parameters)
    answer = await generate(
        generator,
        conversation(tools=[lenient], tool_choice=ToolChoice.AUTO),
        structured_outputs=StructuredOutputs(choice=[written]),
        max_tokens=150,
        stream=stream,
    )
    (call,) = answer.calls()
    assert (call.name, json.loads(call.arguments)) == ("get_weather", {"city": "Rome", "days": 3})
    assert answer.text().strip() == ""
    assert answer.finish_reason is FinishReason.STOP


async def test_auto_tool_choice_does_not_force_a_call(generator: Case) -> None:
    lenient = Function(name="get_weather", parameters=WEATHER.parameters)
    answer = await generate(generator, conversation(tools=[lenient], tool_choice=ToolChoice.AUTO))
    assert answer.calls() == []
    assert answer.text() != ""


@STREAM
async def test_an_invalid_schema_is_rejected(generator: Case, stream: bool) -> None:
    bad = StructuredOutputs(json={"type": "nonsense"})
    with pytest.raises(InvalidRequestError) as caught:
        await generate(
            generator,
            conversation(),
            structured_outputs=bad,
            structured_outputs_param="response_format",
            stream=stream,
        )
    assert (caught.value.status, caught.value.param) == (400, "response_format")
    assert (await generate(generator, conversation())).text() != "", "and the engine goes on"


@pytest.mark.integration
@STREAM
async def test_aborted_reasoning_is_not_blamed_on_the_schema(generator: Case, stream: bool) -> None:
    """The parser treats a call marker as the end of reasoning, but the schema does not allow the marker."""
    if generator.is_fake:
        pytest.skip("its reasoning never ends")
    (mark,) = generator.tokenize("<tool_call>")
    with pytest.raises(BackendFailedError, match="try again"):
        await generate(
            generator,
            conversation(thinks=True),
            structured_outputs=StructuredOutputs(json=PERSON),
            structured_outputs_param="response_format",
            stream=stream,
            logit_bias={mark: 100.0},
        )
    assert (await generate(generator, conversation())).text() != "", "and the engine goes on"


async def tokens_of(case: Case, asked: Conversation) -> int:
    """The tokens of a rendered conversation."""
    return len((await case.backend.call(TokenizeRequest(prompt=asked), CONTEXT)).token_ids)


@STREAM
@pytest.mark.parametrize("max_tokens", [8, None])
async def test_a_conversation_longer_than_the_context_is_rejected(
    generator: Case, stream: bool, max_tokens: int | None
) -> None:
    asked = conversation(UserMessage(content="z1" * generator.max_model_len))
    with pytest.raises(ContextLengthError) as caught:
        await generate(generator, asked, stream=stream, max_tokens=max_tokens)
    assert caught.value.param == "messages"
    assert caught.value.message == (
        f"Input tokens exceed the configured limit of {generator.max_model_len} tokens. Your messages resulted in "
        f"{await tokens_of(generator, asked)} tokens. Please reduce the length of the messages."
    )


@STREAM
@pytest.mark.parametrize(
    "fields",
    [{}, {"tools": [WEATHER], "tool_choice": ToolChoice.AUTO}, {"reasoning_effort": "low"}],
    ids=["plain", "tools", "effort"],
)
async def test_an_answer_that_does_not_fit_behind_the_messages_is_rejected(
    generator: Case, stream: bool, fields: dict
) -> None:
    limit = generator.max_model_len
    asked = conversation(UserMessage(content="z1" * (40 if "tools" in fields else 200)), **fields)
    room = limit - (await generate(generator, asked, max_tokens=1)).usage.prompt_tokens
    for max_tokens in (room + 1, limit, 10_000_000):
        with pytest.raises(ContextLengthError) as caught:
            await generate(generator, asked, max_tokens=max_tokens, stream=stream)
        error = caught.value
        assert (error.status, error.code, error.param) == (400, "context_length_exceeded", "messages")
        assert f"({limit - room} in the messages, {max_tokens} in the completion)" in error.message
    if not fields:
        bias = {0: -100.0}
        filled = await generate(generator, asked, max_tokens=room, stream=stream, logit_bias=bias)
        assert filled.usage.completion_tokens == room


async def test_equal_requests_give_equal_answers(generator: Case) -> None:
    """Cancellation, concurrency and the rest are tested with prompts, which use the same code."""
    first = await generate(generator, conversation())
    again = await generate(generator, conversation())
    assert first.text() == again.text()
