import json
from typing import Any

import httpx
import pytest
from jsonschema import validate
from openai import BadRequestError, NotFoundError, OpenAI

from tests.compliance.conftest import EMBED, GENERATE
from tests.compliance.schemas import assert_matches

pytestmark = pytest.mark.integration

MESSAGES = [{"role": "user", "content": "What is the capital of France?"}]
ASK = {"model": GENERATE, "messages": MESSAGES, "temperature": 0, "max_completion_tokens": 12}
PERSON = {
    "type": "object",
    "properties": {"name": {"type": "string", "maxLength": 20}, "age": {"type": "integer", "maximum": 150}},
    "required": ["name", "age"],
    "additionalProperties": False,
}
WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "The weather in a city",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string", "maxLength": 20}, "unit": {"enum": ["c", "f"]}},
            "required": ["city", "unit"],
            "additionalProperties": False,
        },
    },
}
TOOLS = {
    "messages": [{"role": "user", "content": "What is the weather in Paris?"}],
    "tools": [WEATHER],
    "max_completion_tokens": 80,
}
NAMED = {"type": "function", "function": {"name": "get_weather"}}


def chat(http: httpx.Client, **extra: Any) -> dict[str, Any]:
    answer = http.post("/v1/chat/completions", json=ASK | extra)
    assert answer.status_code == 200, answer.text
    assert_matches("CreateChatCompletionResponse", answer.json())
    return answer.json()


def stream(http: httpx.Client, **extra: Any) -> list[dict[str, Any]]:
    """All chunks of a stream, after checking its end mark and each chunk's schema."""
    answer = http.post("/v1/chat/completions", json=ASK | {"stream": True} | extra)
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"].startswith("text/event-stream")
    *events, done, rest = answer.text.split("\n\n")
    assert (done, rest) == ("data: [DONE]", "")
    chunks = [json.loads(event.removeprefix("data: ")) for event in events]
    for chunk in chunks:
        assert_matches("CreateChatCompletionStreamResponse", chunk)
    assert len({(chunk["id"], chunk["created"], chunk["model"]) for chunk in chunks}) == 1
    return chunks


def test_an_answer_has_every_field(http: httpx.Client) -> None:
    answer = chat(http)
    assert answer["id"].startswith("chatcmpl-")
    assert (answer["object"], answer["model"]) == ("chat.completion", GENERATE)
    (choice,) = answer["choices"]
    assert choice.keys() == {"finish_reason", "index", "logprobs", "message"}
    assert choice["message"].keys() == {"role", "content", "refusal", "annotations"}
    assert "Paris" in choice["message"]["content"]
    assert choice["finish_reason"] == "stop"
    usage = answer["usage"]
    assert usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"]


def test_the_sdk_reads_an_answer(client: OpenAI) -> None:
    answer = client.chat.completions.create(**ASK)
    assert answer.choices[0].message.role == "assistant"
    assert "Paris" in (answer.choices[0].message.content or "")


def test_a_stream_is_the_answer_in_chunks(http: httpx.Client) -> None:
    whole = chat(http)["choices"][0]
    first, *middle, last = stream(http)
    assert first["choices"] == [
        {
            "index": 0,
            "delta": {"role": "assistant", "content": "", "refusal": None},
            "logprobs": None,
            "finish_reason": None,
        }
    ]
    assert last["choices"] == [{"index": 0, "delta": {}, "logprobs": None, "finish_reason": "stop"}]
    assert all(chunk["choices"][0]["delta"].keys() == {"content"} for chunk in middle)
    assert all(chunk["choices"][0]["finish_reason"] is None for chunk in middle)
    assert "".join(chunk["choices"][0]["delta"]["content"] for chunk in middle) == whole["message"]["content"]
    assert all("usage" not in chunk for chunk in [first, *middle, last])


def test_usage_comes_last_and_alone_when_asked_for(http: httpx.Client) -> None:
    *chunks, last = stream(http, stream_options={"include_usage": True})
    assert all(chunk["usage"] is None for chunk in chunks)
    assert last["choices"] == []
    assert last["usage"] == chat(http)["usage"]


