"""Validates answers against the response schemas of OpenAI's own OpenAPI document.

`openai_schemas.json` says where it comes from, at which version, and what was left out.
"""

import json
from functools import cache
from pathlib import Path
from typing import Any

from jsonschema import Draft202012Validator

SCHEMAS = json.loads((Path(__file__).parent / "openai_schemas.json").read_text())


@cache
def _validator(name: str) -> Draft202012Validator:
    assert name in SCHEMAS["$defs"]
    return Draft202012Validator({"$ref": f"#/$defs/{name}", "$defs": SCHEMAS["$defs"]})


def assert_matches(name: str, answer: Any, *, but_embeddings_may_be_text: bool = False) -> None:
    """Fail with all errors of an answer against a schema.

    The document describes embeddings as arrays only, though `encoding_format: base64` makes them text.
    """
    mistakes = [
        f"{error.json_path}: {error.message[:200]}"
        for error in _validator(name).iter_errors(answer)
        if not (but_embeddings_may_be_text and error.json_path.endswith(".embedding"))
    ]
    assert not mistakes
