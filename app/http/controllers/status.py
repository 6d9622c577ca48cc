"""`GET /status`: what the page at `/` shows, in one answer."""

import importlib.metadata
import time

import msgspec
from litestar.types import ASGIApp

from app.http.requests import AnyRequest, history_of, json_response, service_of
from app.telemetry.history import LastRequest, Series
from domain.health import ServiceHealth
from domain.openai.models import Model

VERSION = importlib.metadata.version("memoria-vllm")


class Status(msgspec.Struct, frozen=True, kw_only=True):
    """How the service is, and what it did in the last minutes. Holds nothing of any request's content.

    With several API processes, series and requests are those of the process that answers.
    """

    version: str
    time: float
    """Unix time of this answer, by the clock that all its other times are told by."""
    health: ServiceHealth
    models: list[Model]
    """Every model under every name that it has, as `GET /v1/models` lists them."""
    series: Series
    requests: list[LastRequest]
    """The newest first."""


async def status(request: AnyRequest) -> ASGIApp:
    """Always 200: that an engine is down is in the answer."""
    service, history = service_of(request), history_of(request)
    status = Status(
        version=VERSION,
        time=time.time(),
        health=service.health(),
        models=service.catalog.list(),
        series=history.series(),
        requests=history.last_requests(),
    )
    return json_response(status)
