import json
from typing import Any

import httpx
import pytest
from openai import APIError, BadRequestError, NotFoundError, OpenAI

from tests.compliance.conftest import EMBED, GENERATE
from tests.compliance.schemas import assert_matches

pytestmark = pytest.mark.integration

PROMPT = "The capital of France is"
USAGE = {
    "prompt_tokens": 5,
    "completion_tokens": 6,
    "total_tokens": 11,
    # A prompt that is shorter than a block of the cache is never cached.
    "prompt_tokens_details": {"cached_tokens": 0, "audio_tokens": 0},
}
ASK = {"model": GENERATE, "prompt": PROMPT, "temperature": 0, "max_tokens": 6}


def stream(http: httpx.Client, **extra: Any) -> list[dict[str, Any]]:
    """All chunks of a stream, after checking its end mark."""
    answer = http.post("/v1/completions", json=ASK | {"stream": True} | extra)
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("text/event-stream")
    *events, done, rest = answer.text.split("\n\n")
    assert (done, rest) == ("data: [DONE]", "")
    chunks = [json.loads(event.removeprefix("data: ")) for event in events]
    assert len({(chunk["id"], chunk["created"], chunk["model"]) for chunk in chunks}) == 1
    return chunks


def test_an_answer_has_every_field(http: httpx.Client) -> None:
    answer = http.post("/v1/completions", json=ASK).json()
    assert_matches("CreateCompletionResponse", answer)
    assert answer["id"].startswith("cmpl-")
    assert (answer["object"], answer["model"]) == ("text_completion", GENERATE)
    assert answer["choices"][0].keys() == {"finish_reason", "index", "logprobs", "text"}
    assert answer["usage"] == USAGE


def test_sixteen_tokens_are_the_default(client: OpenAI) -> None:
    answer = client.completions.create(model=GENERATE, prompt=PROMPT, temperature=0)
    assert answer.usage is not None
    assert answer.usage.completion_tokens == 16
    assert answer.choices[0].finish_reason == "length"


@pytest.mark.parametrize(
    ("prompt", "choices"),
    [(PROMPT, 1), ([PROMPT, "Hello"], 2), ([504, 3575, 282], 1), ([[504, 3575], [282], [504]], 3)],
    ids=["text", "texts", "ids", "lists of ids"],
)
def test_all_four_forms_of_a_prompt(client: OpenAI, prompt: Any, choices: int) -> None:
    answer = client.completions.create(model=GENERATE, prompt=prompt, max_tokens=2)
    assert [choice.index for choice in answer.choices] == list(range(choices))


def test_choices_of_several_prompts_are_numbered_prompt_by_prompt(client: OpenAI) -> None:
    answer = client.completions.create(
        model=GENERATE, prompt=["One", "Two"], n=2, max_tokens=2, echo=True, temperature=1
    )
    assert [choice.text[:3] for choice in answer.choices] == ["One", "One", "Two", "Two"]
    assert answer.usage is not None
    assert answer.usage.completion_tokens == 8


def test_greedy_choices_are_equal_and_all_there(client: OpenAI) -> None:
    answer = client.completions.create(**ASK, n=3)
    assert len({choice.text for choice in answer.choices}) == 1
    assert [choice.index for choice in answer.choices] == [0, 1, 2]
    assert answer.usage is not None
    assert answer.usage.completion_tokens == 18


def test_stop_ends_before_the_sequence(client: OpenAI) -> None:
    answer = client.completions.create(**ASK, stop=["ris", "never"])
    assert answer.choices[0].text == " Pa"
    assert answer.choices[0].finish_reason == "stop"


def test_temperature_changes_the_text(client: OpenAI) -> None:
    texts = {
        client.completions.create(**ASK | {"temperature": 1.8, "max_tokens": 12, "seed": seed}).choices[0].text
        for seed in range(4)
    }
    assert len(texts) > 1


def test_top_p_zero_is_greedy(client: OpenAI) -> None:
    greedy = client.completions.create(**ASK).choices[0].text
    assert client.completions.create(**ASK | {"temperature": 1, "top_p": 0}).choices[0].text == greedy


def test_logprobs(http: httpx.Client) -> None:
    answer = http.post("/v1/completions", json=ASK | {"logprobs": 2}).json()
    assert_matches("CreateCompletionResponse", answer)
    logprobs = answer["choices"][0]["logprobs"]
    assert "".join(logprobs["tokens"]) == answer["choices"][0]["text"]
    assert {len(logprobs[key]) for key in logprobs} == {6}
    assert all(token in top for token, top in zip(logprobs["tokens"], logprobs["top_logprobs"], strict=True))
    text = answer["choices"][0]["text"]
    for token, offset in zip(logprobs["tokens"], logprobs["text_offset"], strict=True):
        assert text[offset:].startswith(token)


