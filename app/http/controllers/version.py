"""`GET /version`: the version of the service, in the form of vLLM's server."""

import importlib.metadata

import msgspec
from litestar.types import ASGIApp

from app.http.requests import json_response

VERSION = importlib.metadata.version("memoria-vllm")


class Version(msgspec.Struct, frozen=True, kw_only=True):
    """The version of the service."""

    version: str


async def version() -> ASGIApp:
    """The service's own version, not vLLM's: the engines may be servers of any version."""
    return json_response(Version(version=VERSION))
