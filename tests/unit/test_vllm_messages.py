import pytest

from adapters.vllm.dialect.refusals import (
    constrained_param,
    generation_aborted,
    no_such_dimensions,
    not_a_chat_model,
    refusal,
    unknown_tokens,
)
from domain.conversation import Conversation, Function, ToolChoice, UserMessage
from domain.errors import BackendFailedError, ContextLengthError, InvalidRequestError, WrongEndpointError
from domain.requests import GenerationRequest
from domain.sampling import SamplingParameters, StructuredOutputs

# As vLLM 0.32.0 writes them.
TOO_LONG = [
    "This model's maximum context length is 256 tokens. However, your prompt contains at least 257 input "
    "tokens, which exceeds this limit even without any output tokens. Please reduce the length of the input "
    "prompt.",
    "This model's maximum context length is 256 tokens. However, your prompt contains 9000 characters (more "
    "than 4096 characters, which is the upper bound for 256 input tokens). Please reduce the length of the "
    "input prompt.",
    "The decoder prompt (length 300) is longer than the maximum model length of 256. Make sure that "
    "`max_model_len` is no smaller than the number of text tokens.",
    "The decoder prompt (length 256) plus the number of requested output tokens (at least 1) is longer than "
    "the maximum model length of 256. Make sure that `max_model_len` is no smaller than the number of text "
    "tokens (prompt + requested output tokens).",
    # For a prompt that fills the context, so that no room is left for an answer.
    "max_tokens must be at least 1, got 0. (parameter=max_tokens, value=0)",
]
BIAS = "token_id(s) [999999] in logit_bias contain out-of-vocab token ids. Vocabulary size: 49152"
DIMENSIONS = [
    "Model 'm' does not support Matryoshka embeddings; dimensions must be unset (received dimensions=4).",
    "Model 'm' only supports dimensions in range [1, 384], got 1000.",
    "Model 'm' only supports Matryoshka dimensions [64, 128], got 65.",
]


def refused(
    message: str, *, param: str = "prompt", max_model_len: int | None = 256, form: str | None = None
) -> InvalidRequestError:
    return refusal(message, param=param, model="the-model", max_model_len=max_model_len, constrained_param=form)


@pytest.mark.parametrize("message", TOO_LONG)
@pytest.mark.parametrize("param", ["prompt", "input"])
def test_too_long_a_prompt_has_openais_error(message, param):
    error = refused(message, param=param)
    assert isinstance(error, ContextLengthError)
    assert (error.param, error.code) == (param, "context_length_exceeded")
    assert "256 tokens" in error.message


def test_too_long_a_prompt_is_told_from_one_that_fills_the_context():
    sentences = [refused(message).message.partition(".")[0] for message in TOO_LONG]
    exceeds, fills = "Input tokens exceed the configured", "This model's maximum context"
    assert [sentence.partition(" l")[0] for sentence in sentences] == [exceeds] * 3 + [fills] * 2


def test_an_unknown_context_length_is_omitted():
    assert "None" not in refused(TOO_LONG[0], max_model_len=None).message


@pytest.mark.parametrize("token", ["49152", "-1"])
def test_a_token_outside_the_vocabulary_is_reported_for_the_prompt(token):
    error = refused(f"Token id {token} is out of vocabulary", param="input")
    assert (error.param, error.code) == ("input", "invalid_value")
    assert "'the-model'" in error.message


def test_a_bias_outside_the_vocabulary_is_reported_for_logit_bias():
    error = refused(BIAS)
    assert (error.param, error.code) == ("logit_bias", "invalid_value")


@pytest.mark.parametrize("message", DIMENSIONS)
def test_unsupported_dimensions_are_reported(message):
    error = refused(message, param="input")
    assert (error.param, error.code) == ("dimensions", "unsupported_value")


def test_unknown_rejections_keep_vllms_message():
    error = refused("best_of is not supported.")
    assert type(error) is InvalidRequestError
    assert (error.message, error.param, error.code) == ("best_of is not supported.", None, None)


def test_vllms_parameter_note_is_removed():
    # It may contain the whole prompt.
    error = refused("Something is wrong. (parameter=prompt, value=a secret\ntext)")
    assert error.message == "Something is wrong."


@pytest.mark.parametrize("message", ["Wrong (and odd) value.", "Wrong value (and odd)"])
def test_other_parentheses_are_kept(message):
    assert refused(message).message == message


@pytest.mark.parametrize(
    ("message", "param"),
    [
        ("stop_token_ids contain out-of-vocab token ids", "stop_token_ids"),
        ("stop_token_ids [99999] must be in the vocabulary.", "stop_token_ids"),
        ("allowed_token_ids contains out-of-vocab token id!", "allowed_token_ids"),
    ],
)
def test_token_lists_are_reported_by_name(message, param):
    error = refused(message)
    assert (error.param, error.code) == (param, "invalid_value")
    assert "'the-model'" in error.message


@pytest.mark.parametrize(
    "message",
    [
        "bad_words cannot contain an empty string. Got bad_words=['logit_bias', '']",
        "bad_words entries must tokenize to at least one token. (parameter=bad_words, value=['a', '\u200b'])",
        "Too many bad words after tokenization: 129. The max number is 128. (parameter=bad_words, value=['json'])",
        "The model vocabulary size is 9, but the following tokens were specified as bad: [9]. All token id values "
        "should be integers satisfying: 0 <= token_id <= 8. (parameter=bad_words, value=['a'])",
    ],
)
def test_bad_words_are_reported_by_name(message):
    error = refused(message, form="response_format")
    assert (error.param, error.code) == ("bad_words", "invalid_value")


