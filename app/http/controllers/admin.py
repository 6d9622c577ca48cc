"""What an operator can do to a running service."""

from litestar.params import FromPath
from litestar.types import ASGIApp

from app.http.requests import AnyRequest, json_response, service_of
from domain.errors import InvalidRequestError
from domain.roles import Role


async def restart_engine(request: AnyRequest, role: FromPath[str]) -> ASGIApp:
    """Try an engine that was given up again now: 202 with the health as it is, 409 if it was not given up."""
    if role not in set(Role):
        raise InvalidRequestError(
            f"There is no engine '{role[:20]}'. Engines are: {', '.join(Role)}.", param="role"
        )
    service = service_of(request)
    is_on_its_way = service.restart(Role(role))
    return json_response(service.health(), status=202 if is_on_its_way else 409)
