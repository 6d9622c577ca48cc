"""The OpenAPI document: what can be said of it without a validator, and that it tells what the code does."""

import re
from typing import Any

import jsonschema
import msgspec
import pytest

from app.http.codec import encode
from app.http.endpoints import ENDPOINTS
from app.http.openapi import document
from domain.anthropic.messages import MessagesBody
from domain.errors import ContextLengthError
from domain.openai.chat import REFUSED, ChatBody
from domain.openai.completions import CompletionBody
from domain.openai.embeddings import EmbeddingBody
from domain.openai.error import error_response
from domain.openai.field import EFFECT, FROM_VLLM
from domain.openai.responses.body import REFUSED as REFUSED_IN_RESPONSES
from domain.openai.responses.body import ResponseBody
from tests.unit.serving import (
    ALL_BODIES,
    BODIES,
    CHAT,
    COMPLETE,
    COUNT_TOKENS,
    DETOKENIZE,
    EMBED,
    MESSAGES,
    MESSAGES_BODIES,
    TOKENIZE,
)

FORM = "multipart/form-data"
BODY_TYPES = {row.public_path: row.body for row in ENDPOINTS if row.body is not None and row.body_type != FORM}
# Those are asked in tests/unit/test_responses_stored.py and test_files_openapi.py, with a store.
STORED = ("/v1/responses", "/v1/conversations", "/v1/files", "/v1/batches")
QUESTIONS = [
    row.public_path
    for row in ENDPOINTS
    if row.method == "GET" and row.answer is not None and not row.path.startswith(STORED)
]
DOCUMENT: dict[str, Any] = msgspec.json.decode(document(ENDPOINTS))
SCHEMAS: dict[str, Any] = DOCUMENT["components"]["schemas"]
OPERATIONS = [
    (path, method, operation) for path, item in DOCUMENT["paths"].items() for method, operation in item.items()
]


def walk(value: Any):
    yield value
    children = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    for child in children:
        yield from walk(child)


def schema_of(kind: type[msgspec.Struct] | dict) -> dict:
    """A schema that can be used by itself."""
    own = kind if isinstance(kind, dict) else {"$ref": f"#/components/schemas/{kind.__name__}"}
    return {**own, "components": DOCUMENT["components"]}


def is_valid(value: Any, kind: type[msgspec.Struct] | dict) -> bool:
    return jsonschema.Draft202012Validator(schema_of(kind)).is_valid(value)


def properties(body_type: type[msgspec.Struct]) -> dict[str, dict]:
    return SCHEMAS[body_type.__name__]["properties"]


# The document


def test_it_declares_itself():
    assert re.fullmatch(r"3\.1\.\d+", DOCUMENT["openapi"])
    assert set(DOCUMENT["info"]) >= {"title", "version"}
    assert set(DOCUMENT) <= {"openapi", "info", "servers", "paths", "components", "tags", "security"}


def test_every_reference_leads_somewhere_and_every_schema_is_used():
    refs = {part["$ref"] for part in walk(DOCUMENT) if isinstance(part, dict) and "$ref" in part}
    assert refs <= {f"#/components/schemas/{name}" for name in SCHEMAS}
    # Roles are written as names of properties, which can't be a reference.
    assert {f"#/components/schemas/{name}" for name in SCHEMAS} - refs <= {"#/components/schemas/Role"}


def test_names_of_schemas_are_such_as_openapi_allows():
    assert all(re.fullmatch(r"[a-zA-Z0-9._-]+", name) for name in SCHEMAS)


def test_every_schema_is_a_json_schema():
    for schema in SCHEMAS.values():
        jsonschema.Draft202012Validator.check_schema(schema)


@pytest.mark.parametrize(("path", "method", "operation"), OPERATIONS)
def test_every_operation_has_what_openapi_asks_for(path, method, operation):
    assert method in ("get", "post", "delete")
    assert operation["summary"]
    assert re.fullmatch(r"[a-z_]+", operation["operationId"])
    assert operation["responses"]["200"]["description"]
    for status, response in operation["responses"].items():
        assert re.fullmatch(r"[1-5]\d\d", status)
        assert response["description"]
        assert all(media["schema"] for media in response["content"].values())
    placeholders = re.findall(r"\{(\w+)\}", path)
    told = [one["name"] for one in operation.get("parameters", []) if one["in"] == "path" and one["required"]]
    assert told == placeholders


def test_every_operation_has_an_id_of_its_own():
    ids = [operation["operationId"] for _, _, operation in OPERATIONS]
    assert len(set(ids)) == len(ids)


def test_the_paths_are_those_of_the_application():
    told = {(path, method.upper()) for path, method, _ in OPERATIONS}
    assert told == {(row.public_path, row.method) for row in ENDPOINTS if row.answer is not None}


