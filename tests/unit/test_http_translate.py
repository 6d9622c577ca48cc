import base64
import struct

import msgspec
import pytest

from adapters.vllm.dialect.pattern import length_pattern
from adapters.vllm.dialect.prepare import prepare
from adapters.vllm.http.errors import translate_errors
from adapters.vllm.http.translate import (
    MAX_TOP_LOGPROBS,
    chat_body,
    chat_delta,
    completion_body,
    delta,
    embedding_body,
    embedding_result,
    tokenize_body,
    usage_of,
)
from adapters.vllm.http.wire import (
    ServerChatChoice,
    ServerChatLogprob,
    ServerChatLogprobs,
    ServerChatMessage,
    ServerChoice,
    ServerEmbedding,
    ServerEmbeddings,
    ServerFunction,
    ServerLogprobs,
    ServerToolCall,
    ServerTopLogprob,
    ServerUsage,
    ServerUsageDetails,
)
from domain.conversation import Conversation, Function, ToolChoice, UserMessage
from domain.errors import BackendFailedError, InvalidRequestError
from domain.requests import GenerationRequest, TokenizeRequest
from domain.results import FinishReason, GenerationUsage, TokenLogprob, ToolCallDelta
from domain.sampling import SamplingParameters, StructuredOutputs

PLAIN = GenerationRequest(prompt="x", sampling=SamplingParameters())


def packed(*numbers: float) -> bytes:
    return struct.pack(f"<{len(numbers)}f", *numbers)


def answer(*vectors: tuple[int, bytes]) -> ServerEmbeddings:
    data = [ServerEmbedding(index, base64.b64encode(vector).decode()) for index, vector in vectors]
    return ServerEmbeddings(data=data, usage=ServerUsage(prompt_tokens=9))


def request_of(*, prompt="x", **sampling) -> GenerationRequest:
    names = ("echo", "truncate_prompt_tokens", "add_special_tokens")
    own = {name: sampling.pop(name) for name in names if name in sampling}
    return GenerationRequest(prompt=prompt, sampling=SamplingParameters(**sampling), **own)


def body(*, max_model_len: int | None = None, stream: bool = False, **fields) -> dict:
    request = request_of(**fields)
    return completion_body(request, request.prompt, model="m", max_model_len=max_model_len, streams=stream)


def chat_fields(
    *, max_model_len: int | None = None, conversation: dict | None = None, stream: bool = False, **fields
) -> dict:
    talk = Conversation(messages=[UserMessage(content="hi")], **(conversation or {}))
    return chat_body(
        request_of(prompt=talk, **fields), talk, model="m", max_model_len=max_model_len, streams=stream
    )


def embedding_fields(inputs, dimensions=None, truncate=None, add_special_tokens=True) -> dict:
    return embedding_body(
        inputs, model="m", dimensions=dimensions, truncate=truncate, add_special_tokens=add_special_tokens
    )


def test_embeddings_are_requested_as_base64():
    assert embedding_fields(["a", "b"]) == {"model": "m", "input": ["a", "b"], "encoding_format": "base64"}


def test_dimensions_are_sent_only_if_set():
    assert embedding_fields([[1, 2]], dimensions=4)["dimensions"] == 4
    assert "dimensions" not in embedding_fields([[1, 2]])


def test_truncation_and_special_tokens_are_sent_only_if_set():
    asked = embedding_fields(["a"], truncate=-1, add_special_tokens=False)
    assert (asked["truncate_prompt_tokens"], asked["add_special_tokens"]) == (-1, False)


def test_vectors_come_in_the_order_of_their_indices():
    result = embedding_result(answer((1, packed(3, 4)), (0, packed(1, 2))), expected=2)
    assert result.vectors == packed(1, 2, 3, 4)
    assert (result.dimensions, result.prompt_tokens) == (2, 9)


@pytest.mark.parametrize(
    "incomplete",
    [
        answer(),
        answer((0, packed(1, 2))),
        answer((0, packed(1)), (1, packed(1)), (2, packed(1))),
        answer((0, packed(1, 2)), (1, packed(1))),
        answer((0, packed(1)), (0, packed(1))),
        answer((0, packed(1)), (2, packed(1))),
    ],
    ids=["none", "too few", "too many", "different lengths", "one twice", "a gap"],
)
def test_an_incomplete_set_of_vectors_is_an_error(incomplete):
    with pytest.raises(BackendFailedError):
        embedding_result(incomplete, expected=2)


@pytest.mark.parametrize("vector", [b"", b"12345"], ids=["empty", "cut"])
def test_an_invalid_float32_row_is_an_error(vector):
    with pytest.raises(BackendFailedError):
        embedding_result(answer((0, vector)), expected=1)


