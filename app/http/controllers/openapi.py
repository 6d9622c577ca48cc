"""`GET /openapi.json`: the OpenAPI document of this API."""

from litestar.types import ASGIApp

from app.http.endpoint import SERVED_ENDPOINTS
from app.http.openapi import document
from app.http.requests import AnyRequest, JSONAnswer


async def openapi(request: AnyRequest) -> ASGIApp:
    """The OpenAPI document of all endpoints that this application serves."""
    return JSONAnswer(document(request.app.state[SERVED_ENDPOINTS]), 200)