def test_usage_has_the_cached_tokens(client: OpenAI) -> None:
    asked = ASK | {"messages": [{"role": "user", "content": "Name every capital that you know. " * 40}]}
    first, second = (
        client.chat.completions.create(**asked | {"max_completion_tokens": 1}).usage for _ in range(2)
    )
    assert first is not None
    assert second is not None
    assert first.prompt_tokens_details is not None
    assert second.prompt_tokens_details is not None
    assert first.prompt_tokens_details.audio_tokens == 0
    assert 128 <= (second.prompt_tokens_details.cached_tokens or 0) < second.prompt_tokens


def test_every_choice_has_its_role_and_its_end(http: httpx.Client) -> None:
    chunks = stream(http, n=3, temperature=1, seed=1)
    choices = [choice for chunk in chunks for choice in chunk["choices"]]
    for index in range(3):
        own = [choice for choice in choices if choice["index"] == index]
        assert own[0]["delta"]["role"] == "assistant"
        assert [choice["finish_reason"] for choice in own if choice["finish_reason"]] == [own[-1]["finish_reason"]]
    assert len(chat(http, n=3)["choices"]) == 3


def test_the_sdks_stream_helper_puts_it_together(client: OpenAI) -> None:
    with client.chat.completions.stream(**ASK) as events:
        kinds = {event.type for event in events}
        final = events.get_final_completion()
    assert {"chunk", "content.delta", "content.done"} <= kinds
    assert "Paris" in (final.choices[0].message.content or "")


@pytest.mark.parametrize(
    "messages",
    [
        [{"role": "system", "content": "Be short."}, *MESSAGES],
        [{"role": "developer", "content": "Be short."}, *MESSAGES],
        [{"role": "user", "content": [{"type": "text", "text": "Hello"}, {"type": "text", "text": "there"}]}],
        [*MESSAGES, {"role": "assistant", "content": "Paris."}, {"role": "user", "content": "Sure?"}],
        [{"role": "user", "content": "", "name": "Ann"}],
    ],
    ids=["system", "developer", "parts", "history", "empty"],
)
def test_all_kinds_of_messages(http: httpx.Client, messages: list[dict[str, Any]]) -> None:
    assert chat(http, messages=messages, max_completion_tokens=2)["usage"]["completion_tokens"] <= 2


def test_an_answer_can_be_sent_back_as_it_came(client: OpenAI) -> None:
    first = client.chat.completions.create(**ASK).choices[0].message
    messages = [*MESSAGES, first, {"role": "user", "content": "Thanks!"}]
    again = client.chat.completions.create(**ASK | {"messages": messages})
    assert again.usage is not None
    assert again.usage.prompt_tokens > 40


def test_logprobs(http: httpx.Client) -> None:
    answer = chat(http, logprobs=True, top_logprobs=3)
    (whole,) = answer["choices"]
    content = whole["logprobs"]["content"]
    assert b"".join(bytes(token["bytes"]) for token in content).decode() == whole["message"]["content"]
    assert whole["finish_reason"] == "stop"
    assert len(content) == answer["usage"]["completion_tokens"] - 1, "without the token that ends the turn"
    for token in content:
        assert bytes(token["bytes"]).decode() == token["token"]
        numbers = [top["logprob"] for top in token["top_logprobs"]]
        assert (len(numbers), numbers) == (3, sorted(numbers, reverse=True))
        assert token["logprob"] == numbers[0], "greedy takes the likeliest"
    parts = [chunk["choices"][0]["logprobs"] for chunk in stream(http, logprobs=True, top_logprobs=3)]
    streamed = [token for part in parts if part for token in part["content"]]
    assert [token["token"] for token in streamed] == [token["token"] for token in content]
    stopped = chat(http, logprobs=True, stop=["ital"])["choices"][0]
    spoken = "".join(token["token"] for token in stopped["logprobs"]["content"])
    assert (spoken, stopped["message"]["content"]) == ("The cap", "The cap")
    bare = chat(http, logprobs=True)["choices"][0]["logprobs"]["content"]
    assert all(token["top_logprobs"] == [] for token in bare)


def test_limits_and_stops(http: httpx.Client) -> None:
    cut = chat(http, max_completion_tokens=3)
    assert (cut["choices"][0]["finish_reason"], cut["usage"]["completion_tokens"]) == ("length", 3)
    old = chat(http, max_completion_tokens=None, max_tokens=3)
    assert old["choices"][0]["message"] == cut["choices"][0]["message"]
    stopped = chat(http, stop=[" of"])["choices"][0]
    assert (stopped["message"]["content"], stopped["finish_reason"]) == ("The capital", "stop")


