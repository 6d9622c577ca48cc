import pytest

from domain.errors import InvalidRequestError
from domain.openai.common import MAX_TOKEN_ID, StreamOptions
from domain.openai.completions import MAX_PROMPTS, CompletionBody
from domain.sampling import SamplingParameters


def requests_of(**fields):
    return CompletionBody(**{"model": "m", "prompt": "x", **fields}).to_requests()


def sampling_of(**fields) -> SamplingParameters:
    return requests_of(**fields)[0].sampling


def refusal(**fields) -> InvalidRequestError:
    with pytest.raises(InvalidRequestError) as caught:
        requests_of(**fields)
    return caught.value


def test_defaults_are_openais_and_leave_the_rest_to_the_model():
    (request,) = requests_of()
    assert request.sampling == SamplingParameters(
        max_tokens=16,
        n=1,
        temperature=None,
        top_p=None,
        stop=[],
        seed=None,
        logprobs=None,
        presence_penalty=None,
        frequency_penalty=None,
        logit_bias=None,
    )
    assert request.echo is False


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("max_tokens", 5),
        ("n", 3),
        ("temperature", 0.0),
        ("temperature", 0.7),
        ("top_p", 0.9),
        ("seed", -1),
        ("seed", 0),
        ("logprobs", 0),
        ("logprobs", 5),
        ("presence_penalty", -2.0),
        ("frequency_penalty", 1.5),
    ],
)
def test_a_parameter_reaches_the_sampling(name, value):
    assert getattr(sampling_of(**{name: value}), name) == value


def test_echo_reaches_the_request():
    (request,) = requests_of(echo=True)
    assert request.echo is True


def test_each_prompt_is_a_request_with_the_same_sampling():
    requests = requests_of(prompt=["a", "b"], seed=7)
    assert [request.prompt for request in requests] == ["a", "b"]
    assert [request.sampling.seed for request in requests] == [7, 7]


def test_prompts_are_limited():
    assert len(requests_of(prompt=["a"] * MAX_PROMPTS)) == MAX_PROMPTS
    error = refusal(prompt=["a"] * (MAX_PROMPTS + 1))
    assert (error.param, error.code) == ("prompt", "array_above_max_length")


@pytest.mark.parametrize(
    ("stop", "stops"), [("\n", ["\n"]), (["a", "b"], ["a", "b"]), ([], []), (["a"] * 4, ["a"] * 4)]
)
def test_stop_is_one_sequence_or_several(stop, stops):
    assert sampling_of(stop=stop).stop == stops


def test_a_fifth_stop_sequence_is_rejected():
    error = refusal(stop=["a", "b", "c", "d", "e"])
    assert (error.param, error.code) == ("stop", "array_above_max_length")


@pytest.mark.parametrize("stop", ["", ["a", ""]])
def test_an_empty_stop_sequence_is_rejected(stop):
    assert refusal(stop=stop).param == "stop"


def test_biases_are_keyed_by_token_id():
    assert sampling_of(logit_bias={"50256": -100, "7": 1.5}).logit_bias == {50256: -100, 7: 1.5}


def test_an_empty_bias_is_none():
    assert sampling_of(logit_bias={}).logit_bias is None


@pytest.mark.parametrize("key", ["", "-1", "1.0", "a", " 1", "+1", "²", "١", str(MAX_TOKEN_ID + 1), "9" * 5000])
def test_a_bias_with_an_invalid_token_id_is_rejected(key):
    error = refusal(logit_bias={key: 1})
    assert (error.param, error.code) == ("logit_bias", "invalid_value")


def test_a_bias_with_a_too_large_token_id_after_zeros_is_rejected():
    assert refusal(logit_bias={"0" * 12 + "9" * 11: 1}).param == "logit_bias"


def test_a_bias_with_a_number_too_long_for_python_is_rejected():
    # int() refuses more than 4300 digits, zeros included.
    assert refusal(logit_bias={"0" * 5000: 1}).param == "logit_bias"