def test_echo_with_logprobs_scores_the_prompt(client: OpenAI) -> None:
    answer = client.completions.create(**ASK | {"max_tokens": 0}, echo=True, logprobs=1)
    choice = answer.choices[0]
    assert choice.text == PROMPT
    assert choice.logprobs is not None
    assert choice.logprobs.token_logprobs is not None
    assert choice.logprobs.token_logprobs[0] is None
    assert "".join(choice.logprobs.tokens or []) == PROMPT


def test_logit_bias_and_penalties_reach_the_model(client: OpenAI) -> None:
    plain = client.completions.create(**ASK, logprobs=1)
    assert plain.choices[0].text.startswith(" Paris")
    # 7042 is ' Paris' in this vocabulary.
    paris = client.completions.create(**ASK | {"prompt": "x", "max_tokens": 3}, logit_bias={"7042": 100})
    assert paris.choices[0].text == " Paris Paris Paris"
    varied = client.completions.create(
        **ASK | {"prompt": "x", "max_tokens": 3},
        logit_bias={"7042": 10},
        frequency_penalty=2,
        presence_penalty=2,
    )
    assert varied.choices[0].text != paris.choices[0].text


def test_a_stream_is_the_answer_in_parts(http: httpx.Client) -> None:
    whole = http.post("/v1/completions", json=ASK).json()
    chunks = stream(http)
    assert "".join(chunk["choices"][0]["text"] for chunk in chunks) == whole["choices"][0]["text"]
    assert [chunk["choices"][0]["finish_reason"] for chunk in chunks][-1] == "length"
    assert sum(chunk["choices"][0]["finish_reason"] is not None for chunk in chunks) == 1
    assert all("usage" not in chunk for chunk in chunks)
    for chunk in chunks:
        assert chunk["object"] == "text_completion"


def test_usage_comes_last_and_alone_when_asked_for(http: httpx.Client) -> None:
    *chunks, last = stream(http, stream_options={"include_usage": True})
    assert all(chunk["usage"] is None for chunk in chunks)
    assert last["choices"] == []
    assert last["usage"] == USAGE


def test_the_sdk_reads_streams_of_several_choices(client: OpenAI) -> None:
    texts = {0: "", 1: ""}
    for chunk in client.completions.create(
        **ASK | {"temperature": 1, "seed": 3}, n=2, stream=True, stream_options={"include_usage": True}
    ):
        for choice in chunk.choices:
            texts[choice.index] += choice.text
    assert all(texts.values())


def test_a_stream_rejected_before_its_start_keeps_its_status(client: OpenAI) -> None:
    with pytest.raises(BadRequestError) as caught:
        client.completions.create(**ASK | {"prompt": [999_999]}, stream=True)
    assert caught.value.param == "prompt"


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"prompt": []}, "prompt"),
        ({"prompt": ""}, "prompt"),
        ({"prompt": [1, "a"]}, "prompt"),
        ({"prompt": None}, "prompt"),
        ({"max_tokens": -1}, "max_tokens"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_tokens": 1.5}, "max_tokens"),
        ({"temperature": 2.1}, "temperature"),
        ({"temperature": "1"}, "temperature"),
        ({"top_p": 1.1}, "top_p"),
        ({"n": 0}, "n"),
        ({"n": 129}, "n"),
        ({"logprobs": 6}, "logprobs"),
        ({"stop": ["a", "b", "c", "d", "e"]}, "stop"),
        ({"stop": [""]}, "stop"),
        ({"presence_penalty": -2.5}, "presence_penalty"),
        ({"frequency_penalty": 2.5}, "frequency_penalty"),
        ({"logit_bias": {"x": 1}}, "logit_bias"),
        ({"logit_bias": {"999999": 1}}, "logit_bias"),
        ({"logit_bias": {"1": 101}}, "logit_bias[...]"),
        ({"seed": 2**70}, "seed"),
        ({"best_of": 21}, "best_of"),
        ({"best_of": 2, "n": 3}, "best_of"),
        ({"best_of": 2, "stream": True}, "best_of"),
        ({"suffix": "end"}, "suffix"),
        ({"stop_token_ids": [-1]}, "stop_token_ids[0]"),
        ({"structured_outputs": {}}, "structured_outputs"),
        ({"guided_json": "{"}, "guided_json"),
        ({"stream_options": {"include_usage": True}}, "stream_options"),
        ({"stream": True, "stream_options": {"usage": True}}, "stream_options.usage"),
        ({"temprature": 1}, "temprature"),
        ({"model": None}, "model"),
    ],
    ids=str,
)
def test_an_invalid_value_is_a_400_that_names_the_parameter(
    http: httpx.Client, change: dict[str, Any], param: str
) -> None:
    answer = http.post("/v1/completions", json=ASK | change)
    assert answer.status_code == 400
    assert_matches("ErrorResponse", answer.json())
    assert answer.json()["error"]["param"] == param
    assert answer.json()["error"]["type"] == "invalid_request_error"