def test_parameters_without_effect_are_accepted(http: httpx.Client) -> None:
    plain = chat(http)["choices"]
    extra = {
        "user": "ann", "metadata": {"a": "b"}, "store": False, "service_tier": "auto", "verbosity": "low",
        "safety_identifier": "x", "prompt_cache_key": "y", "modalities": ["text"], "parallel_tool_calls": True,
        "prediction": {"type": "content", "content": "x"}, "response_format": {"type": "text"},
        "reasoning_effort": "low",
    }  # fmt: skip
    assert chat(http, **extra)["choices"] == plain
    assert chat(http, **dict.fromkeys(extra))["choices"] == plain


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("streamed", [True, False], ids=["stream", "whole"])
def test_a_schema_is_followed_whatever_the_model_would_say(http: httpx.Client, seed: int, streamed: bool) -> None:
    ask = {
        "messages": [{"role": "user", "content": "Who are you?"}],
        "response_format": {"type": "json_schema", "json_schema": {"name": "person", "schema": PERSON}},
        "temperature": 1.5,
        "seed": seed,
        "max_completion_tokens": 100,
    }
    if streamed:
        text = "".join(chunk["choices"][0]["delta"].get("content") or "" for chunk in stream(http, **ask))
    else:
        text = chat(http, **ask)["choices"][0]["message"]["content"]
    validate(json.loads(text), PERSON)


def test_any_json_object(http: httpx.Client) -> None:
    ask = {"messages": [{"role": "user", "content": "Answer in JSON: your name."}], "max_completion_tokens": 150}
    texts = [
        chat(http, **ask, response_format={"type": "json_object"}, temperature=1, seed=seed)["choices"][0]
        for seed in range(3)
    ]
    ended = [choice["message"]["content"] for choice in texts if choice["finish_reason"] == "stop"]
    assert ended
    assert all(isinstance(json.loads(text), dict) for text in ended)


def test_the_sdk_parses_into_a_model(client: OpenAI) -> None:
    from pydantic import BaseModel, Field

    class City(BaseModel):
        name: str = Field(max_length=20)
        inhabitants: int = Field(ge=0, le=10**8)

    answer = client.chat.completions.parse(
        model=GENERATE, messages=MESSAGES, response_format=City, temperature=0, max_completion_tokens=60
    )
    assert isinstance(answer.choices[0].message.parsed, City)


@pytest.mark.parametrize(("choice", "reason"), [("required", "tool_calls"), (NAMED, "stop")], ids=["any", "named"])
def test_a_tool_is_called(http: httpx.Client, choice: Any, reason: str) -> None:
    answer = chat(http, **TOOLS, tool_choice=choice)["choices"][0]
    assert answer["finish_reason"] == reason
    assert answer["message"]["content"] is None
    (call,) = answer["message"]["tool_calls"]
    assert call.keys() == {"id", "type", "function"}
    assert (call["type"], call["function"]["name"]) == ("function", "get_weather")
    validate(json.loads(call["function"]["arguments"]), WEATHER["function"]["parameters"])


@pytest.mark.parametrize(("choice", "reason"), [("required", "tool_calls"), (NAMED, "stop")], ids=["any", "named"])
def test_a_call_is_streamed_under_one_id_and_index(http: httpx.Client, choice: Any, reason: str) -> None:
    chunks = stream(http, **TOOLS, tool_choice=choice)
    deltas = [chunk["choices"][0]["delta"] for chunk in chunks]
    assert deltas[0] == {"role": "assistant", "content": None, "refusal": None}
    parts = [part for delta in deltas for part in delta.get("tool_calls", [])]
    assert parts[0].keys() == {"index", "id", "type", "function"}
    assert parts[0]["function"]["name"] == "get_weather"
    assert len(parts) > 3, "arguments come in parts"
    assert all(part.keys() == {"index", "function"} and part["index"] == 0 for part in parts[1:])
    arguments = "".join(part["function"]["arguments"] for part in parts)
    validate(json.loads(arguments), WEATHER["function"]["parameters"])
    assert [chunk["choices"][0]["finish_reason"] for chunk in chunks][-1] == reason


