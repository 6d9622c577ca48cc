"""Request fields that completions and chat completions share."""

import json
from typing import Any

import pytest

from app.http.codec import BodyDecoder
from domain.errors import InvalidRequestError
from domain.openai.chat import ChatBody
from domain.openai.completions import CompletionBody
from domain.openai.sampling import SamplingFields
from domain.sampling import SamplingParameters, StructuredOutputs

BODIES = {
    "completions": (BodyDecoder(CompletionBody), {"model": "m", "prompt": "x"}),
    "chat": (BodyDecoder(ChatBody), {"model": "m", "messages": [{"role": "user", "content": "x"}]}),
}
FORMS = {
    "json": {"type": "object"},
    "json_object": True,
    "regex": "a+",
    "choice": ["yes", "no"],
    "grammar": 'root ::= "a"',
    "structural_tag": "{}",
}
GUIDED = {
    "guided_json": ("json", {"type": "object"}),
    "guided_regex": ("regex", "a+"),
    "guided_choice": ("choice", ["yes", "no"]),
    "guided_grammar": ("grammar", 'root ::= "a"'),
}


@pytest.fixture(params=BODIES)
def sampling_of(request):
    """A function that returns the sampling parameters for fields of either endpoint."""
    decoder, least = BODIES[request.param]

    def sampling_of(**fields: Any) -> SamplingParameters:
        body = decoder.decode(json.dumps(least | fields).encode())
        if isinstance(body, ChatBody):
            return body.to_request(body.to_conversation()).sampling
        return body.to_requests()[0].sampling

    return sampling_of


@pytest.fixture
def refusal(sampling_of):
    def refusal(**fields: Any) -> InvalidRequestError:
        with pytest.raises(InvalidRequestError) as caught:
            sampling_of(**fields)
        return caught.value

    return refusal


