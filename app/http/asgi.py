"""The web application around a service."""

import asyncio
import logging
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from functools import cache
from typing import TYPE_CHECKING, cast

from litestar import Litestar
from litestar.datastructures import State
from litestar.enums import HttpMethod, ScopeType
from litestar.handlers import HTTPRouteHandler, WebsocketRouteHandler
from litestar.types import (
    HTTPScope,
    LifeSpanReceive,
    LifeSpanScope,
    LifeSpanSend,
    Receive,
    Scope,
    Send,
    WebSocketScope,
)

from app.batches.service import BatchesService
from app.files.service import FilesService
from app.http.authentication import ACCESS_RULES, AccessRules, ApiKeyMiddleware
from app.http.controllers.responses_socket import serve_responses
from app.http.cors import cors
from app.http.endpoint import SERVED_ENDPOINTS, Endpoint
from app.http.endpoints import ENDPOINTS
from app.http.error_formats import ErrorFormats
from app.http.errors import REFUSAL, handle, refuse
from app.http.requests import BATCHES, FILES, HISTORY, METRICS, OPTIONS, RESPONSES, SERVICE, SERVICE_CLASS
from app.http.response_headers import request_id, stamped
from app.responses.service import ResponsesService
from app.service import Service
from app.settings import ApiOptions
from app.telemetry.history import History
from app.telemetry.telemetry import NO_TELEMETRY, Telemetry
from domain.errors import InferenceError
from domain.service_class import ServiceClass

if TYPE_CHECKING:
    from app.telemetry.metrics import Metrics

log = logging.getLogger("memoria")


class Application(Litestar):
    """Litestar, with headers on every answer, answers to unknown paths included, which no middleware sees."""

    service: Service
    """What the handlers call; started and stopped by the lifespan."""
    history: History
    """What `GET /status` shows of the last minutes."""
    responses: ResponsesService
    """Stores and continues responses; started and stopped by the lifespan."""
    files: FilesService | None
    """Keeps files; started and stopped by the lifespan. None to keep none."""
    batches: BatchesService
    """Runs batches; started and stopped by the lifespan."""
    error_formats = ErrorFormats(ENDPOINTS)
    telemetry = NO_TELEMETRY
    """Observes requests, those to unknown paths included."""

    def drain(self) -> None:
        """Reject new requests from now on, and interrupt batches; running requests continue."""
        self.batches.drain()
        self.service.drain()

    async def __call__(
        self,
        scope: Scope | LifeSpanScope,
        receive: Receive | LifeSpanReceive,
        send: Send | LifeSpanSend,
    ) -> None:
        """The entry point of ASGI."""
        if scope["type"] == ScopeType.WEBSOCKET:
            cast(WebSocketScope, scope).setdefault("state", {})
        if scope["type"] != ScopeType.HTTP:
            await super().__call__(scope, receive, send)
            return
        request = cast(HTTPScope, scope)
        stamped_send = stamped(request, cast(Send, send), self.error_formats.of(request["path"]))
        state = request["state"]
        service_class: ServiceClass = state.get(SERVICE_CLASS, ServiceClass.INTERACTIVE)
        observation = self.telemetry.begin(request, request_id(request), service_class=service_class)
        refusal: InferenceError | None = state.get(REFUSAL)
        try:
            if refusal is not None:
                await refuse(refusal, request, stamped_send, connection="close")
            else:
                await super().__call__(scope, receive, stamped_send)
        except asyncio.CancelledError:
            # The server stops waiting when the service shuts down. This task ends in any case, and the client sees
            # its connection close in the middle of the answer.
            log.warning("a request was given up, because the service is ending")
            if observation is not None:
                observation.abandoned()
        finally:
            if observation is not None:
                observation.end()


def create_app(
    service: Service,
    options: ApiOptions,
    *,
    responses: ResponsesService | None = None,
    files: FilesService | None = None,
    batches: BatchesService | None = None,
    api_keys: ApiKeyMiddleware | None = None,
    history: History | None = None,
    cors_origins: Sequence[str] = (),
    telemetry: Telemetry = NO_TELEMETRY,
    metrics: "Metrics | None" = None,
    wait_s: float = 0.0,
    endpoints: Sequence[Endpoint] = ENDPOINTS,
) -> Application:
    """The application. Entering its lifespan starts the service; leaving it stops the service.

    Args:
        service: the service that handlers call.
        options: settings of the API itself.
        responses: stores and continues responses; None to store nothing.
        files: keeps files in the database that `responses` opens; None to keep none.
        batches: runs batches; None for none.
        api_keys: asks for them; None accepts every request.
        history: what `GET /status` shows of the last minutes; None for nothing.
        cors_origins: origins whose pages may use the API.
        telemetry: observes requests; started and stopped with the service.
        metrics: the metrics to expose; None for none.
        wait_s: seconds to wait at most for the backends before connections are accepted.
        endpoints: all endpoints; those that need metrics are served only where metrics are shown.
    """
    history = history or History()
    responses = responses or ResponsesService(None)
    batches = batches or BatchesService(None)
    shows_metrics = metrics is not None and metrics.is_shown
    served = tuple(row for row in endpoints if shows_metrics or not row.needs_metrics)
    batch_lines = {row.path: row.batch_lines for row in served if row.batch_lines is not None}

    @asynccontextmanager
    async def lifespan(_app: Litestar) -> AsyncGenerator[None, None]:
        await responses.start()
        try:
            if files is not None:
                await files.start()
            service.start()
            telemetry.start()
            batches.start(application, batch_lines)
            if wait_s:
                await service.wait_started(wait_s)
            yield
        finally:
            await batches.stop()
            if files is not None:
                await files.stop()
            await responses.stop()
            await service.stop()
            await telemetry.stop()

    application = Application(
        route_handlers=[
            *(_route(endpoint) for endpoint in served),
            WebsocketRouteHandler("/v1/responses")(serve_responses),
        ],
        # Instead of Litestar's dependency injection, which costs as much as the rest of an answer.
        state=State(
            {
                SERVICE: service,
                RESPONSES: responses,
                FILES: files,
                BATCHES: batches,
                OPTIONS: options,
                METRICS: metrics,
                HISTORY: history,
                SERVED_ENDPOINTS: served,
                ACCESS_RULES: AccessRules.of(served),
            }
        ),
        exception_handlers={Exception: handle},
        lifespan=[lifespan],
        middleware=[api_keys] if api_keys is not None else [],
        # Outside of the API keys: a browser sends its preflight request without one.
        cors_config=cors(cors_origins) if cors_origins else None,
        openapi_config=None,
        logging_config=None,
        debug=False,
    )
    application.service, application.history, application.telemetry = service, history, telemetry
    application.responses, application.files, application.batches = responses, files, batches
    application.error_formats = ErrorFormats(served)
    return application


@cache
def _route(endpoint: Endpoint) -> HTTPRouteHandler:
    """The route, with its signature already resolved: every application copies it, and tests make hundreds."""
    route = HTTPRouteHandler(endpoint.path, http_method=HttpMethod(endpoint.method), status_code=endpoint.status)(
        endpoint.handler
    )
    _ = route.signature_model
    return route
