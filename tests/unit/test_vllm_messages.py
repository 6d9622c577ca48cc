import pytest

from adapters.vllm_messages import refusal
from domain.errors import ContextLengthError, InvalidRequestError

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


def heard(message: str, *, param: str = "prompt", max_model_len: int | None = 256) -> InvalidRequestError:
    return refusal(message, param=param, model="the-model", max_model_len=max_model_len)


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
