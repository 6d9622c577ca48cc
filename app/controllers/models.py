"""`GET /v1/models` and `GET /v1/models/{id}`."""

from litestar import Controller, get
from litestar.di import NamedDependency
from litestar.params import FromPath
from litestar.types import ASGIApp

from app.requests import json_response
from app.service import Service
from domain.openai.models import model_list


class ModelsController(Controller):
    """The models that are served, whether their engines are up or not."""

    @get("/v1/models")
    async def list_models(self, service: NamedDependency[Service]) -> ASGIApp:
        """All models, aliases included."""
        return json_response(model_list(service.catalog.list()))

    @get("/v1/models/{model_id:path}")
    async def retrieve(self, model_id: FromPath[str], service: NamedDependency[Service]) -> ASGIApp:
        """One model. Hub names hold a slash; escaped or not, it arrives here as one."""
        return json_response(service.catalog.get(model_id.removeprefix("/")))
