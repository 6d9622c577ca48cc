"""`GET /metrics`, for Prometheus."""

from typing import TYPE_CHECKING

from litestar.types import ASGIApp, Receive, Scope, Send

from app.http.requests import METRICS, AnyRequest

if TYPE_CHECKING:
    # At runtime, the library is loaded only if metrics are served.
    from app.telemetry.metrics import Metrics


async def metrics(request: AnyRequest) -> ASGIApp:
    """All metrics as text: OpenMetrics if the request accepts it, else Prometheus's own format."""
    metrics: Metrics = request.app.state[METRICS]
    text, content_type = await metrics.text(request.headers.get("accept", ""))
    return _Page(text, content_type)


class _Page:
    """A complete answer that is not JSON."""

    def __init__(self, body: bytes, content_type: str) -> None:
        self._body = body
        self._content_type = content_type

    async def __call__(self, _scope: Scope, _receive: Receive, send: Send) -> None:
        headers = [
            (b"content-type", self._content_type.encode()),
            (b"content-length", b"%d" % len(self._body)),
        ]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": self._body, "more_body": False})
