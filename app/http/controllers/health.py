"""`GET /health`, `/health/live` and `/health/ready`. No answer here waits for an engine."""

from litestar.types import ASGIApp

from app.http.authentication import is_unauthenticated
from app.http.requests import AnyRequest, JSONAnswer, json_response, service_of
from domain.health import ServiceHealth


def _status(health: ServiceHealth) -> int:
    return 200 if health.status == "ok" else 503


def _short(health: ServiceHealth) -> JSONAnswer:
    return JSONAnswer(b'{"status":"%b"}' % health.status.encode(), _status(health))


async def health(request: AnyRequest) -> ASGIApp:
    """Each role's state and reason: 200 if all are ready, else 503.

    If API keys are set, a request without one receives only the status.
    """
    health = service_of(request).health()
    if is_unauthenticated(request):
        return _short(health)
    return json_response(health, status=_status(health))


async def live() -> ASGIApp:
    """200 while the process answers."""
    return JSONAnswer(b'{"status":"ok"}', 200)


async def ready(request: AnyRequest) -> ASGIApp:
    """200 if all roles accept requests, else 503, for load balancers."""
    return _short(service_of(request).health())