def test_only_browsers_load_balancers_and_operators_have_paths_that_are_not_told():
    # The document itself is at one of them.
    untold = {row.public_path for row in ENDPOINTS if row.answer is None}
    assert {path.split("/")[1] for path in untold} <= {"", "page", "health", "metrics", "admin", "openapi.json"}


@pytest.mark.parametrize("path", BODY_TYPES)
def test_a_request_has_the_body_that_is_decoded(path):
    body = DOCUMENT["paths"][path]["post"]["requestBody"]
    assert body["required"] is True
    assert body["content"]["application/json"]["schema"] == {
        "$ref": f"#/components/schemas/{BODY_TYPES[path].__name__}"
    }


@pytest.mark.parametrize("path", BODY_TYPES)
def test_every_failure_that_a_client_may_see_is_told(path):
    responses = DOCUMENT["paths"][path]["post"]["responses"]
    told = {status: response["content"] for status, response in responses.items() if status != "200"}
    name = "MessagesErrorResponse" if path in MESSAGES_BODIES else "ErrorResponse"
    error = {"application/json": {"schema": {"$ref": f"#/components/schemas/{name}"}}}
    statuses = ["400", "401", "404", "408", "413", "415", "429", "503"]
    # No engine takes part in the others.
    statuses += ["431", "500", "504"] * (not path.startswith(("/v1/conversations", "/v1/batches")))
    assert told == dict.fromkeys(statuses + ["529"] * (path in MESSAGES_BODIES), error)


@pytest.mark.parametrize("path", [CHAT, COMPLETE, MESSAGES, "/v1/responses"])
def test_what_can_be_streamed_says_so(path):
    assert "text/event-stream" in DOCUMENT["paths"][path]["post"]["responses"]["200"]["content"]


async def test_it_is_served(api):
    response = await api.http.get("/openapi.json")
    assert response.headers["content-type"].startswith("application/json")
    assert response.json() == DOCUMENT


# Fields


@pytest.mark.parametrize("body_type", BODY_TYPES.values())
def test_every_field_says_what_it_does_and_to_what_effect(body_type):
    for name, field in properties(body_type).items():
        assert re.fullmatch(r"[A-Z`0].*\.", field["description"]), f"{name} has no sentence"
        assert field[EFFECT] in ("honored", "none", "refused"), name
        assert field.get(FROM_VLLM) in (None, True), name


@pytest.mark.parametrize("body_type", BODY_TYPES.values())
def test_every_field_that_is_decoded_is_told(body_type):
    assert list(properties(body_type)) == list(msgspec.structs.asdict(_least(body_type)))


def _least(body_type: type[msgspec.Struct]) -> msgspec.Struct:
    path = next(path for path, kind in BODY_TYPES.items() if kind is body_type)
    return msgspec.convert(ALL_BODIES[path], body_type)


def test_what_is_refused_is_marked_as_refused():
    marked = {name for name, field in properties(ChatBody).items() if field[EFFECT] == "refused"}
    assert marked == set(REFUSED)


def test_what_responses_refuse_is_marked_as_refused():
    marked = {name for name, field in properties(ResponseBody).items() if field[EFFECT] == "refused"}
    assert marked == set(REFUSED_IN_RESPONSES)


def test_what_messages_refuse_is_marked_as_refused():
    assert {name for name, field in properties(MessagesBody).items() if field[EFFECT] == "refused"} == {"thread"}


WITH_REFUSED = (ChatBody, ResponseBody, MessagesBody)


@pytest.mark.parametrize("body_type", [kind for kind in BODY_TYPES.values() if kind not in WITH_REFUSED])
def test_no_other_body_has_fields_that_are_refused(body_type):
    assert all(field[EFFECT] != "refused" for field in properties(body_type).values())


@pytest.mark.parametrize("path", [CHAT, COMPLETE])
def test_what_has_no_effect_has_none(path):
    body_type = BODY_TYPES[path]
    least = _least(body_type)
    values = [True, "x", "auto", "24h", "low", {}]

    def outcome(body: Any) -> Any:
        return body.to_request(body.to_conversation()) if isinstance(body, ChatBody) else body.to_requests()

    for name, field in properties(body_type).items():
        if field[EFFECT] != "none":
            continue
        usable = [value for value in values if is_valid(BODIES[path] | {name: value}, body_type)]
        assert usable, name
        for value in usable:
            assert outcome(msgspec.structs.replace(least, **{name: value})) == outcome(least)


