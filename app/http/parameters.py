"""The table of request parameters in API.md, printed from the types that decode requests.

`python -m app.http.parameters` prints it, and a test holds the page against it.
"""

from typing import Any

import msgspec
from msgspec import inspect

from domain.openai.chat import ChatBody
from domain.openai.completions import CompletionBody
from domain.openai.embeddings import EmbeddingBody
from domain.openai.field import EFFECT, FROM_VLLM
from domain.openai.tokenize import DetokenizeBody, TokenizeBody

ENDPOINTS: dict[str, type[msgspec.Struct]] = {
    "POST /v1/chat/completions": ChatBody,
    "POST /v1/completions": CompletionBody,
    "POST /v1/embeddings": EmbeddingBody,
    "POST /tokenize": TokenizeBody,
    "POST /detokenize": DetokenizeBody,
}
IN_WORDS = {"honoured": "honoured", "none": "accepted, without effect", "refused": "refused (400)"}


class Parameter(msgspec.Struct, frozen=True):
    """One field of a request."""

    name: str
    effect: str
    is_vllms: bool
    is_required: bool
    about: str


def parameters(body: type[msgspec.Struct]) -> list[Parameter]:
    """The fields of a request type: required ones first, then OpenAI's, then vLLM's, each by name."""
    kind = inspect.type_info(body)
    assert isinstance(kind, inspect.StructType)
    found = [_parameter(field) for field in kind.fields]
    return sorted(found, key=lambda field: (not field.is_required, field.is_vllms, field.name))


def table(body: type[msgspec.Struct]) -> str:
    """The Markdown table of one endpoint."""
    rows = ["| parameter | from | here | |", "|---|---|---|---|"]
    for field in parameters(body):
        name = f"**`{field.name}`**" if field.is_required else f"`{field.name}`"
        origin = "vLLM" if field.is_vllms or body in (TokenizeBody, DetokenizeBody) else "OpenAI"
        rows.append(f"| {name} | {origin} | {IN_WORDS[field.effect]} | {field.about} |")
    return "\n".join(rows) + "\n"


def page() -> str:
    """All tables, each under its endpoint."""
    return "\n".join(f"### {endpoint}\n\n{table(body)}" for endpoint, body in ENDPOINTS.items())


def _parameter(field: inspect.Field) -> Parameter:
    told: dict[str, Any] = {}
    if isinstance(field.type, inspect.Metadata):
        told = field.type.extra_json_schema or {}
    return Parameter(
        name=field.encode_name,
        effect=told[EFFECT],
        is_vllms=bool(told.get(FROM_VLLM)),
        is_required=field.required,
        about=told["description"],
    )


if __name__ == "__main__":
    print(page(), end="")