def test_both_endpoints_have_all_shared_fields():
    shared = set(SamplingFields.__struct_fields__)
    assert shared <= set(ChatBody.__struct_fields__)
    assert shared <= set(CompletionBody.__struct_fields__)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("top_k", 0),
        ("top_k", -1),
        ("min_p", 0.0),
        ("min_p", 1.0),
        ("repetition_penalty", 0.5),
        ("min_tokens", 0),
        ("stop_token_ids", []),
        ("stop_token_ids", [0, 2**31 - 1]),
        ("allowed_token_ids", [0]),
        ("bad_words", []),
        ("ignore_eos", False),
        ("include_stop_str_in_output", False),
        ("skip_special_tokens", True),
        ("spaces_between_special_tokens", True),
        ("temperature", 0),
        ("seed", 0),
        ("presence_penalty", 0),
        ("frequency_penalty", 0),
    ],
)
def test_falsy_values_are_kept(sampling_of, name, value):
    assert getattr(sampling_of(**{name: value}), name) == value
    assert getattr(sampling_of(), name) is None


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("top_k", -2),
        ("top_k", 1.5),
        ("min_p", 1.1),
        ("min_p", -0.1),
        ("repetition_penalty", 0),
        ("repetition_penalty", -1),
        ("min_tokens", -1),
        ("stop_token_ids", 5),
        ("allowed_token_ids", "x"),
        ("bad_words", "x"),
        ("ignore_eos", 1),
        ("truncate_prompt_tokens", -2),
        ("temperature", -0.1),
        ("top_p", 1.01),
        ("presence_penalty", -2.01),
        ("frequency_penalty", 2.01),
        ("n", 0),
        ("n", 129),
        ("seed", 2**63),
        ("seed", 1.5),
        ("stop", 5),
        ("user", 5),
        ("stream", "yes"),
    ],
)
def test_invalid_values_are_rejected_by_name(refusal, name, value):
    assert refusal(**{name: value}).param == name


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"stop_token_ids": [1, -1]}, "stop_token_ids[1]"),
        ({"allowed_token_ids": [2**31]}, "allowed_token_ids[0]"),
        ({"bad_words": ["x", 1]}, "bad_words[1]"),
        ({"guided_choice": ["x", 1]}, "guided_choice[1]"),
        ({"stop_token_ids": [1] * 4097}, "stop_token_ids"),
        ({"allowed_token_ids": []}, "allowed_token_ids"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_invalid_items_are_rejected_by_path(refusal, fields, param):
    assert refusal(**fields).param == param


@pytest.mark.parametrize("name", ["n", "temperature", "top_p", "stop", "seed", "presence_penalty", "logit_bias"])
def test_null_equals_absent(sampling_of, name):
    assert sampling_of(**{name: None}) == sampling_of()


@pytest.mark.parametrize("biases", [{"7": 100}, {"7": -100, "0": 0.5}])
def test_biases_are_keyed_by_token_id(sampling_of, biases):
    assert sampling_of(logit_bias=biases).logit_bias == {int(key): value for key, value in biases.items()}


def test_min_tokens_must_not_exceed_max_tokens(sampling_of, refusal):
    assert sampling_of(min_tokens=5, max_tokens=5).min_tokens == 5
    assert refusal(min_tokens=6, max_tokens=5).param == "min_tokens"


def test_min_tokens_must_not_exceed_the_default_of_completions():
    decoder, least = BODIES["completions"]
    body = decoder.decode(json.dumps(least | {"min_tokens": 17}).encode())
    with pytest.raises(InvalidRequestError, match="16"):
        body.to_requests()


# Structured outputs


@pytest.mark.parametrize("form", FORMS)
def test_structured_outputs_are_accepted(sampling_of, form):
    sampling = sampling_of(structured_outputs={form: FORMS[form]})
    assert sampling.structured_outputs == StructuredOutputs(**{form: FORMS[form]})
    assert sampling.structured_outputs_param == "structured_outputs"


@pytest.mark.parametrize("name", GUIDED)
def test_guided_fields_are_accepted_and_named_in_errors(sampling_of, name):
    form, value = GUIDED[name]
    sampling = sampling_of(**{name: value})
    assert sampling.structured_outputs == StructuredOutputs(**{form: value})
    assert sampling.structured_outputs_param == name


@pytest.mark.parametrize("value", ['{"type": "object"}', {}])
def test_a_schema_may_be_text_or_empty(sampling_of, value):
    assert sampling_of(guided_json=value).structured_outputs == StructuredOutputs(json=value)
    assert sampling_of(structured_outputs={"json": value}).structured_outputs == StructuredOutputs(json=value)


def test_options_of_structured_outputs_are_kept(sampling_of):
    more = {"disable_any_whitespace": True, "disable_additional_properties": True, "whitespace_pattern": " ?"}
    form = sampling_of(structured_outputs={"json": {}, **more}).structured_outputs
    assert {name: getattr(form, name) for name in more} == more


def test_structured_outputs_default_to_none(sampling_of):
    assert sampling_of().structured_outputs is None
    nulls = dict.fromkeys(("structured_outputs", *GUIDED))
    assert sampling_of(**nulls) == sampling_of()


@pytest.mark.parametrize(
    "fields", [{}, {"json": {}, "regex": "a"}, {"choice": None}, {"disable_any_whitespace": True}], ids=str
)
def test_exactly_one_constraint_is_required(refusal, fields):
    error = refusal(structured_outputs=fields)
    assert (error.param, error.code) == ("structured_outputs", "invalid_value")


@pytest.mark.parametrize("choice", [[], [""], ["a", ""]])
def test_choices_must_not_be_empty(refusal, choice):
    assert refusal(structured_outputs={"choice": choice}).param == "structured_outputs"
    assert refusal(guided_choice=choice).param == "guided_choice"


@pytest.mark.parametrize(
    ("fields", "named", "other"),
    [
        ({"guided_regex": "a", "structured_outputs": {"json": {}}}, "guided_regex", "structured_outputs"),
        ({"guided_choice": ["a"], "guided_json": {}}, "guided_choice", "guided_json"),
    ],
    ids=str,
)
def test_two_constraints_are_rejected_with_both_names(refusal, fields, named, other):
    error = refusal(**fields)
    assert error.param == named
    assert f"'{named}'" in error.message
    assert f"'{other}'" in error.message


@pytest.mark.parametrize("outputs", [{"jsn": {}}, {"json": 5}, {"json_object": "yes"}, {"regex": 1}], ids=str)
def test_an_invalid_constraint_is_rejected_by_path(refusal, outputs):
    (name,) = outputs
    assert refusal(structured_outputs=outputs).param == f"structured_outputs.{name}"


def test_an_empty_bad_word_is_rejected(refusal):
    error = refusal(bad_words=["a", ""])
    assert (error.param, error.code) == ("bad_words", "invalid_value")


def test_truncation_to_nothing_is_rejected(refusal):
    error = refusal(truncate_prompt_tokens=0)
    assert (error.param, error.code) == ("truncate_prompt_tokens", "integer_below_min_value")