@pytest.mark.parametrize("text", ["AAAAA", "é"], ids=["padding", "alphabet"])
def test_invalid_base64_is_an_error(text):
    wrong = ServerEmbeddings(data=[ServerEmbedding(0, text)], usage=ServerUsage(prompt_tokens=1))
    with pytest.raises(BackendFailedError), translate_errors("embedding"):
        embedding_result(wrong, expected=1)


def test_unset_parameters_are_omitted():
    assert body() == {
        "model": "m",
        "prompt": "x",
        "max_tokens": 16,
        "n": 1,
        "stop": [],
        "echo": False,
        "stream": False,
    }


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("max_tokens", 0),
        ("n", 3),
        ("temperature", 0.0),
        ("top_p", 0.5),
        ("stop", ["a", "b"]),
        ("seed", 0),
        ("logprobs", 0),
        ("presence_penalty", 0.0),
        ("frequency_penalty", -1.0),
    ],
)
def test_set_parameters_are_sent_even_if_zero(name, value):
    assert body(**{name: value})[name] == value


def test_token_ids_are_sent_unchanged():
    assert body(prompt=[1, 2, 3])["prompt"] == [1, 2, 3]


def test_logit_bias_keys_become_strings():
    assert body(logit_bias={7: -1.5})["logit_bias"] == {"7": -1.5}


def test_a_stream_requests_usage():
    streaming = body(stream=True, echo=True)
    assert (streaming["stream"], streaming["echo"]) == (True, True)
    assert streaming["stream_options"] == {"include_usage": True}


@pytest.mark.parametrize(
    ("said", "reason"), [(None, None), ("stop", FinishReason.STOP), ("length", FinishReason.LENGTH)]
)
def test_a_choice_becomes_a_delta(said, reason):
    got = delta(ServerChoice(index=2, text="abc", finish_reason=said), PLAIN)
    assert (got.index, got.text, got.logprobs, got.finish_reason) == (2, "abc", None, reason)


def test_an_aborted_choice_is_an_error():
    with pytest.raises(BackendFailedError):
        delta(ServerChoice(index=0, text="ab", finish_reason="abort"), PLAIN)


def test_parallel_lists_become_one_list_of_tokens():
    lists = ServerLogprobs(["a", "b"], [None, -0.5], [None, {"b": -0.5, "c": -1.0}])
    assert delta(ServerChoice(index=0, logprobs=lists), PLAIN).logprobs == [
        TokenLogprob("a", None, None),
        TokenLogprob("b", -0.5, [("b", -0.5), ("c", -1.0)]),
    ]


def test_parallel_lists_of_different_lengths_are_an_error():
    lists = ServerLogprobs(["a", "b"], [-0.5], [None, None])
    with pytest.raises(BackendFailedError), translate_errors("generation"):
        delta(ServerChoice(index=0, logprobs=lists), PLAIN)


# What the engine may reject


def test_max_tokens_is_limited_to_the_context():
    # vLLM rejects a larger number, but this service accepts it.
    assert body(max_tokens=9999, max_model_len=256)["max_tokens"] == 256
    assert body(max_tokens=5, max_model_len=256)["max_tokens"] == 5
    assert chat_fields(max_tokens=9999, max_model_len=256)["max_tokens"] == 256


def test_unlimited_max_tokens_is_omitted():
    # vLLM's default for a completion is 16, and for a chat the rest of the context.
    assert "max_tokens" not in chat_fields(max_tokens=None, max_model_len=256)


@pytest.mark.parametrize("ask", [body, chat_fields])
@pytest.mark.parametrize(
    ("name", "value"),
    [("truncate_prompt_tokens", -1), ("truncate_prompt_tokens", 0), ("add_special_tokens", False)],
)
def test_prompt_parameters_are_sent_if_set(ask, name, value):
    assert ask(**{name: value})[name] == value
    assert name not in ask()


def test_an_abort_with_structured_outputs_is_reported_for_their_field():
    request = request_of(structured_outputs=StructuredOutputs(regex="a+"), structured_outputs_param="guided_regex")
    with pytest.raises(InvalidRequestError) as caught:
        delta(ServerChoice(index=0, finish_reason="abort"), request)
    assert caught.value.param == "guided_regex"


STOPPED = request_of(stop=["x", "end"])


@pytest.mark.parametrize(("reason", "sequence"), [("end", "end"), ("</s>", None), (7, None), (None, None)])
def test_the_stop_sequence_is_one_of_the_request(reason, sequence):
    sent = {"index": 0, "finish_reason": "stop", "stop_reason": reason}
    assert delta(msgspec.convert(sent, ServerChoice), STOPPED).stop_sequence == sequence
    assert chat_delta(msgspec.convert(sent, ServerChatChoice), STOPPED).stop_sequence == sequence


