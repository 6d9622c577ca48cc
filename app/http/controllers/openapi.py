"""`GET /openapi.json`: what this API accepts and answers."""

from litestar.types import ASGIApp

from app.http.openapi import document
from app.http.requests import JSONAnswer


async def openapi() -> ASGIApp:
    """The OpenAPI document."""
    return JSONAnswer(document(), 200)
