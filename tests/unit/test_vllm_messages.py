import pytest

from adapters.vllm.dialect.refusals import (
    form_param,
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
    # Said of a prompt that fills the context: nothing is left for an answer.
    "max_tokens must be at least 1, got 0. (parameter=max_tokens, value=0)",
]
BIAS = "token_id(s) [999999] in logit_bias contain out-of-vocab token ids. Vocabulary size: 49152"
DIMENSIONS = [
    "Model 'm' does not support Matryoshka embeddings; dimensions must be unset (received dimensions=4).",
    "Model 'm' only supports dimensions in range [1, 384], got 1000.",
    "Model 'm' only supports Matryoshka dimensions [64, 128], got 65.",
]


def heard(
    message: str, *, param: str = "prompt", max_model_len: int | None = 256, form: str | None = None
) -> InvalidRequestError:
    return refusal(message, param=param, model="the-model", max_model_len=max_model_len, form_param=form)


@pytest.mark.parametrize("message", TOO_LONG)
@pytest.mark.parametrize("param", ["prompt", "input"])
def test_a_prompt_that_is_too_long_is_told_in_openais_words(message, param):
    error = heard(message, param=param)
    assert isinstance(error, ContextLengthError)
    assert (error.param, error.code) == (param, "context_length_exceeded")
    assert "maximum context length is 256 tokens" in error.message


def test_the_context_length_is_the_services_own_knowledge():
    assert "None" not in heard(TOO_LONG[0], max_model_len=None).message


@pytest.mark.parametrize("token", ["49152", "-1"])
def test_a_token_outside_the_vocabulary_is_the_prompts_fault(token):
    error = heard(f"Token id {token} is out of vocabulary", param="input")
    assert (error.param, error.code) == ("input", "invalid_value")
    assert "'the-model'" in error.message


def test_a_bias_outside_the_vocabulary_is_the_biases_fault():
    error = heard(BIAS)
    assert (error.param, error.code) == ("logit_bias", "invalid_value")


@pytest.mark.parametrize("message", DIMENSIONS)
def test_other_dimensions_than_the_models_own_are_told_as_unsupported(message):
    error = heard(message, param="input")
    assert (error.param, error.code) == ("dimensions", "unsupported_value")


def test_any_other_refusal_keeps_vllms_sentence():
    error = heard("best_of is not supported.")
    assert type(error) is InvalidRequestError
    assert (error.message, error.param, error.code) == ("best_of is not supported.", None, None)


def test_vllms_bookkeeping_is_left_out():
    # It may hold the whole prompt.
    error = heard("Something is wrong. (parameter=prompt, value=a secret\ntext)")
    assert error.message == "Something is wrong."


@pytest.mark.parametrize("message", ["Wrong (and odd) value.", "Wrong value (and odd)"])
def test_brackets_that_belong_to_a_sentence_stay(message):
    assert heard(message).message == message


@pytest.mark.parametrize(
    ("message", "param"),
    [
        ("stop_token_ids contain out-of-vocab token ids", "stop_token_ids"),
        ("stop_token_ids [99999] must be in the vocabulary.", "stop_token_ids"),
        ("allowed_token_ids contains out-of-vocab token id!", "allowed_token_ids"),
    ],
)
def test_other_lists_of_tokens_are_told_by_their_names(message, param):
    error = heard(message)
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
def test_bad_words_are_told_by_their_name(message):
    error = heard(message, form="response_format")
    assert (error.param, error.code) == ("bad_words", "invalid_value")


def test_more_tokens_than_there_is_room_for_are_told_with_the_context():
    error = heard("min_tokens must be less than or equal to max_tokens=250, got 9000. (parameter=min_tokens)")
    assert (error.param, error.code) == ("min_tokens", "invalid_value")
    assert "256 tokens" in error.message


def test_a_prompt_of_no_tokens_is_told_by_its_name():
    error = heard("The decoder prompt cannot be empty", param="messages")
    assert (error.param, error.code) == ("messages", "empty_input")


def test_a_model_without_a_template_is_no_chat_model():
    error = heard(
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
def test_a_server_that_can_not_read_calls_says_how_it_could(message):
    error = heard(message, param="messages", form="tools")
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
def test_a_form_that_can_not_be_followed_is_told_by_the_field_that_asked_for_it(message, form):
    error = heard(message, form=form)
    assert (error.param, error.code) == (form, "invalid_value")
    assert message in error.message


@pytest.mark.parametrize("message", GRAMMAR)
def test_the_same_sentence_without_a_form_is_kept_as_it_is(message):
    error = heard(message)
    assert (error.message, error.param) == (message, None)


def test_what_is_said_of_a_form_is_cut():
    assert len(heard("Grammar error: " + "x" * 5000, form="guided_regex").message) < 1000


def test_a_prompt_that_is_too_long_is_told_as_such_though_there_is_a_form():
    assert isinstance(heard(TOO_LONG[0], form="response_format"), ContextLengthError)


@pytest.mark.parametrize("word", ["dimensions", "logit_bias", "stop_token_ids"])
def test_a_schema_may_have_properties_named_like_parameters(word):
    error = heard(f"Grammar error: invalid JSON schema for the property '{word}'", form="response_format")
    assert error.param == "response_format"


# Which field a grammar would be made of


def asking(form: str | None = None, **conversation) -> GenerationRequest:
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
        (asking(), None),
        (asking("guided_json"), "guided_json"),
        (asking("response_format", tools=[]), "response_format"),
        (asking(tools=FREE, tool_choice=ToolChoice.AUTO), None),
        (asking(tools=STRICT, tool_choice=ToolChoice.AUTO), "tools"),
        (asking(tools=FREE, tool_choice=ToolChoice.REQUIRED), "tools"),
        (asking(tools=FREE, tool_choice=ToolChoice.NAMED, tool_name="f"), "tools"),
        (asking("response_format", tools=FREE, tool_choice=ToolChoice.AUTO), "response_format"),
    ],
)
def test_a_grammar_is_made_of_the_form_or_of_the_tools(request_, param):
    assert form_param(request_) == param


def test_a_generation_that_was_given_up_for_its_form_is_the_forms_fault():
    error = generation_aborted(asking("guided_json"))
    assert type(error) is InvalidRequestError
    assert (error.param, error.code) == ("guided_json", "invalid_value")


def test_a_form_that_a_model_does_not_reach_after_its_thinking_is_not_the_forms_fault():
    error = generation_aborted(asking("response_format"), has_reasoned=True)
    assert type(error) is BackendFailedError
    assert "try again" in error.message


def test_a_generation_that_was_given_up_without_a_form_is_the_engines_fault():
    assert type(generation_aborted(asking())) is BackendFailedError


def test_the_sentences_name_the_model():
    for error in (no_such_dimensions("the-model"), unknown_tokens("prompt", "the-model")):
        assert "'the-model'" in error.message