def test_a_tool_result_is_sent_back(client: OpenAI) -> None:
    asked = client.chat.completions.create(**ASK | TOOLS, tool_choice="required").choices[0].message
    assert asked.tool_calls
    results = [{"role": "tool", "tool_call_id": call.id, "content": "sunny, 21 °C"} for call in asked.tool_calls]
    answer = client.chat.completions.create(**ASK | TOOLS | {"messages": [*TOOLS["messages"], asked, *results]})
    assert answer.choices[0].message.content
    with pytest.raises(BadRequestError, match="did not have response messages") as caught:
        client.chat.completions.create(**ASK | TOOLS | {"messages": [*TOOLS["messages"], asked]})
    assert caught.value.param == f"messages[{len(TOOLS['messages'])}].tool_calls"


@pytest.mark.parametrize("choice", ["none", "auto"])
def test_tools_need_not_be_called(http: httpx.Client, choice: str) -> None:
    answer = chat(http, messages=MESSAGES, tools=[WEATHER], tool_choice=choice)["choices"][0]
    assert answer["message"]["content"]
    assert "tool_calls" not in answer["message"]


def test_only_the_allowed_tools_are_called(http: httpx.Client) -> None:
    other = {"type": "function", "function": {"name": "get_time"}}
    allowed = {"type": "allowed_tools", "allowed_tools": {"mode": "required", "tools": [NAMED]}}
    answer = chat(http, **TOOLS | {"tools": [other, WEATHER]}, tool_choice=allowed, parallel_tool_calls=False)
    calls = answer["choices"][0]["message"]["tool_calls"]
    assert [call["function"]["name"] for call in calls] == ["get_weather"]


def test_vllms_parameters_work_as_extra_body(client: OpenAI) -> None:
    picked = client.chat.completions.create(
        **ASK, extra_body={"structured_outputs": {"choice": ["red", "blue"]}, "top_k": 5, "min_p": 0.01}
    )
    assert picked.choices[0].message.content in ("red", "blue")
    old_name = client.chat.completions.create(**ASK, extra_body={"guided_regex": "[0-9]{4}"})
    assert (old_name.choices[0].message.content or "").isdigit()
    long = client.chat.completions.create(**ASK, extra_body={"ignore_eos": True, "min_tokens": 12})
    assert long.usage is not None
    assert long.usage.completion_tokens == 12


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"messages": []}, "messages"),
        ({"messages": None}, "messages"),
        ({"messages": [{"role": "robot", "content": "x"}]}, "messages[0].role"),
        ({"messages": [{"role": "user"}]}, "messages[0].content"),
        ({"messages": [{"role": "user", "content": None}]}, "messages[0].content"),
        ({"messages": [{"role": "assistant", "content": None}]}, "messages[0].content"),
        ({"messages": [{"role": "tool", "content": "x"}]}, "messages[0].tool_call_id"),
        ({"messages": [{"role": "tool", "content": "x", "tool_call_id": "1"}]}, "messages[0].role"),
        ({"messages": [{"role": "user", "content": "x", "weight": 1}]}, "messages[0].weight"),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]},
            "messages[0].content[0].type",
        ),
        ({"max_tokens": 5}, "max_tokens"),
        ({"max_completion_tokens": 0}, "max_completion_tokens"),
        ({"temperature": 2.5}, "temperature"),
        ({"top_p": -0.1}, "top_p"),
        ({"n": 0}, "n"),
        ({"n": 129}, "n"),
        ({"stop": list("abcde")}, "stop"),
        ({"presence_penalty": 3}, "presence_penalty"),
        ({"logit_bias": {"x": 1}}, "logit_bias"),
        ({"logit_bias": {"999999": 1}}, "logit_bias"),
        ({"top_logprobs": 2}, "top_logprobs"),
        ({"logprobs": True, "top_logprobs": 21}, "top_logprobs"),
        ({"logprobs": 3}, "logprobs"),
        ({"tools": []}, "tools"),
        ({"tools": [{"type": "custom", "custom": {"name": "x"}}]}, "tools[0].type"),
        ({"tools": [{"type": "function", "function": {"name": "a b"}}]}, "tools[0].function.name"),
        (
            {"tools": [{"type": "function", "function": {"name": "f", "parameters": {"type": "array"}}}]},
            "tools[0].function.parameters",
        ),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"tools": [WEATHER], "tool_choice": "sometimes"}, "tool_choice"),
        (
            {"tools": [WEATHER], "tool_choice": {"type": "function", "function": {"name": "other"}}},
            "tool_choice",
        ),
        ({"response_format": {"type": "yaml"}}, "response_format.type"),
        ({"response_format": {"type": "json_schema"}}, "response_format.json_schema"),
        (
            {"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "no"}}}},
            "response_format",
        ),
        ({"reasoning_effort": "huge"}, "reasoning_effort"),
        ({"modalities": ["audio"]}, "modalities[0]"),
        ({"audio": {"voice": "alloy", "format": "mp3"}}, "audio"),
        ({"functions": [{"name": "f"}]}, "functions"),
        ({"web_search_options": {}}, "web_search_options"),
        ({"metadata": {"a": "b" * 600}}, "metadata[...]"),
        ({"stream_options": {"include_usage": True}}, "stream_options"),
        ({"chat_template_kwargs": {"chat_template": "x"}}, "chat_template_kwargs.chat_template"),
        ({"guided_regex": "(["}, "guided_regex"),
        ({"guided_regex": "a", "guided_choice": ["b"]}, "guided_choice"),
        ({"min_tokens": 20}, "min_tokens"),
        ({"stop_token_ids": [999_999]}, "stop_token_ids"),
        ({"mesages": []}, "mesages"),
        ({"model": None}, "model"),
    ],
    ids=lambda value: str(value)[:70],
)
@pytest.mark.parametrize("streamed", [True, False], ids=["stream", "whole"])
def test_an_invalid_value_is_a_400_that_names_the_parameter(
    http: httpx.Client, change: dict[str, Any], param: str, streamed: bool
) -> None:
    if streamed and "stream_options" in change:
        change = {"stream_options": {"usage": True}}
        param = "stream_options.usage"
    answer = http.post("/v1/chat/completions", json=ASK | {"stream": streamed} | change)
    assert answer.status_code == 400, answer.text
    assert_matches("ErrorResponse", answer.json())
    error = answer.json()["error"]
    assert (error["param"], error["type"]) == (param, "invalid_request_error")


