"""The service knows every field of OpenAI's request schemas, and API.md documents the handling of each."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import openai.types.chat.completion_create_params as sdk_chat
import openai.types.completion_create_params as sdk_completions
import openai.types.embedding_create_params as sdk_embeddings
import pytest
from openai.types.chat import chat_completion_assistant_message_param as sdk_assistant
from openai.types.chat import chat_completion_content_part_text_param as sdk_text
from openai.types.chat import chat_completion_message_function_tool_call_param as sdk_call
from openai.types.chat import chat_completion_named_tool_choice_param as sdk_choice
from openai.types.chat.chat_completion_allowed_tool_choice_param import ChatCompletionAllowedToolChoiceParam
from openai.types.chat.chat_completion_allowed_tools_param import ChatCompletionAllowedToolsParam
from openai.types.chat.chat_completion_content_part_refusal_param import ChatCompletionContentPartRefusalParam
from openai.types.chat.chat_completion_developer_message_param import ChatCompletionDeveloperMessageParam
from openai.types.chat.chat_completion_function_tool_param import ChatCompletionFunctionToolParam
from openai.types.chat.chat_completion_stream_options_param import ChatCompletionStreamOptionsParam
from openai.types.chat.chat_completion_system_message_param import ChatCompletionSystemMessageParam
from openai.types.chat.chat_completion_tool_message_param import ChatCompletionToolMessageParam
from openai.types.chat.chat_completion_user_message_param import ChatCompletionUserMessageParam
from openai.types.shared_params import response_format_json_schema as sdk_schema
from openai.types.shared_params.function_definition import FunctionDefinition
from openai.types.shared_params.response_format_json_object import ResponseFormatJSONObject
from openai.types.shared_params.response_format_text import ResponseFormatText
from typing_extensions import get_type_hints, is_typeddict

from app.http.codec import BodyDecoder
from app.http.endpoints import ENDPOINTS
from app.http.parameters import parameter_tables, parameters
from domain.conversation import (
    AssistantMessage,
    DeveloperMessage,
    Function,
    FunctionCall,
    RefusalPart,
    SystemMessage,
    TextPart,
    ToolCall,
    ToolMessage,
    UserMessage,
)
from domain.openai import chat
from domain.openai.chat import REFUSED, ChatBody
from domain.openai.common import StreamOptions
from domain.openai.completions import CompletionBody
from domain.openai.embeddings import EmbeddingBody
from tests.processes import ROOT

SPEC = json.loads((Path(__file__).parent / "openai_request_fields.json").read_text())["fields"]
SDK = {
    ChatBody: sdk_chat.CompletionCreateParamsBase,
    CompletionBody: sdk_completions.CompletionCreateParamsBase,
    EmbeddingBody: sdk_embeddings.EmbeddingCreateParams,
}
SCHEMAS = {
    ChatBody: "CreateChatCompletionRequest",
    CompletionBody: "CreateCompletionRequest",
    EmbeddingBody: "CreateEmbeddingRequest",
}


@pytest.mark.parametrize("body", SCHEMAS, ids=SCHEMAS.values())
def test_every_field_of_openais_document_is_known(body: type) -> None:
    known = {field.name: field for field in parameters(body)}
    assert set(SPEC[SCHEMAS[body]]) <= known.keys()
    assert set(SDK[body].__annotations__) <= known.keys(), "and every one that the SDK knows"


@pytest.mark.parametrize("body", SCHEMAS, ids=SCHEMAS.values())
def test_other_fields_are_documented_as_vllms(body: type) -> None:
    others = {field.name for field in parameters(body) if field.is_vllms}
    assert others.isdisjoint(SPEC[SCHEMAS[body]])
    assert {field.name for field in parameters(body)} - others == set(SPEC[SCHEMAS[body]])


def test_the_page_has_the_tables_of_the_code() -> None:
    text = (ROOT / "API.md").read_text()
    tables = text.split("<!-- parameters -->\n")[1].split("<!-- end of parameters -->")[0]
    assert tables.strip() == parameter_tables(ENDPOINTS).strip(), "python -m app.http.parameters prints the tables"
    # Other paths of the same handler are named with the endpoints.
    with_bodies = {row.handler for row in ENDPOINTS if row.body is not None}
    named = {row.handler for row in ENDPOINTS if f"### {row.method} {row.public_path}\n" in tables}
    assert with_bodies <= named


NESTED = {
    ChatCompletionDeveloperMessageParam: DeveloperMessage,
    ChatCompletionSystemMessageParam: SystemMessage,
    ChatCompletionUserMessageParam: UserMessage,
    ChatCompletionToolMessageParam: ToolMessage,
    sdk_assistant.ChatCompletionAssistantMessageParam: AssistantMessage,
    sdk_assistant.FunctionCall: FunctionCall,
    sdk_text.ChatCompletionContentPartTextParam: TextPart,
    ChatCompletionContentPartRefusalParam: RefusalPart,
    sdk_call.ChatCompletionMessageFunctionToolCallParam: ToolCall,
    sdk_call.Function: FunctionCall,
    ChatCompletionFunctionToolParam: chat.Tool,
    FunctionDefinition: Function,
    sdk_choice.ChatCompletionNamedToolChoiceParam: chat.NamedChoice,
    sdk_choice.Function: chat.NamedFunction,
    ChatCompletionAllowedToolChoiceParam: chat.AllowedChoice,
    ChatCompletionAllowedToolsParam: chat.AllowedTools,
    ResponseFormatText: chat.TextFormat,
    ResponseFormatJSONObject: chat.JsonObjectFormat,
    sdk_schema.ResponseFormatJSONSchema: chat.JsonSchemaFormat,
    sdk_schema.JSONSchema: chat.JsonSchema,
    ChatCompletionStreamOptionsParam: StreamOptions,
}
"""The SDK's types of nested objects in a chat request, and the types that decode them here."""
NOT_OFFERED = {
    "ChatCompletionContentPartImageParam",
    "ChatCompletionContentPartInputAudioParam",
    "File",
    "ChatCompletionMessageCustomToolCallParam",
    "ChatCompletionFunctionMessageParam",
    "ChatCompletionNamedToolChoiceCustomParam",
    "ChatCompletionCustomToolParam",
}
"""Rejected by their `type` or `role`."""
NOT_LOOKED_AT = {
    "Audio",
    "PromptCacheBreakpoint",
    "ChatCompletionPredictionContentParam",
    "PromptCacheOptions",
}
"""Accepted without effect, whatever they contain."""


