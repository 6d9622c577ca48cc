"""What an operator can do to a running service."""

from litestar import Controller, post
from litestar.params import FromPath
from litestar.types import ASGIApp

from app.http.requests import AnyRequest, json_response, service_of
from domain.errors import InvalidRequestError
from domain.roles import Role


class AdminController(Controller):
    """Engines."""

    @post("/admin/engines/{role:str}/restart", status_code=202)
    async def restart(self, request: AnyRequest, role: FromPath[str]) -> ASGIApp:
        """Try an engine that was given up again now: 202 with the health as it is, 409 if it was not given up."""
        service = service_of(request)
        if role not in service.roles:
            raise InvalidRequestError(
                f"There is no engine '{role[:20]}'. Engines are: {', '.join(service.roles)}.", param="role"
            )
        is_on_its_way = service.restart(Role(role))
        return json_response(service.health(), status=202 if is_on_its_way else 409)
