"""The tables of API.md: the endpoints with who needs a key, and the parameters of each request body.

`python -m app.http.parameters` prints them, and tests compare the page with them.
"""

import textwrap
from collections.abc import Sequence
from typing import Any

import msgspec
from msgspec import inspect

from app.http.endpoint import Endpoint
from app.http.endpoints import ENDPOINTS
from domain.openai.field import EFFECT, FROM_VLLM

IN_WORDS = {"honored": "honored", "none": "accepted, without effect", "refused": "refused (400)"}
NOTE_WIDTH = 120


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


def endpoint_table(endpoints: Sequence[Endpoint]) -> str:
    """The Markdown table of all endpoints."""
    rows = ["| endpoint | what it answers | key |", "|---|---|---|"]
    rows += [f"| `{_name(endpoint)}` | {endpoint.about} | {endpoint.access.value} |" for endpoint in endpoints]
    return "\n".join(rows) + "\n"


def parameter_tables(endpoints: Sequence[Endpoint]) -> str:
    """The Markdown tables of all request bodies, each under the first path of its handler."""
    first = {endpoint.handler: endpoint for endpoint in reversed(endpoints)}
    return "\n".join(
        f"### {_name(endpoint)}\n\n{_note(endpoint)}{_parameter_table(endpoint.body, endpoint.body_origin)}"
        for endpoint in endpoints
        if endpoint.body is not None and first[endpoint.handler] is endpoint
    )


def _parameter_table(body: type[msgspec.Struct], origin: str) -> str:
    rows = ["| parameter | from | here | |", "|---|---|---|---|"]
    for field in parameters(body):
        name = f"**`{field.name}`**" if field.is_required else f"`{field.name}`"
        source = "vLLM" if field.is_vllms else origin
        rows.append(f"| {name} | {source} | {IN_WORDS[field.effect]} | {field.about} |")
    return "\n".join(rows) + "\n"


def _note(endpoint: Endpoint) -> str:
    return f"{textwrap.fill(endpoint.body_note, NOTE_WIDTH)}\n\n" if endpoint.body_note else ""


def _name(endpoint: Endpoint) -> str:
    return f"{endpoint.method} {endpoint.public_path}"


def _parameter(field: inspect.Field) -> Parameter:
    documented: dict[str, Any] = {}
    if isinstance(field.type, inspect.Metadata):
        documented = field.type.extra_json_schema or {}
    return Parameter(
        name=field.encode_name,
        effect=documented[EFFECT],
        is_vllms=bool(documented.get(FROM_VLLM)),
        is_required=field.required,
        about=documented["description"],
    )


if __name__ == "__main__":
    for name, text in (("endpoints", endpoint_table(ENDPOINTS)), ("parameters", parameter_tables(ENDPOINTS))):
        print(f"<!-- {name} -->\n{text}<!-- end of {name} -->")
