"""One endpoint of the API as data: its route, its access and what the documents say of it.

`endpoints.py` lists all of them. `asgi.py` makes routes of them, `openapi.py` the OpenAPI document and
`parameters.py` the tables of API.md; `authentication.py` takes from them which requests need a key or are counted.
"""

import enum
import re
from collections.abc import Callable, Coroutine
from typing import Any, Literal

import msgspec
from litestar.types import ASGIApp

from app.http.codec import BodyDecoder
from app.http.error_formats import OPENAI, ErrorFormat
from domain.roles import Role

Handler = Callable[..., Coroutine[Any, Any, ASGIApp]]
"""Takes the request, if it reads it, and each path parameter by name; returns the answer as an ASGI app."""
SERVED_ENDPOINTS = "endpoints"
"""Where the application's state keeps the endpoints that it serves."""


class Access(enum.Enum):
    """Whether a request needs an API key where keys are set; the values are the words of API.md."""

    KEY = "needed"
    STATUS_WITHOUT_KEY = "not needed; without it only the status"
    OPEN = "not needed"


class BatchLines(msgspec.Struct, frozen=True):
    """The requests of an endpoint as lines of a batch."""

    decoder: BodyDecoder[Any]
    """The handler's own."""
    roles: tuple[Role, ...]
    """The roles of models that they may name, the preferred one first."""


class Endpoint(msgspec.Struct, frozen=True, kw_only=True):
    """One method of one path."""

    method: Literal["GET", "POST", "DELETE"]
    path: str
    """As Litestar writes it, with the type of each parameter, as in `/page/{name:str}`."""
    handler: Handler
    about: str
    """What it answers, for API.md (Markdown)."""
    access: Access = Access.KEY
    is_counted: bool = False
    """Whether a request counts against its key's limit of requests, as work for an engine does."""
    is_probe: bool = False
    """Whether load balancers ask it: answered without a queue, and beyond the most connections."""
    needs_metrics: bool = False
    """Whether it is served only where metrics are shown."""
    status: int = 200
    """The status of a successful answer."""
    answer: type[msgspec.Struct] | None = None
    """The type of a successful answer; None leaves the endpoint out of the OpenAPI document."""
    summary: str = ""
    """For the OpenAPI document, whose operation id follows from it."""
    body: type[msgspec.Struct] | None = None
    """The type that its request body is decoded into."""
    body_type: Literal["application/json", "multipart/form-data"] = "application/json"
    """How its request body is encoded."""
    body_origin: Literal["OpenAI", "vLLM", "Anthropic"] = "OpenAI"
    """Whose API defines the body's fields, where a field itself does not say otherwise."""
    body_note: str = ""
    """Text above the table of the body's fields in API.md (Markdown)."""
    is_file: bool = False
    """Whether the answer is the contents of a file, and not of its type."""
    batch_lines: BatchLines | None = None
    """Its requests as lines of a batch; None if a batch can't have them."""
    is_streamed: bool = False
    """Whether the answer may be a stream of server-sent events."""
    errors: tuple[int, ...] = ()
    """The statuses with which it answers an error."""
    error_format: ErrorFormat = OPENAI
    """The shape of its errors, and of those of unknown paths below its own."""
    other_statuses: tuple[tuple[int, str], ...] = ()
    """Statuses besides `status` whose answer has the same type, and what each of them says."""

    documented_path: str = ""
    """The path as documents write it, where that is not its template."""

    @property
    def template(self) -> str:
        """The path without the types of its parameters, which is also how metrics and spans name it."""
        return re.sub(r"\{(\w+):\w+\}", r"{\1}", self.path)

    @property
    def public_path(self) -> str:
        """The path as documents write it."""
        return self.documented_path or self.template
