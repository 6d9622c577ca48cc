"""`/v1/responses`: creates, retrieves, streams, cancels, deletes and compacts responses."""

from typing import Annotated, cast

import msgspec
from litestar.params import FromPath
from litestar.types import ASGIApp

from app.http.body_parts import body_parts, report_ignored
from app.http.codec import BodyDecoder
from app.http.disconnect import unless_disconnected
from app.http.inference import call_all
from app.http.queries import read_query
from app.http.rate_limits import owner_of, reserve
from app.http.requests import (
    RESPONSES,
    AnyRequest,
    JSONAnswer,
    context_of,
    json_response,
    options_of,
    read_body,
    service_of,
)
from app.http.response_streams import ResponseStream, replayed
from app.responses.compaction import CompactBody, prepare_compaction
from app.responses.field_names import response_field_names
from app.responses.pages import PageQuery, page_of
from app.responses.preparation import Prepared, prepare, read_prompt
from app.responses.service import ResponsesService
from domain.catalog import ServedModel
from domain.errors import InvalidRequestError
from domain.openai.responses.body import InputFields, ResponseBody
from domain.openai.responses.response import Deleted, TokenCount
from domain.port import RequestContext
from domain.requests import TokenizeRequest
from domain.roles import Role

ENDPOINT = "v1/responses"
decoder = BodyDecoder(ResponseBody, is_tolerant=True)
count_decoder = BodyDecoder(InputFields, is_tolerant=True)
compact_decoder = BodyDecoder(CompactBody, is_tolerant=True)
MAX_SEQUENCE = 2**63 - 1
"""The largest integer that the databases compare a sequence number with."""


class RetrieveQuery(msgspec.Struct, frozen=True, kw_only=True):
    """How a response is retrieved."""

    stream: bool = False
    starting_after: Annotated[int, msgspec.Meta(ge=-1, le=MAX_SEQUENCE)] = -1
    """The sequence number of the last event that the client has."""


def responses_of(request: AnyRequest) -> ResponsesService:
    """The application's responses."""
    return cast(ResponsesService, request.app.state[RESPONSES])


async def create_response(request: AnyRequest) -> ASGIApp:
    """Create a response: complete, streamed, or in the background."""
    body = await read_body(request, decoder)
    model = generation_model(request, body.model)
    responses, parts = responses_of(request), body_parts(request)
    is_stored = responses.stores(body)
    context = context_of(request, model, tier=body.service_tier)
    prepared = await prepare(
        body,
        model,
        responses.history(owner_of(request)),
        parts.parts,
        context,
        is_stored=is_stored,
        keeps_input=is_stored,
    )
    report_ignored(request, parts)
    if body.background:
        # The observation ends with this request.
        unobserved = msgspec.structs.replace(context, observer=None)
        return await _in_background(request, prepared, unobserved, is_streamed=bool(body.stream))
    recorder = responses.recorder(prepared, owner_of(request)) if is_stored else None
    if body.stream:
        return ResponseStream(
            prepared,
            context,
            recorder,
            reservation=reserve(request, [prepared.generation]),
            keep_alive_s=options_of(request).keep_alive_s,
        )
    with response_field_names():
        (result,) = await call_all(request, model, [prepared.generation], tier=body.service_tier)
    response = prepared.presenter.whole(result)
    return json_response(response if recorder is None else await recorder.finish())


async def _in_background(
    request: AnyRequest, prepared: Prepared, context: RequestContext, *, is_streamed: bool
) -> ASGIApp:
    reservation = reserve(request, [prepared.generation])
    run = await responses_of(request).begin(prepared, owner_of(request), context, reservation)
    if is_streamed:
        return replayed(run.events(-1), keep_alive_s=options_of(request).keep_alive_s)
    return JSONAnswer(run.body, 200)


async def retrieve_response(request: AnyRequest, response_id: FromPath[str]) -> ASGIApp:
    """Retrieve a stored response, or stream the events of a background response again."""
    query = read_query(request, RetrieveQuery)
    stored, owner = responses_of(request).stored, owner_of(request)
    if not query.stream:
        return JSONAnswer(await stored.get(owner, response_id), 200)
    events = await stored.events(owner, response_id, query.starting_after)
    return replayed(events, keep_alive_s=options_of(request).keep_alive_s)


async def delete_response(request: AnyRequest, response_id: FromPath[str]) -> ASGIApp:
    """Delete a stored response."""
    await responses_of(request).stored.delete(owner_of(request), response_id)
    return json_response(Deleted(id=response_id, object="response"))


async def cancel_response(request: AnyRequest, response_id: FromPath[str]) -> ASGIApp:
    """Cancel a background response."""
    return JSONAnswer(await responses_of(request).stored.cancel(owner_of(request), response_id), 200)


async def list_input_items(request: AnyRequest, response_id: FromPath[str]) -> ASGIApp:
    """List the items of a stored response's input, including those of what it continues."""
    query = read_query(request, PageQuery)
    items = await responses_of(request).stored.input_items(owner_of(request), response_id)
    return json_response(page_of(items, query))


async def count_input_tokens(request: AnyRequest) -> ASGIApp:
    """Count the tokens of a response's input."""
    body = await read_body(request, count_decoder)
    model = generation_model(request, body.model)
    context, parts = context_of(request, model), body_parts(request)
    prompt = await read_prompt(body, model, responses_of(request).history(owner_of(request)), parts.parts, context)
    report_ignored(request, parts)
    work = model.backend.call(TokenizeRequest(prompt=prompt.conversation), context)
    with response_field_names():
        counted = await unless_disconnected(work, request.receive)
    return json_response(TokenCount(input_tokens=len(counted.token_ids)))


async def compact(request: AnyRequest) -> ASGIApp:
    """Replace a conversation by a summary."""
    body = await read_body(request, compact_decoder)
    if not body.model:
        raise InvalidRequestError(
            "Missing required parameter: 'model'.", param="model", code="missing_required_parameter"
        )
    model = generation_model(request, body.model)
    context, parts = context_of(request, model), body_parts(request)
    history = responses_of(request).history(owner_of(request))
    task = await prepare_compaction(body, model, history, parts.parts, context)
    report_ignored(request, parts)
    with response_field_names():
        (result,) = await call_all(request, model, [task.generation], tier=body.service_tier)
    return json_response(task.answer(result))


def generation_model(request: AnyRequest, name: str) -> ServedModel:
    """The generation model of this name, or the one there is if the name is empty."""
    catalog = service_of(request).catalog
    return catalog.resolve(name, Role.GENERATE, endpoint=ENDPOINT) if name else catalog.find(None)