# Chat


def test_a_chat_body_has_the_messages():
    assert chat_fields() == {
        "model": "m",
        "messages": [{"role": "user", "content": "hi"}],
        "max_tokens": 16,
        "n": 1,
        "stop": [],
        "stream": False,
        "add_generation_prompt": True,
        "continue_final_message": False,
    }


def test_a_streamed_chat_requests_usage():
    asked = chat_fields(stream=True)
    assert asked["stream"] is True
    assert asked["stream_options"] == {"include_usage": True}


def test_a_chat_requests_logprobs_only_if_set():
    assert {"logprobs", "top_logprobs"}.isdisjoint(chat_fields())


@pytest.mark.parametrize("wanted", [0, 1, 5, 19, 20])
def test_top_logprobs_of_a_chat_are_within_vllms_limit(wanted):
    asked = chat_fields(logprobs=wanted)
    assert asked["logprobs"] is True
    assert wanted <= asked["top_logprobs"] <= MAX_TOP_LOGPROBS


@pytest.mark.parametrize("name", ["echo", "prompt", "suffix"])
def test_a_chat_body_has_no_completion_fields(name):
    assert name not in chat_fields()


TOOL = Function(name="f", parameters={"type": "object", "properties": {}})


def test_tools_are_sent_with_tool_choice():
    asked = chat_fields(conversation={"tools": [TOOL], "tool_choice": ToolChoice.AUTO})
    assert asked["tools"] == [
        {"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {}}}}
    ]
    assert asked["tool_choice"] == "auto"


def test_strict_tools_are_sent_normalized():
    parameters = {"type": "object", "properties": {"a": {"type": "string", "maxLength": 3}}}
    loose, strict = (
        Function(name="f", parameters=parameters),
        Function(name="g", parameters=parameters, strict=True),
    )
    talk = Conversation(messages=[UserMessage(content="hi")], tools=[loose, strict], tool_choice=ToolChoice.AUTO)
    prepared = prepare(request_of(prompt=talk))
    asked = chat_body(prepared, prepared.prompt, model="m", max_model_len=None, streams=False)
    sent = [tool["function"]["parameters"]["properties"]["a"] for tool in asked["tools"]]
    assert sent[0] == {"type": "string", "maxLength": 3}
    assert sent[1] == {"type": "string", "pattern": length_pattern(0, 3)}
    assert parameters["properties"]["a"] == {"type": "string", "maxLength": 3}


def chat(*, stream: bool = False, logprobs=None, finish_reason=None, **message):
    said = ServerChatMessage(**message)
    choice = ServerChatChoice(
        index=1,
        message=None if stream else said,
        delta=said if stream else None,
        logprobs=logprobs,
        finish_reason=finish_reason,
    )
    return chat_delta(choice, PLAIN)


@pytest.mark.parametrize("stream", [False, True])
def test_a_message_or_its_delta_becomes_a_delta(stream):
    got = chat(stream=stream, content="abc", finish_reason="length")
    assert (got.index, got.text, got.reasoning, got.tool_calls) == (1, "abc", "", [])
    assert got.finish_reason is FinishReason.LENGTH


@pytest.mark.parametrize("name", ["reasoning", "reasoning_content"])
def test_reasoning_is_read_under_both_names(name):
    got = chat(content=None, **{name: "hm"})
    assert (got.text, got.reasoning) == ("", "hm")


def test_tool_calls_of_a_message_are_numbered():
    calls = [ServerToolCall(id=f"c{i}", function=ServerFunction(name="f", arguments="{}")) for i in (0, 1)]
    assert chat(tool_calls=calls).tool_calls == [
        ToolCallDelta(index=0, id="c0", name="f", arguments="{}"),
        ToolCallDelta(index=1, id="c1", name="f", arguments="{}"),
    ]


def test_a_tool_call_delta_keeps_its_index():
    part = ServerToolCall(index=2, function=ServerFunction(arguments='{"a'))
    assert chat(stream=True, tool_calls=[part]).tool_calls == [ToolCallDelta(index=2, arguments='{"a')]


MARKED = '<tool_call>\n{"name": "f", "arguments": {"a": "</tool_call>"}}\n</tool_call>'
CUT = '<tool_call>\n{"name": "f", "arguments": {"a": "</to'


@pytest.mark.parametrize(
    ("content", "arguments"), [(MARKED, '{"a": "</tool_call>"}'), (CUT, '{"a": "</to')], ids=["marked", "cut off"]
)
@pytest.mark.parametrize("choice", [ToolChoice.REQUIRED, ToolChoice.NAMED])
def test_a_forced_call_that_the_server_missed_is_parsed(choice, content, arguments):
    talk = Conversation(
        messages=[], tools=[TOOL], tool_choice=choice, tool_name="f" if choice is ToolChoice.NAMED else None
    )
    said = ServerChatChoice(index=0, message=ServerChatMessage(content=content), finish_reason="length")
    got = chat_delta(said, request_of(prompt=talk))
    (call,) = got.tool_calls
    assert (got.text, call.index, call.name, call.arguments) == ("", 0, "f", arguments)
    assert call.id


def test_the_start_of_a_forced_call_leaves_no_markup():
    talk = Conversation(messages=[], tools=[TOOL], tool_choice=ToolChoice.REQUIRED)
    said = ServerChatChoice(index=0, message=ServerChatMessage(content='<tool_call>\n{"na'))
    got = chat_delta(said, request_of(prompt=talk))
    assert (got.text, got.tool_calls) == ("", [])


@pytest.mark.parametrize("choice", [ToolChoice.AUTO, ToolChoice.NONE])
def test_unforced_calls_in_the_text_stay_text(choice):
    talk = Conversation(messages=[], tools=[TOOL], tool_choice=choice)
    said = ServerChatChoice(index=0, message=ServerChatMessage(content=CUT))
    assert chat_delta(said, request_of(prompt=talk)).text == CUT


def test_finish_reason_tool_calls_becomes_stop():
    assert chat(finish_reason="tool_calls").finish_reason is FinishReason.STOP


def test_an_aborted_chat_is_an_error():
    with pytest.raises(BackendFailedError):
        chat(finish_reason="abort")


def test_log_probabilities_of_a_chat_become_tokens():
    item = ServerChatLogprob("a", -0.5, [ServerTopLogprob("a", -0.5), ServerTopLogprob("b", -1.0)])
    assert chat(logprobs=ServerChatLogprobs(content=[item])).logprobs == [
        TokenLogprob("a", -0.5, [("a", -0.5), ("b", -1.0)])
    ]
    assert chat().logprobs is None


def test_a_choice_without_a_message_is_an_empty_delta():
    got = chat_delta(ServerChatChoice(index=0), PLAIN)
    assert (got.text, got.reasoning, got.tool_calls, got.finish_reason) == ("", "", [], None)


def test_usage_includes_reasoning_tokens():
    reported = ServerUsage(7, 5, completion_tokens_details=ServerUsageDetails(reasoning_tokens=3))
    assert usage_of(reported, PLAIN) == GenerationUsage(prompt_tokens=7, completion_tokens=5, reasoning_tokens=3)
    assert usage_of(ServerUsage(7, 5), PLAIN).reasoning_tokens is None
    assert usage_of(ServerUsage(7), PLAIN).completion_tokens == 0


@pytest.mark.parametrize(
    ("sent", "cached"),
    [
        ({"prompt_tokens_details": {"cached_tokens": 16, "created_cache_tokens": None}}, 16),
        ({"prompt_tokens_details": {"cached_tokens": 0}}, 0),
        ({"prompt_tokens_details": {"cached_tokens": None}}, None),
        ({"prompt_tokens_details": None}, None),
        ({}, None),
    ],
)
def test_cached_tokens_are_those_that_the_server_reports(sent, cached):
    reported = msgspec.convert({"prompt_tokens": 40, "completion_tokens": 5} | sent, ServerUsage)
    assert usage_of(reported, PLAIN).cached_tokens == cached


# Tokens


def test_a_text_is_tokenized_unchanged():
    asked = tokenize_body(TokenizeRequest(prompt="abc"), model="m")
    assert asked == {"model": "m", "prompt": "abc", "return_token_strs": False}


@pytest.mark.parametrize("wanted", [True, False])
def test_special_tokens_are_sent_if_set(wanted):
    request = TokenizeRequest(prompt="abc", add_special_tokens=wanted, with_strings=True)
    asked = tokenize_body(request, model="m")
    assert (asked["add_special_tokens"], asked["return_token_strs"]) == (wanted, True)


def test_a_conversation_is_tokenized_like_a_chat():
    talk = Conversation(
        messages=[UserMessage(content="hi")],
        tools=[TOOL],
        tool_choice=ToolChoice.AUTO,
        template_arguments={"enable_thinking": False},
        add_generation_prompt=False,
        continue_final_message=True,
    )
    asked = tokenize_body(TokenizeRequest(prompt=talk), model="m")
    assert asked["messages"] == [{"role": "user", "content": "hi"}]
    assert asked["tools"][0]["function"]["name"] == "f"
    assert asked["chat_template_kwargs"] == {"enable_thinking": False}
    assert (asked["add_generation_prompt"], asked["continue_final_message"]) == (False, True)
    assert "tool_choice" not in asked
