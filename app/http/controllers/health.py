"""How the service is. No answer here waits for an engine."""

from litestar import Controller, get
from litestar.types import ASGIApp

from app.http.authentication import is_stranger
from app.http.requests import AnyRequest, JSONAnswer, json_response, service_of
from domain.health import ServiceHealth


def _status(health: ServiceHealth) -> int:
    return 200 if health.status == "ok" else 503


def _short(health: ServiceHealth) -> JSONAnswer:
    return JSONAnswer(b'{"status":"%b"}' % health.status.encode(), _status(health))


class HealthController(Controller):
    """Liveness, readiness, and the whole story."""

    @get("/health")
    async def health(self, request: AnyRequest) -> ASGIApp:
        """Every role's state and reason: 200 if all serve, else 503.

        Where there are keys, whoever has none gets the status alone.
        """
        health = service_of(request).health()
        if is_stranger(request):
            return _short(health)
        return json_response(health, status=_status(health))

    @get("/health/live")
    async def live(self) -> ASGIApp:
        """200 for as long as this process answers."""
        return JSONAnswer(b'{"status":"ok"}', 200)

    @get("/health/ready")
    async def ready(self, request: AnyRequest) -> ASGIApp:
        """200 if all roles take requests, else 503, for load balancers."""
        return _short(service_of(request).health())
