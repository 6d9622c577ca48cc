"""`/v1/batches`: creates, retrieves, lists and cancels batches."""

from typing import Annotated, cast

import msgspec
from litestar.params import FromPath
from litestar.types import ASGIApp

from app.batches.service import BatchesService
from app.http.codec import BodyDecoder
from app.http.endpoint import SERVED_ENDPOINTS, Endpoint
from app.http.queries import read_query
from app.http.rate_limits import owner_of
from app.http.requests import BATCHES, AnyRequest, json_response, read_body
from domain.openai.batches import BatchBody

DEFAULT_LIMIT, MAX_LIMIT = 20, 100
decoder = BodyDecoder(BatchBody)


class BatchesQuery(msgspec.Struct, frozen=True, kw_only=True):
    """Which batches a client wants."""

    after: str | None = None
    """The id of the batch before the first one."""
    limit: Annotated[int, msgspec.Meta(ge=1, le=MAX_LIMIT)] = DEFAULT_LIMIT


def batches_of(request: AnyRequest) -> BatchesService:
    """The application's batches."""
    return cast(BatchesService, request.app.state[BATCHES])


async def create_batch(request: AnyRequest) -> ASGIApp:
    """Create a batch."""
    body = await read_body(request, decoder)
    served: tuple[Endpoint, ...] = request.app.state[SERVED_ENDPOINTS]
    endpoints = [row.path for row in served if row.batch_lines is not None]
    return json_response(await batches_of(request).create(owner_of(request), body, endpoints))


async def retrieve_batch(request: AnyRequest, batch_id: FromPath[str]) -> ASGIApp:
    """Retrieve a batch."""
    return json_response(await batches_of(request).get(owner_of(request), batch_id))


async def list_batches(request: AnyRequest) -> ASGIApp:
    """List batches, newest first."""
    query = read_query(request, BatchesQuery)
    return json_response(await batches_of(request).list(owner_of(request), after=query.after, limit=query.limit))


async def cancel_batch(request: AnyRequest, batch_id: FromPath[str]) -> ASGIApp:
    """Cancel a batch."""
    return json_response(await batches_of(request).cancel(owner_of(request), batch_id))
