"""The OpenAPI document, made from the same types that decode requests and encode answers."""

import importlib.metadata
import re
from functools import cache
from typing import Any

import msgspec

from app.http.codec import encode
from app.http.endpoint import Endpoint

REF = "#/components/schemas/{name}"
BINARY = {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}}
STREAMED = {"text/event-stream": {"schema": {"type": "string"}}}
ERRORS = {
    400: "The request can't be served as it is; `param` names what is wrong.",
    401: "There are keys, and the request has none of them.",
    403: "A page of another origin has sent the request.",
    404: "There is no such model, or it can't do this.",
    408: "The request took too long to arrive.",
    413: "The body is too large.",
    415: "The body is not declared as JSON, or is compressed.",
    429: "The key's minute is used up; `Retry-After` says when to try again.",
    431: "The headers are too large.",
    500: "A failure of the engine or of the service.",
    503: "The engine is not ready; `Retry-After` says when to try again.",
    504: "The engine did not answer in time.",
    507: "There is no space for the file.",
    529: "The model's queue is full; `Retry-After` says when to try again.",
}
"""All statuses of errors and what they say."""


@cache
def document(endpoints: tuple[Endpoint, ...]) -> bytes:
    """The document as JSON (OpenAPI 3.1), of those endpoints that have a type of answer."""
    documented = [(endpoint, endpoint.answer) for endpoint in endpoints if endpoint.answer is not None]
    types = [kind for endpoint, answer in documented for kind in (endpoint.body, answer) if kind is not None]
    errors = dict.fromkeys(endpoint.error_format.document for endpoint, _ in documented)
    _, schemas = msgspec.json.schema_components([*types, *errors], ref_template=REF)
    paths: dict[str, dict[str, Any]] = {}
    for endpoint, answer in documented:
        paths.setdefault(endpoint.public_path, {})[endpoint.method.lower()] = _operation(endpoint, answer)
    return encode(
        {
            "openapi": "3.1.0",
            "info": {
                "title": "memoria-vllm",
                "version": importlib.metadata.version("memoria-vllm"),
                "description": "An embedding model and a generation model on vLLM, behind OpenAI's API.",
                "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
            },
            "paths": paths,
            "components": {"schemas": schemas},
        }
    )


def _operation(endpoint: Endpoint, answer: type[msgspec.Struct]) -> dict[str, Any]:
    content = BINARY if endpoint.is_file else _content(answer) | (STREAMED if endpoint.is_streamed else {})
    meanings = ((endpoint.status, endpoint.summary), *endpoint.other_statuses)
    responses = {str(status): {"description": meaning, "content": content} for status, meaning in meanings}
    for status in endpoint.errors:
        responses[str(status)] = {
            "description": ERRORS[status],
            "content": _content(endpoint.error_format.document),
        }
    operation: dict[str, Any] = {
        "summary": endpoint.summary,
        "operationId": endpoint.summary.lower().replace(" ", "_"),
        "responses": responses,
    }
    if names := re.findall(r"\{(\w+)\}", endpoint.public_path):
        operation["parameters"] = [
            {"name": name, "in": "path", "required": True, "schema": {"type": "string", "minLength": 1}}
            for name in names
        ]
    if endpoint.body is not None:
        operation["requestBody"] = {"required": True, "content": _content(endpoint.body, endpoint.body_type)}
    return operation


def _content(kind: type[msgspec.Struct], media_type: str = "application/json") -> dict[str, Any]:
    return {media_type: {"schema": {"$ref": REF.format(name=kind.__name__)}}}