def test_too_long_a_conversation_has_openais_code(client: OpenAI) -> None:
    with pytest.raises(BadRequestError, match="configured limit of 8192 tokens") as caught:
        client.chat.completions.create(**ASK | {"messages": [{"role": "user", "content": "word " * 9000}]})
    assert (caught.value.code, caught.value.param) == ("context_length_exceeded", "messages")


@pytest.mark.parametrize("name", ["max_tokens", "max_completion_tokens"])
@pytest.mark.parametrize("streamed", [False, True])
def test_too_long_an_answer_has_openais_code(client: OpenAI, name: str, streamed: bool) -> None:
    asked = {key: value for key, value in ASK.items() if key not in ("max_tokens", "max_completion_tokens")}
    for wanted in (8192, 10_000_000):
        with pytest.raises(BadRequestError, match="maximum context length is 8192 tokens") as caught:
            client.chat.completions.create(**asked | {name: wanted, "stream": streamed})
        assert (caught.value.code, caught.value.param) == ("context_length_exceeded", "messages")


def test_the_embedding_model_does_not_chat(client: OpenAI) -> None:
    with pytest.raises(NotFoundError, match="v1/chat/completions"):
        client.chat.completions.create(**ASK | {"model": EMBED})


def test_an_unknown_model_is_not_found(client: OpenAI) -> None:
    with pytest.raises(NotFoundError) as caught:
        client.chat.completions.create(**ASK | {"model": "gpt-4o"})
    assert caught.value.code == "model_not_found"


def test_a_misspelled_parameter_is_recognized(client: OpenAI) -> None:
    with pytest.raises(BadRequestError, match="Did you mean 'messages'"):
        client.chat.completions.create(**ASK, extra_body={"mesages": []})


def test_sampling_is_reproducible(client: OpenAI) -> None:
    def tell(seed: int) -> str | None:
        ask = ASK | {"temperature": 1.2, "seed": seed, "messages": [{"role": "user", "content": "Tell a story."}]}
        return client.chat.completions.create(**ask).choices[0].message.content

    assert tell(1) == tell(1)
    assert len({tell(seed) for seed in range(4)}) > 1
