"""`POST /admin/engines/{role}/restart`."""

from litestar.params import FromPath
from litestar.types import ASGIApp

from app.http.requests import AnyRequest, json_response, service_of
from domain.errors import InvalidRequestError
from domain.roles import Role


async def restart_engine(request: AnyRequest, role: FromPath[str]) -> ASGIApp:
    """Restart a failed engine: 202 with the current health, 409 with the same if it has not failed."""
    service = service_of(request)
    if role not in service.roles:
        raise InvalidRequestError(
            f"There is no engine '{role[:20]}'. Engines are: {', '.join(service.roles)}.", param="role"
        )
    is_restarting = service.restart(Role(role))
    return json_response(service.health(), status=202 if is_restarting else 409)