def test_stream_options_require_a_stream():
    assert refusal(stream_options=StreamOptions(include_usage=True)).param == "stream_options"
    assert refusal(stream_options=StreamOptions(), stream=False).param == "stream_options"


@pytest.mark.parametrize(
    ("options", "expected"),
    [(None, False), (StreamOptions(), False), (StreamOptions(include_usage=True), True)],
)
def test_include_usage_requests_usage(options, expected):
    body = CompletionBody(model="m", prompt="x", stream=True, stream_options=options)
    assert body.include_usage is expected
    assert len(body.to_requests()) == 1


@pytest.mark.parametrize(("best_of", "n"), [(1, None), (1, 1), (3, 3)])
def test_best_of_equal_to_n_is_accepted(best_of, n):
    assert sampling_of(best_of=best_of, n=n).n == best_of


@pytest.mark.parametrize(("best_of", "n"), [(1, None), (1, 1), (3, 3), (None, 2)])
def test_best_of_equal_to_n_generates_no_log_probabilities(best_of, n):
    assert sampling_of(best_of=best_of, n=n).logprobs is None


def test_best_of_zero_equals_none():
    # OpenAI's schema has 0 as its least value.
    assert sampling_of(best_of=0).n == 1


@pytest.mark.parametrize(("best_of", "n"), [(2, None), (2, 1), (20, 3)])
def test_best_of_generates_candidates_with_log_probabilities(best_of, n):
    sampling = sampling_of(best_of=best_of, n=n)
    assert (sampling.n, sampling.logprobs) == (best_of, 0)


@pytest.mark.parametrize("logprobs", [0, 3])
def test_requested_log_probabilities_are_kept_with_best_of(logprobs):
    assert sampling_of(best_of=2, logprobs=logprobs).logprobs == logprobs


@pytest.mark.parametrize(("best_of", "n"), [(1, 2), (2, 3)])
def test_fewer_candidates_than_choices_are_rejected(best_of, n):
    error = refusal(best_of=best_of, n=n)
    assert (error.param, error.code) == ("best_of", "invalid_value")


def test_best_of_can_not_be_streamed():
    error = refusal(best_of=2, stream=True)
    assert (error.param, error.code) == ("best_of", "unsupported_value")


@pytest.mark.parametrize(("best_of", "n"), [(1, 1), (2, 2)])
def test_best_of_equal_to_n_can_be_streamed(best_of, n):
    (request,) = requests_of(best_of=best_of, n=n, stream=True)
    assert request.sampling.n == best_of


def test_a_suffix_reaches_the_request_and_an_empty_one_is_none():
    assert requests_of(suffix="end")[0].suffix == "end"
    assert requests_of(suffix="")[0].suffix is None
    assert requests_of()[0].suffix is None


def test_a_suffix_requires_a_text_prompt():
    assert refusal(suffix="end", prompt=[1, 2]).param == "suffix"
    assert refusal(suffix="end", prompt=[[1], [2]]).param == "suffix"
    assert len(requests_of(suffix="end", prompt=["a", "b"])) == 2
    assert len(requests_of(suffix="", prompt=[1, 2])) == 1


def test_an_echo_with_a_suffix_is_rejected():
    assert refusal(suffix="end", echo=True).param == "echo"
    assert requests_of(suffix="", echo=True)[0].echo


@pytest.mark.parametrize(("name", "value"), [("truncate_prompt_tokens", -1), ("add_special_tokens", False)])
def test_prompt_options_reach_the_request(name, value):
    assert getattr(requests_of(**{name: value})[0], name) == value
    assert getattr(requests_of()[0], name) is None


def test_zero_tokens_are_accepted_only_with_echo():
    assert sampling_of(max_tokens=0, echo=True).max_tokens == 0
    error = refusal(max_tokens=0)
    assert (error.param, error.code) == ("max_tokens", "integer_below_min_value")
