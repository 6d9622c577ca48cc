"""The OpenAPI document of the Files API, whose one body is a form."""

import re
from pathlib import Path

import jsonschema
import pytest

from domain.openai.field import EFFECT
from domain.openai.files import FileBody
from tests.unit.files_serving import FILES, FilesApi, files_serving
from tests.unit.test_openapi import DOCUMENT, FORM, is_valid, properties, schema_of


def test_an_upload_is_a_form():
    operation = DOCUMENT["paths"][FILES]["post"]
    assert operation["requestBody"] == {
        "required": True,
        "content": {FORM: {"schema": {"$ref": "#/components/schemas/FileBody"}}},
    }
    assert set(operation["responses"]) == {
        "200", "400", "401", "403", "404", "408", "413", "415", "429", "503", "507",
    }  # fmt: skip


def test_its_fields_are_openais_and_say_what_they_do():
    fields = properties(FileBody)
    assert list(fields) == ["file", "purpose", "expires_after[anchor]", "expires_after[seconds]"]
    assert (fields["file"]["type"], fields["file"]["format"]) == ("string", "binary")
    for field in fields.values():
        assert re.fullmatch(r"[A-Z`0].*\.", field["description"])
        assert field[EFFECT] == "honored"
    assert is_valid({"file": "", "purpose": "batch"}, FileBody)
    assert not is_valid({"purpose": "batch"}, FileBody)
    assert not is_valid({"file": "", "purpose": "batch", "expires_after[seconds]": 1}, FileBody)


def test_contents_are_binary():
    content = DOCUMENT["paths"][f"{FILES}/{{file_id}}/content"]["get"]["responses"]["200"]["content"]
    assert content == {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}}


@pytest.fixture
async def api(tmp_path: Path):
    async with files_serving(tmp_path) as running:
        yield running


async def test_every_answer_fits_its_schema(api: FilesApi):
    created = await api.upload()
    path = f"{FILES}/{created.json()['id']}"
    answers = {
        ("post", FILES): created,
        ("get", FILES): await api.http.get(FILES),
        ("get", f"{FILES}/{{file_id}}"): await api.http.get(path),
        ("delete", f"{FILES}/{{file_id}}"): await api.http.delete(path),
    }
    for (method, template), answer in answers.items():
        content = DOCUMENT["paths"][template][method]["responses"]["200"]["content"]
        schema = content["application/json"]["schema"]
        jsonschema.Draft202012Validator(schema_of(schema)).validate(answer.json())
        assert not is_valid({}, schema)
