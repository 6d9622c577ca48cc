"""The web application around a service."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from litestar import Litestar
from litestar.di import Provide

from app.controllers.completions import CompletionsController
from app.controllers.embeddings import EmbeddingsController
from app.controllers.health import HealthController
from app.controllers.models import ModelsController
from app.errors import handle
from app.service import Service


def create_app(service: Service, *, max_body_bytes: int) -> Litestar:
    """The application; entering its lifespan starts the service, leaving it stops the service.

    Args:
        service: what the controllers work with.
        max_body_bytes: largest request body; a larger one gets status 413.
    """

    @asynccontextmanager
    async def lifespan(_app: Litestar) -> AsyncGenerator[None, None]:
        service.start()
        try:
            yield
        finally:
            await service.stop()

    return Litestar(
        route_handlers=[EmbeddingsController, CompletionsController, ModelsController, HealthController],
        dependencies={"service": Provide(lambda: service, sync_to_thread=False, use_cache=True)},
        exception_handlers={Exception: handle},
        lifespan=[lifespan],
        request_max_body_size=max_body_bytes,
        openapi_config=None,
        logging_config=None,
        debug=False,
    )