def test_a_misspelled_parameter_is_recognized(client: OpenAI) -> None:
    with pytest.raises(BadRequestError, match="Did you mean 'temperature'"):
        client.completions.create(**ASK, extra_body={"temprature": 1})


def test_nulls_mean_the_default(http: httpx.Client) -> None:
    nulls = dict.fromkeys(
        ["best_of", "echo", "frequency_penalty", "logit_bias", "logprobs", "n", "presence_penalty", "seed",
         "stop", "stream", "stream_options", "suffix", "top_p", "user"]
    )  # fmt: skip
    answer = http.post("/v1/completions", json=ASK | nulls)
    assert answer.status_code == 200
    assert answer.json()["choices"][0]["text"].startswith(" Paris")


def test_too_long_a_prompt_has_openais_code(client: OpenAI) -> None:
    with pytest.raises(BadRequestError) as caught:
        client.completions.create(**ASK | {"prompt": "word " * 9000})
    assert caught.value.code == "context_length_exceeded"
    assert "8192" in str(caught.value)


def test_too_long_an_answer_has_openais_code(client: OpenAI) -> None:
    for wanted in (8192, 10_000_000):
        with pytest.raises(BadRequestError, match="maximum context length is 8192 tokens") as caught:
            client.completions.create(**ASK | {"max_tokens": wanted})
        assert (caught.value.code, caught.value.param) == ("context_length_exceeded", "prompt")


def test_the_embedding_model_does_not_complete(client: OpenAI) -> None:
    with pytest.raises(NotFoundError, match="embedding model"):
        client.completions.create(model=EMBED, prompt="x")


def test_a_missing_parameter_is_named(http: httpx.Client) -> None:
    error = http.post("/v1/completions", json={"model": GENERATE}).json()["error"]
    assert (error["param"], error["code"]) == ("prompt", "missing_required_parameter")


def test_every_failure_is_an_api_error_of_the_sdk(client: OpenAI) -> None:
    with pytest.raises(APIError) as caught:
        client.moderations.create(model=GENERATE, input="x")
    assert caught.value.code == "unknown_url"


def test_the_best_of_several_is_the_likeliest(http: httpx.Client) -> None:
    ask = ASK | {"temperature": 1, "seed": 5, "logprobs": 0, "max_tokens": 8}

    def mean(choice: dict[str, Any]) -> float:
        numbers = choice["logprobs"]["token_logprobs"]
        return sum(numbers) / len(numbers)

    answer = http.post("/v1/completions", json=ask | {"n": 2, "best_of": 6}).json()
    assert_matches("CreateCompletionResponse", answer)
    all_six = http.post("/v1/completions", json=ask | {"n": 6}).json()["choices"]
    best = sorted(all_six, key=mean, reverse=True)[:2]
    assert [choice["text"] for choice in answer["choices"]] == [choice["text"] for choice in best]
    assert [choice["index"] for choice in answer["choices"]] == [0, 1]
    assert answer["usage"]["completion_tokens"] == 48, "all six were generated"
    quiet = http.post("/v1/completions", json={**ask, "logprobs": None, "best_of": 6}).json()["choices"]
    assert (quiet[0]["text"], quiet[0]["logprobs"]) == (best[0]["text"], None)


def test_vllms_parameters_work_as_extra_body(client: OpenAI) -> None:
    answer = client.completions.create(**ASK, extra_body={"structured_outputs": {"regex": " [A-Z]{3}!"}})
    assert answer.choices[0].text.strip()[:3].isupper()
    cut = client.completions.create(
        **ASK | {"prompt": "word " * 9000, "max_tokens": 1}, extra_body={"truncate_prompt_tokens": -1}
    )
    assert cut.usage is not None
    assert cut.usage.prompt_tokens == 8191
