"""`GET /v1/models` and `GET /v1/models/{id}`."""

from litestar import Controller, get
from litestar.params import FromPath
from litestar.types import ASGIApp

from app.http.requests import AnyRequest, json_response, service_of
from domain.openai.models import model_list


class ModelsController(Controller):
    """The models that are served, whether their engines are up or not."""

    @get("/v1/models")
    async def list_models(self, request: AnyRequest) -> ASGIApp:
        """All models, aliases included."""
        return json_response(model_list(service_of(request).catalog.list()))

    @get("/v1/models/{model_id:path}")
    async def retrieve(self, request: AnyRequest, model_id: FromPath[str]) -> ASGIApp:
        """One model. Hub names hold a slash; escaped or not, it arrives here as one."""
        return json_response(service_of(request).catalog.get(model_id.removeprefix("/")))