# OpenAI's fields: the schemas CreateChatCompletionRequest, CreateCompletionRequest and CreateEmbeddingRequest.
OPENAI = {
    ChatBody: {
        "messages", "model", "audio", "frequency_penalty", "function_call", "functions", "logit_bias", "logprobs",
        "max_completion_tokens", "max_tokens", "metadata", "modalities", "n", "parallel_tool_calls", "prediction",
        "presence_penalty", "prompt_cache_key", "prompt_cache_retention", "reasoning_effort", "response_format",
        "safety_identifier", "seed", "service_tier", "stop", "store", "stream", "stream_options", "temperature",
        "tool_choice", "tools", "top_logprobs", "top_p", "user", "verbosity", "web_search_options",
    },
    CompletionBody: {
        "model", "prompt", "best_of", "echo", "frequency_penalty", "logit_bias", "logprobs", "max_tokens", "n",
        "presence_penalty", "seed", "stop", "stream", "stream_options", "suffix", "temperature", "top_p", "user",
    },
    EmbeddingBody: {"model", "input", "dimensions", "encoding_format", "user"},
}  # fmt: skip


@pytest.mark.parametrize("body_type", OPENAI)
def test_every_field_of_openais_is_known_and_told_as_openais(body_type):
    assert OPENAI[body_type] <= set(properties(body_type))
    assert all(FROM_VLLM not in properties(body_type)[name] for name in OPENAI[body_type])


@pytest.mark.parametrize("body_type", OPENAI)
def test_the_other_fields_are_told_to_be_vllms(body_type):
    # Newer than the list above.
    new = {"moderation", "prompt_cache_options"}
    others = set(properties(body_type)) - OPENAI[body_type] - new
    assert [name for name in others if FROM_VLLM not in properties(body_type)[name]] == []


# The schemas and what is really sent


# The model and the input may come from a prompt or a conversation that is stored.
WITHOUT_REQUIRED = {
    TOKENIZE, "/v1/responses", "/v1/responses/input_tokens", "/v1/responses/compact", "/v1/conversations",
    "/v1/score", "/score",
}  # fmt: skip


@pytest.mark.parametrize("path", BODY_TYPES)
def test_a_good_body_fits_its_schema(path):
    assert is_valid(ALL_BODIES[path], BODY_TYPES[path])
    assert not is_valid({**ALL_BODIES[path], "zz_new": 5}, BODY_TYPES[path])
    if "model" in properties(BODY_TYPES[path]):
        assert not is_valid({**ALL_BODIES[path], "model": 5}, BODY_TYPES[path])
    assert is_valid({}, BODY_TYPES[path]) == (path in WITHOUT_REQUIRED)


@pytest.mark.parametrize(
    ("path", "more"),
    [
        (EMBED, {}),
        (EMBED, {"encoding_format": "base64"}),
        (COMPLETE, {"logprobs": 2, "echo": True}),
        (CHAT, {"logprobs": True, "top_logprobs": 2}),
        (CHAT, {"chat_template_kwargs": {"enable_thinking": False}}),
        (
            CHAT,
            {
                "chat_template_kwargs": {"enable_thinking": False},
                "tools": [{"type": "function", "function": {"name": "f"}}],
                "tool_choice": "required",
            },
        ),
        (TOKENIZE, {}),
        (TOKENIZE, {"return_token_strs": True}),
        (DETOKENIZE, {}),
        (MESSAGES, {}),
        (MESSAGES, {"thinking": {"type": "disabled"}}),
        (
            MESSAGES,
            {
                "thinking": {"type": "disabled"},
                "tools": [{"name": "f", "input_schema": {"type": "object"}}],
                "tool_choice": {"type": "any"},
            },
        ),
        (COUNT_TOKENS, {}),
    ],
)
async def test_an_answer_fits_its_schema(api, path, more):
    answer = (await api.post(path, **more)).json()
    schema = DOCUMENT["paths"][path]["post"]["responses"]["200"]["content"]["application/json"]["schema"]
    jsonschema.Draft202012Validator(schema_of(schema)).validate(answer)
    assert not is_valid({}, schema)


@pytest.mark.parametrize("path", QUESTIONS)
async def test_an_answer_to_a_question_fits_its_schema(api, path):
    answer = (await api.http.get(path.format(model="org/name"))).json()
    schema = DOCUMENT["paths"][path]["get"]["responses"]["200"]["content"]["application/json"]["schema"]
    jsonschema.Draft202012Validator(schema_of(schema)).validate(answer)
    assert not is_valid({}, schema)


def test_a_failure_fits_its_schema():
    body = msgspec.json.decode(encode(error_response(ContextLengthError(256, param="prompt"))))
    assert is_valid(body, {"$ref": "#/components/schemas/ErrorResponse"})
    assert not is_valid({"error": {}}, {"$ref": "#/components/schemas/ErrorResponse"})
