"""Requests and responses of `POST /tokenize` and `POST /detokenize`."""

import json
from typing import Any

import msgspec
import pytest

from app.http.codec import BodyDecoder, encode
from domain.conversation import Conversation, ToolChoice, UserMessage
from domain.errors import InvalidRequestError
from domain.openai.tokenize import DetokenizeBody, TokenizeBody, tokenize_response
from domain.requests import TokenizeRequest
from domain.results import Tokenization

tokenizing, detokenizing = BodyDecoder(TokenizeBody), BodyDecoder(DetokenizeBody)
HELLO = {"role": "user", "content": "Hello"}
TOOL = {"type": "function", "function": {"name": "f"}}


def request_of(**fields: Any) -> TokenizeRequest:
    return tokenizing.decode(json.dumps(fields).encode()).to_request()


def conversation_of(**fields: Any) -> Conversation:
    conversation = request_of(messages=[HELLO], **fields).prompt
    assert isinstance(conversation, Conversation)
    return conversation


def refusal(**fields: Any) -> InvalidRequestError:
    with pytest.raises(InvalidRequestError) as caught:
        request_of(**fields)
    return caught.value


@pytest.mark.parametrize("prompt", ["Hello", "", "\u2028é"])
def test_a_text_is_tokenized_unchanged(prompt):
    assert request_of(prompt=prompt) == TokenizeRequest(prompt=prompt)


@pytest.mark.parametrize("enabled", [True, False])
def test_tokenizer_options_reach_the_request(enabled):
    request = request_of(prompt="x", add_special_tokens=enabled, return_token_strs=enabled)
    assert (request.add_special_tokens, request.with_strings) == (enabled, enabled)


def test_a_conversation_is_tokenized():
    conversation = conversation_of()
    assert conversation.messages == [UserMessage(content="Hello")]
    assert (conversation.add_generation_prompt, conversation.continue_final_message) == (True, False)
    assert conversation.tools == []


def test_a_conversation_is_the_same_as_in_a_chat():
    conversation = conversation_of(tools=[TOOL], chat_template_kwargs={"enable_thinking": False})
    assert (conversation.tool_choice, conversation.tools[0].name) == (ToolChoice.AUTO, "f")
    assert conversation.template_arguments == {"enable_thinking": False}
    assert conversation_of(add_generation_prompt=False).add_generation_prompt is False
    assert conversation_of(continue_final_message=True).continue_final_message is True


@pytest.mark.parametrize("model", [None, "m"])
def test_the_model_is_optional(model):
    assert tokenizing.decode(json.dumps({"prompt": "x", "model": model}).encode()).model == model
    assert detokenizing.decode(json.dumps({"tokens": [], "model": model}).encode()).model == model


@pytest.mark.parametrize(
    ("fields", "param", "code"),
    [
        ({}, "prompt", "missing_required_parameter"),
        ({"prompt": None, "messages": None}, "prompt", "missing_required_parameter"),
        ({"prompt": "x", "messages": [HELLO]}, "prompt", "invalid_value"),
        ({"prompt": ["x"]}, "prompt", "invalid_type"),
        ({"messages": []}, "messages", "invalid_value"),
        ({"messages": [{"role": "user"}]}, "messages[0].content", "missing_required_parameter"),
        ({"messages": [{"role": "assistant"}]}, "messages[0].content", "invalid_type"),
        ({"messages": [HELLO], "tools": []}, "tools", "empty_array"),
        ({"messages": [HELLO], "tools": [{"type": "custom"}]}, "tools[0].type", "invalid_value"),
        ({"messages": [HELLO], "chat_template_kwargs": {"tokenize": 1}}, "chat_template_kwargs.tokenize", None),
        ({"prompt": "x", "model": 5}, "model", "invalid_type"),
        ({"prompt": "x", "return_token_strs": "yes"}, "return_token_strs", "invalid_type"),
        ({"prompt": "x", "temperature": 1}, "temperature", "unknown_parameter"),
        (
            {"messages": [HELLO], "continue_final_message": True, "add_generation_prompt": True},
            "continue_final_message",
            None,
        ),
    ],
    ids=str,
)
def test_errors_name_the_parameter(fields, param, code):
    error = refusal(**fields)
    assert error.param == param
    assert code is None or error.code == code


def test_a_response_has_vllms_fields():
    found = Tokenization(token_ids=[5, 6], strings=["a", "b"])
    assert msgspec.json.decode(encode(tokenize_response(found, 256))) == {
        "count": 2,
        "max_model_len": 256,
        "tokens": [5, 6],
        "token_strs": ["a", "b"],
    }


def test_unknown_or_unrequested_fields_are_null():
    answer = msgspec.json.decode(encode(tokenize_response(Tokenization(token_ids=[]), None)))
    assert answer == {"count": 0, "max_model_len": None, "tokens": [], "token_strs": None}


@pytest.mark.parametrize(
    ("tokens", "param"),
    [(None, "tokens"), ("x", "tokens"), ([1, "x"], "tokens[1]"), ([-1], "tokens[0]"), ([2**31], "tokens[0]")],
)
def test_invalid_token_ids_are_rejected(tokens, param):
    with pytest.raises(InvalidRequestError) as caught:
        detokenizing.decode(json.dumps({"tokens": tokens}).encode())
    assert caught.value.param == param


@pytest.mark.parametrize("tokens", [[], [0, 2**31 - 1]])
def test_valid_token_ids_are_accepted(tokens):
    assert detokenizing.decode(json.dumps({"tokens": tokens}).encode()).tokens == tokens


def test_tokens_are_required():
    with pytest.raises(InvalidRequestError) as caught:
        detokenizing.decode(b'{"model": "m"}')
    assert (caught.value.param, caught.value.code) == ("tokens", "missing_required_parameter")
