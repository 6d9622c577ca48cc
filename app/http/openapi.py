"""The OpenAPI document, made from the same types that decode requests and encode answers."""

import importlib.metadata
from functools import cache
from typing import Any

import msgspec

from app.http.codec import encode
from app.http.controllers.status import Status
from domain.health import ServiceHealth
from domain.openai.chat import ChatBody
from domain.openai.chat_response import ChatCompletion
from domain.openai.completions import Completion, CompletionBody
from domain.openai.embeddings import EmbeddingBody, EmbeddingResponse
from domain.openai.error import ErrorResponse
from domain.openai.models import Model, ModelList
from domain.openai.tokenize import DetokenizeBody, DetokenizeResponse, TokenizeBody, TokenizeResponse

REF = "#/components/schemas/{name}"
STREAMED = {"text/event-stream": {"schema": {"type": "string"}}}
ERRORS = {
    "400": "The request can't be served as it is; `param` names what is wrong.",
    "401": "There are keys, and the request has none of them.",
    "404": "There is no such model, or it can't do this.",
    "408": "The request took too long to arrive.",
    "413": "The body is too large.",
    "415": "The body is not declared as JSON, or is compressed.",
    "429": "The key's minute is used up; `Retry-After` says when to try again.",
    "431": "The headers are too large.",
    "500": "A failure of the engine or of the service.",
    "503": "The engine is not ready; `Retry-After` says when to try again.",
    "504": "The engine did not answer in time.",
}


class Endpoint(msgspec.Struct, frozen=True):
    """One path and what goes in and out of it."""

    path: str
    summary: str
    answer: type[msgspec.Struct]
    body: type[msgspec.Struct] | None = None
    is_streamed: bool = False


ENDPOINTS = (
    Endpoint("/v1/chat/completions", "Answer a conversation", ChatCompletion, ChatBody, True),
    Endpoint("/v1/completions", "Continue prompts", Completion, CompletionBody, True),
    Endpoint("/v1/embeddings", "Embed texts", EmbeddingResponse, EmbeddingBody),
    Endpoint("/v1/models", "List the models", ModelList),
    Endpoint("/v1/models/{model}", "Retrieve a model", Model),
    Endpoint("/tokenize", "Texts to tokens", TokenizeResponse, TokenizeBody),
    Endpoint("/detokenize", "Tokens to text", DetokenizeResponse, DetokenizeBody),
    Endpoint("/health", "State and reason of each model", ServiceHealth),
    Endpoint("/status", "State of each model and the last minutes", Status),
)


@cache
def document() -> bytes:
    """The document as JSON (OpenAPI 3.1)."""
    types = [kind for endpoint in ENDPOINTS for kind in (endpoint.body, endpoint.answer) if kind is not None]
    _, schemas = msgspec.json.schema_components([*types, ErrorResponse], ref_template=REF)
    return encode(
        {
            "openapi": "3.1.0",
            "info": {
                "title": "memoria-vllm",
                "version": importlib.metadata.version("memoria-vllm"),
                "description": "An embedding model and a generation model on vLLM, behind OpenAI's API.",
                "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
            },
            "paths": {endpoint.path: _path(endpoint) for endpoint in ENDPOINTS},
            "components": {"schemas": schemas},
        }
    )


def _path(endpoint: Endpoint) -> dict[str, Any]:
    content = _json(endpoint.answer) | (STREAMED if endpoint.is_streamed else {})
    operation: dict[str, Any] = {
        "summary": endpoint.summary,
        "operationId": endpoint.summary.lower().replace(" ", "_"),
        "responses": {"200": {"description": endpoint.summary, "content": content}},
    }
    if endpoint.path == "/health":
        # Not an error: the same answer, when not all models serve.
        operation["responses"]["503"] = {"description": "Not all models serve.", "content": content}
        return {"get": operation}
    for status in _statuses(endpoint):
        operation["responses"][status] = {"description": ERRORS[status], "content": _json(ErrorResponse)}
    if "{model}" in endpoint.path:
        operation["parameters"] = [
            {"name": "model", "in": "path", "required": True, "schema": {"type": "string", "minLength": 1}}
        ]
    if endpoint.body is None:
        return {"get": operation}
    operation["requestBody"] = {"required": True, "content": _json(endpoint.body)}
    return {"post": operation}


def _statuses(endpoint: Endpoint) -> tuple[str, ...]:
    """The errors that an endpoint knows."""
    if endpoint.body is not None:
        return tuple(ERRORS)
    return ("401",) if endpoint.path in ("/v1/models", "/status") else ("401", "404", "503")


def _json(kind: type[msgspec.Struct]) -> dict[str, Any]:
    return {"application/json": {"schema": {"$ref": REF.format(name=kind.__name__)}}}