def typed_dicts(annotation: Any) -> Iterator[Any]:
    if is_typeddict(annotation):
        yield annotation
    for inner in get_args(annotation):
        yield from typed_dicts(inner)


def nested(kind: Any, known: set[Any]) -> set[Any]:
    """The SDK's types inside one, at any depth, except inside rejected or ignored types."""
    for name, annotation in get_type_hints(kind).items():
        for inner in typed_dicts(annotation):
            is_passed_over = inner.__name__ in NOT_OFFERED | NOT_LOOKED_AT or name in REFUSED
            if inner not in known and not (is_passed_over and inner not in NESTED):
                known.add(inner)
                nested(inner, known)
    return known


def test_every_field_inside_of_others_that_the_sdk_knows_is_known() -> None:
    found = nested(sdk_chat.CompletionCreateParamsStreaming, set())
    assert found == NESTED.keys(), "what the SDK has anew is decoded, or refused on purpose"
    for theirs, ours in NESTED.items():
        known = {*ours.__struct_fields__, ours.__struct_config__.tag_field}
        assert set(get_type_hints(theirs)) <= known, ours.__name__


@pytest.mark.parametrize("mark", [{"mode": "explicit"}, {"mode": "explicit", "ttl": "30m"}])
def test_a_breakpoint_of_the_cache_is_accepted_in_a_text_part(mark: dict[str, str]) -> None:
    part = {"type": "text", "text": "x", "prompt_cache_breakpoint": mark}
    body = {"model": "m", "messages": [{"role": "user", "content": [part]}]}
    assert BodyDecoder(ChatBody).decode(json.dumps(body).encode()).messages[0].content[0].text == "x"
