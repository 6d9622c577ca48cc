"""`GET /status`: the data of the page at `/` in one answer."""

import time

import msgspec
from litestar.types import ASGIApp

from app.batches.overview import BatchesOverview
from app.http.controllers.batches import batches_of
from app.http.controllers.version import VERSION
from app.http.rate_limits import owner_of
from app.http.requests import AnyRequest, history_of, json_response, service_of
from app.telemetry.history import LastRequest, Series
from domain.health import ServiceHealth
from domain.openai.models import Model
from domain.roles import ROLES, Role


class RoleDescription(msgspec.Struct, frozen=True, kw_only=True):
    """A role that is switched on, as the page shows it."""

    key: Role
    """Its key in `health.backends` and `series.roles`."""
    noun: str
    """What precedes `engine` in sentences, such as `embedding`."""
    generates: bool
    """Whether it generates tokens."""


class Status(msgspec.Struct, frozen=True, kw_only=True):
    """State and recent history of the service, without any request's content.

    With several API processes, series and requests are those of the answering process.
    """

    version: str
    time: float
    """Unix time of this answer, by the same clock as its other times."""
    roles: list[RoleDescription]
    """In the order in which they are shown."""
    health: ServiceHealth
    models: list[Model]
    """Every model under each of its names, as `GET /v1/models` lists them."""
    series: Series
    requests: list[LastRequest]
    """Those of clients, newest first."""
    batches: BatchesOverview | None
    """The batches of the request's API key; null with BATCHES=off or STATE=off."""


async def status(request: AnyRequest) -> ASGIApp:
    """Always 200; the answer contains the engines' states, whether or not the database works."""
    service, history = service_of(request), history_of(request)
    status = Status(
        version=VERSION,
        time=time.time(),
        roles=[
            RoleDescription(key=role, noun=ROLES[role].noun, generates=ROLES[role].generates)
            for role in service.roles
        ],
        health=service.health(),
        models=service.catalog.list(),
        series=history.series(),
        requests=history.last_requests(),
        batches=await batches_of(request).overview(owner_of(request)),
    )
    return json_response(status)
