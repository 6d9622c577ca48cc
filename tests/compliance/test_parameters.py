"""Every field of OpenAI's request schemas is known here, and API.md says of each what becomes of it."""

import json
from pathlib import Path

import openai.types.chat.completion_create_params as sdk_chat
import openai.types.completion_create_params as sdk_completions
import openai.types.embedding_create_params as sdk_embeddings
import pytest

from app.parameters import ENDPOINTS, page, parameters
from domain.openai.chat import ChatBody
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
def test_what_is_not_openais_is_said_to_be_vllms(body: type) -> None:
    others = {field.name for field in parameters(body) if field.is_vllms}
    assert others.isdisjoint(SPEC[SCHEMAS[body]])
    assert {field.name for field in parameters(body)} - others == set(SPEC[SCHEMAS[body]])


def test_the_page_has_the_tables_of_the_code() -> None:
    text = (ROOT / "API.md").read_text()
    tables = text.split("<!-- parameters -->\n")[1].split("<!-- end of parameters -->")[0]
    assert tables.strip() == page().strip(), "python -m app.parameters prints the tables"
    assert all(endpoint in tables for endpoint in ENDPOINTS)