def test_too_large_min_tokens_is_reported_with_the_context_length():
    error = refused("min_tokens must be less than or equal to max_tokens=250, got 9000. (parameter=min_tokens)")
    assert (error.param, error.code) == ("min_tokens", "invalid_value")
    assert "256 tokens" in error.message


def test_an_empty_prompt_is_reported_by_name():
    error = refused("The decoder prompt cannot be empty", param="messages")
    assert (error.param, error.code) == ("messages", "empty_input")


def test_a_model_without_a_template_is_no_chat_model():
    error = refused(
        "As of transformers v4.44, default chat template is no longer allowed, so you must provide a chat "
        "template if the tokenizer does not define one.",
        param="messages",
    )
    assert type(error) is WrongEndpointError
    assert (error.status, error.param) == (404, "model")
    assert error.message == not_a_chat_model("the-model").message
    assert "v1/completions" in error.message


@pytest.mark.parametrize(
    "message",
    [
        '"auto" tool choice requires --enable-auto-tool-choice and --tool-call-parser to be set',
        'tool_choice="required" requires --tool-call-parser to be set',
    ],
)
def test_a_server_without_tool_parser_is_reported_with_a_remedy(message):
    error = refused(message, param="messages", form="tools")
    assert (error.param, error.code) == ("tools", "unsupported_parameter")
    assert "--tool-call-parser" in error.message


GRAMMAR = [
    "Grammar error: unexpected character",
    "Invalid JSON schema: unknown type",
    "Failed to convert the grammar from JSON schema to EBNF",
    "The provided regex is not supported by the regex engine",
    "Unsupported structural tag: triggers must not be empty",
]


@pytest.mark.parametrize("message", GRAMMAR)
@pytest.mark.parametrize("form", ["response_format", "guided_json", "structured_outputs", "tools"])
def test_grammar_errors_are_reported_for_the_requests_field(message, form):
    error = refused(message, form=form)
    assert (error.param, error.code) == (form, "invalid_value")
    assert message in error.message


@pytest.mark.parametrize("message", GRAMMAR)
def test_without_structured_outputs_the_same_message_is_kept(message):
    error = refused(message)
    assert (error.message, error.param) == (message, None)


def test_long_grammar_errors_are_truncated():
    assert len(refused("Grammar error: " + "x" * 5000, form="guided_regex").message) < 1000


def test_too_long_a_prompt_is_reported_despite_structured_outputs():
    assert isinstance(refused(TOO_LONG[0], form="response_format"), ContextLengthError)


@pytest.mark.parametrize("word", ["dimensions", "logit_bias", "stop_token_ids"])
def test_a_schema_may_have_properties_named_like_parameters(word):
    error = refused(f"Grammar error: invalid JSON schema for the property '{word}'", form="response_format")
    assert error.param == "response_format"


# Which field the grammar is compiled from


def request_of(form: str | None = None, **conversation) -> GenerationRequest:
    sampling = SamplingParameters()
    if form is not None:
        sampling = SamplingParameters(structured_outputs=StructuredOutputs(json={}), structured_outputs_param=form)
    prompt = Conversation(messages=[UserMessage(content="x")], **conversation) if conversation else "x"
    return GenerationRequest(prompt=prompt, sampling=sampling)


FREE, STRICT = [Function(name="f")], [Function(name="f"), Function(name="g", strict=True)]


@pytest.mark.parametrize(
    ("request_", "param"),
    [
        (None, None),
        (request_of(), None),
        (request_of("guided_json"), "guided_json"),
        (request_of("response_format", tools=[]), "response_format"),
        (request_of(tools=FREE, tool_choice=ToolChoice.AUTO), None),
        (request_of(tools=STRICT, tool_choice=ToolChoice.AUTO), "tools"),
        (request_of(tools=FREE, tool_choice=ToolChoice.REQUIRED), "tools"),
        (request_of(tools=FREE, tool_choice=ToolChoice.NAMED, tool_name="f"), "tools"),
        (request_of("response_format", tools=FREE, tool_choice=ToolChoice.AUTO), "response_format"),
    ],
)
def test_form_param_is_the_field_of_the_grammar(request_, param):
    assert constrained_param(request_) == param


def test_an_abort_with_structured_outputs_is_reported_for_their_field():
    error = generation_aborted(request_of("guided_json"))
    assert type(error) is InvalidRequestError
    assert (error.param, error.code) == ("guided_json", "invalid_value")


def test_an_abort_after_reasoning_is_retryable():
    error = generation_aborted(request_of("response_format"), has_reasoned=True)
    assert type(error) is BackendFailedError
    assert "try again" in error.message


def test_an_abort_without_structured_outputs_is_the_engines_error():
    assert type(generation_aborted(request_of())) is BackendFailedError


def test_messages_name_the_model():
    for error in (no_such_dimensions("the-model"), unknown_tokens("prompt", "the-model")):
        assert "'the-model'" in error.message
