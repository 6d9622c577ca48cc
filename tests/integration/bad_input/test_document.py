"""Responses conform to the OpenAPI document, for valid and for invalid requests.

The generated cases are derandomized, so that every run has the same ones.
"""

import json
from typing import Any

import httpx
import pytest
import schemathesis
from hypothesis import settings
from schemathesis.checks import not_a_server_error
from schemathesis.config import SchemathesisConfig
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from app.http.endpoints import ENDPOINTS
from app.http.openapi import document
from tests.integration.bad_input.cases import repeatable
from tests.integration.bad_input.judge import REQUEST_TIMEOUT_S, is_model_failure, judge
from tests.processes import ServiceProcess

pytestmark = pytest.mark.integration

EXAMPLES = 40
MAX_TOKENS = 4
CHECKS = [not_a_server_error, status_code_conformance, content_type_conformance]


def load_schema() -> Any:
    config = SchemathesisConfig(seed=1)
    schema = schemathesis.openapi.from_dict(json.loads(document(ENDPOINTS)), config=config)
    schema.config.generation.update(deterministic=True, unique_inputs=True)
    return schema


schema = load_schema()


def test_the_openapi_document_is_served(service: ServiceProcess) -> None:
    assert httpx.get(f"{service.url}/openapi.json", trust_env=False).content == document(ENDPOINTS)


@schema.parametrize()
@settings(repeatable, max_examples=EXAMPLES)
def test_every_operation(case: schemathesis.Case, service: ServiceProcess) -> None:
    if isinstance(case.body, dict):
        case.body = with_known_model(case.body, str(case.operation.path))
    answer = case.call(base_url=service.url, timeout=REQUEST_TIMEOUT_S)
    if is_model_failure((answer.content or b"").decode(errors="replace")) and answer.status_code == 500:
        judge(httpx.Response(answer.status_code, content=answer.content))
        return
    if "text/event-stream" in answer.headers.get("content-type", [""])[0]:
        # The document describes a stream as text, and schemathesis would validate each event against that. It also
        # stops reading early, so other tests check the end of streams.
        case.validate_response(answer, checks=CHECKS)
        return
    case.validate_response(answer, checks=[*CHECKS, response_schema_conformance])
    if answer.content:
        headers = [(name, value) for name, values in answer.headers.items() for value in values]
        judge(httpx.Response(answer.status_code, content=answer.content, headers=headers))


def with_known_model(body: dict[str, Any], path: str) -> dict[str, Any]:
    """The body with an existing model, so that other fields are validated too, and with few tokens."""
    changed = dict(body)
    if isinstance(body.get("model"), str):
        changed["model"] = "tiny-embed" if path == "/v1/embeddings" else "tiny-gen"
    for name in ("max_tokens", "max_completion_tokens"):
        if type(body.get(name)) is int and body[name] > MAX_TOKENS:
            changed[name] = MAX_TOKENS
    if path == "/v1/chat/completions" and not (body.get("max_tokens") or body.get("max_completion_tokens")):
        changed["max_completion_tokens"] = MAX_TOKENS
    return changed
