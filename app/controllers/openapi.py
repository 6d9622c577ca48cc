"""`GET /openapi.json`: what this API accepts and answers."""

from litestar import Controller, get
from litestar.response.base import ASGIResponse
from litestar.types import ASGIApp

from app.openapi import document


class OpenAPIController(Controller):
    """The API's own description."""

    @get("/openapi.json")
    async def openapi(self) -> ASGIApp:
        """The OpenAPI document."""
        return ASGIResponse(body=document(), media_type="application/json")
