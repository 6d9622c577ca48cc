"""One endpoint of the API as data, from which its route is made."""

from collections.abc import Callable, Coroutine
from typing import Any, Literal

import msgspec
from litestar.types import ASGIApp

Handler = Callable[..., Coroutine[Any, Any, ASGIApp]]
"""Takes the request, if it reads it, and each path parameter by name; returns the answer as an ASGI application."""


class Endpoint(msgspec.Struct, frozen=True, kw_only=True):
    """One method of one path."""

    method: Literal["GET", "POST"]
    path: str
    """As Litestar writes it: with the type of each parameter, as in `/page/{name:str}`."""
    handler: Handler
    status: int = 200
    needs_metrics: bool = False
    """Whether it is served only where metrics are shown."""
