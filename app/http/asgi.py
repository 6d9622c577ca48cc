"""The web application around a service."""

import asyncio
import logging
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, cast

from litestar import Controller, Litestar
from litestar.datastructures import State
from litestar.enums import ScopeType
from litestar.types import HTTPScope, LifeSpanReceive, LifeSpanScope, LifeSpanSend, Receive, Scope, Send

from app.http.authentication import Gate
from app.http.controllers.admin import AdminController
from app.http.controllers.chat import ChatController
from app.http.controllers.completions import CompletionsController
from app.http.controllers.embeddings import EmbeddingsController
from app.http.controllers.health import HealthController
from app.http.controllers.models import ModelsController
from app.http.controllers.openapi import OpenAPIController
from app.http.controllers.page import PageController
from app.http.controllers.status import StatusController
from app.http.controllers.tokenize import TokenizeController
from app.http.cors import cors
from app.http.errors import REFUSAL, handle, refuse
from app.http.requests import HISTORY, METRICS, OPTIONS, SERVICE
from app.http.response_headers import request_id, stamped
from app.service import Service
from app.settings import ApiOptions
from app.telemetry.history import History
from app.telemetry.telemetry import NO_TELEMETRY, Telemetry
from domain.errors import InferenceError

if TYPE_CHECKING:
    from app.telemetry.metrics import Metrics

log = logging.getLogger("memoria")

CONTROLLERS = [
    ChatController,
    CompletionsController,
    EmbeddingsController,
    ModelsController,
    TokenizeController,
    HealthController,
    AdminController,
    OpenAPIController,
    StatusController,
    PageController,
]


class Application(Litestar):
    """Litestar, with headers on every answer: those to unknown paths too, which no middleware sees."""

    telemetry = NO_TELEMETRY
    """What watches requests; told of those to unknown paths as well."""

    async def __call__(
        self,
        scope: Scope | LifeSpanScope,
        receive: Receive | LifeSpanReceive,
        send: Send | LifeSpanSend,
    ) -> None:
        """The entry point of ASGI."""
        if scope["type"] != ScopeType.HTTP:
            await super().__call__(scope, receive, send)
            return
        request = cast(HTTPScope, scope)
        stamped_send = stamped(request, cast(Send, send))
        observation = self.telemetry.begin(request, request_id(request))
        refusal: InferenceError | None = request["state"].get(REFUSAL)
        try:
            if refusal is not None:
                await refuse(refusal, request, stamped_send, connection="close")
            else:
                await super().__call__(scope, receive, stamped_send)
        except asyncio.CancelledError:
            # The server does not wait any longer at the end of the service; this task is over in any case, and
            # the client sees its connection close in the middle of the answer.
            log.warning("a request was given up, because the service is ending")
            if observation is not None:
                observation.given_up()
        finally:
            if observation is not None:
                observation.end()


def create_app(
    service: Service,
    options: ApiOptions,
    *,
    gate: Gate | None = None,
    history: History | None = None,
    cors_origins: Sequence[str] = (),
    telemetry: Telemetry = NO_TELEMETRY,
    metrics: "Metrics | None" = None,
    wait_s: float = 0.0,
) -> Litestar:
    """The application; entering its lifespan starts the service, leaving it stops the service.

    Args:
        service: what the controllers work with.
        options: what can be set about the API.
        gate: lets in those who have a key; None lets in everybody.
        history: what `GET /status` shows of the last minutes; None shows nothing.
        cors_origins: web sites whose pages may use the API.
        telemetry: watches requests; started and stopped with the service.
        metrics: what is counted, to be shown; None for nothing.
        wait_s: how long at most to wait for the backends before connections are taken.
    """
    controllers: list[type[Controller]] = [*CONTROLLERS]
    if metrics is not None and metrics.is_shown:
        # Loaded only where it is needed, as the library behind it.
        from app.http.controllers.metrics import MetricsController

        controllers.append(MetricsController)

    @asynccontextmanager
    async def lifespan(_app: Litestar) -> AsyncGenerator[None, None]:
        service.start()
        telemetry.start()
        try:
            if wait_s:
                await service.wait_started(wait_s)
            yield
        finally:
            await service.stop()
            await telemetry.stop()

    application = Application(
        route_handlers=controllers,
        # Litestar's dependency injection would do; it costs as much as all the rest of an answer.
        state=State({SERVICE: service, OPTIONS: options, METRICS: metrics, HISTORY: history or History()}),
        exception_handlers={Exception: handle},
        lifespan=[lifespan],
        middleware=[gate] if gate is not None else [],
        # Outside of the gate: a browser asks without a key whether it may ask with one.
        cors_config=cors(cors_origins) if cors_origins else None,
        request_max_body_size=options.max_body_bytes,
        openapi_config=None,
        logging_config=None,
        debug=False,
    )
    application.telemetry = telemetry
    return application
