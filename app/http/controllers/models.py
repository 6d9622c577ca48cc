"""`GET /v1/models` and `GET /v1/models/{id}`."""

from litestar.params import FromPath
from litestar.types import ASGIApp

from app.http.requests import AnyRequest, json_response, service_of
from domain.openai.models import model_list


async def list_models(request: AnyRequest) -> ASGIApp:
    """All models, aliases included."""
    return json_response(model_list(service_of(request).catalog.list()))


async def retrieve_model(request: AnyRequest, model_id: FromPath[str]) -> ASGIApp:
    """One model. Hub names contain a slash; escaped or not, it arrives here as a slash."""
    return json_response(service_of(request).catalog.get(model_id.removeprefix("/")))
