"""`GET /openapi.json`: what this API accepts and answers."""

from litestar import Controller, get
from litestar.types import ASGIApp

from app.http.openapi import document
from app.http.requests import JSONAnswer


class OpenAPIController(Controller):
    """The API's own description."""

    @get("/openapi.json")
    async def openapi(self) -> ASGIApp:
        """The OpenAPI document."""
        return JSONAnswer(document(), 200)
