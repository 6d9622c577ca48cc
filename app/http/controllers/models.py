"""`GET /v1/models` and `GET /v1/models/{id}`."""

from litestar.params import FromPath
from litestar.types import ASGIApp

from app.http.requests import AnyRequest, json_response, service_of
from domain.openai.agent_models import agent_model, agent_model_list
from domain.roles import Role


async def list_models(request: AnyRequest) -> ASGIApp:
    """All models, aliases included."""
    catalog = service_of(request).catalog
    return json_response(agent_model_list(catalog.list(), catalog.list(Role.GENERATE)))


async def retrieve_model(request: AnyRequest, model_id: FromPath[str]) -> ASGIApp:
    """One model. Hub names contain a slash; escaped or not, it arrives here as a slash."""
    return json_response(agent_model(service_of(request).catalog.get(model_id.removeprefix("/"))))
