"""`GET /v1/models` and `GET /v1/models/{id}`."""

from urllib.parse import unquote

from litestar import Controller, get
from litestar.types import ASGIApp

from app.requests import json_response
from app.service import Service
from domain.openai.models import model_list


class ModelsController(Controller):
    """The models that are served, whether their engines are up or not."""

    @get("/v1/models")
    async def list_models(self, service: Service) -> ASGIApp:
        """All models, aliases included."""
        return json_response(model_list(service.catalog.list()))

    @get("/v1/models/{model_id:path}")
    async def retrieve(self, model_id: str, service: Service) -> ASGIApp:
        """One model. Hub names hold a slash, which clients may or may not escape."""
        return json_response(service.catalog.get(unquote(model_id).removeprefix("/")))
