"""`POST /v1/chat/completions`, whole or streamed."""

import contextlib
import time
from collections.abc import AsyncGenerator

from litestar.types import ASGIApp

from app.http.codec import BodyDecoder
from app.http.disconnect import unless_disconnected
from app.http.rate_limits import counted, reserve
from app.http.requests import AnyRequest, context_of, json_response, options_of, read_body, service_of
from app.http.streaming import stream_response
from domain.fan_in import Indexed, generate_all
from domain.openai.chat import ChatBody
from domain.openai.chat_presenter import ChatPresenter
from domain.openai.chat_response import ChatChunk, ChatCompletion
from domain.openai.common import new_id
from domain.results import GenerationDelta, GenerationUsage
from domain.roles import Role

decoder = BodyDecoder(ChatBody)


async def create_chat_completion(request: AnyRequest) -> ASGIApp:
    """Answer a conversation."""
    body = await read_body(request, decoder)
    model = service_of(request).catalog.resolve(body.model, Role.GENERATE, endpoint="v1/chat/completions")
    conversation = body.to_conversation()
    generations = [body.to_request(conversation)]
    context = context_of(request, model)
    # Whatever can be refused has been by now: what is reserved is given back by the work alone.
    reservation = await reserve(request, generations)
    events = counted(generate_all(model.backend, generations, context), reservation)
    presenter = ChatPresenter(
        completion_id=new_id("chatcmpl"),
        created=int(time.time()),
        model=model.name or body.model,
        conversation=conversation,
        top_logprobs=body.top_logprobs or 0,
        include_usage=body.include_usage,
    )
    if body.stream:
        chunks = _chunks(events, presenter, include_usage=body.include_usage)
        return await stream_response(chunks, request.receive, keep_alive_s=options_of(request).keep_alive_s)
    return json_response(await unless_disconnected(_whole(events, presenter), request.receive))


async def _whole(events: AsyncGenerator[Indexed, None], presenter: ChatPresenter) -> ChatCompletion:
    """The one answer, when everything has come."""
    deltas: list[GenerationDelta] = []
    async with contextlib.aclosing(events):
        async for _, event in events:
            if isinstance(event, GenerationUsage):
                presenter.count(event)
            else:
                deltas.append(event)
    return presenter.whole(deltas)


async def _chunks(
    events: AsyncGenerator[Indexed, None], presenter: ChatPresenter, *, include_usage: bool
) -> AsyncGenerator[list[ChatChunk], None]:
    """The chunks for each delta, and at the end the usage if asked for."""
    async with contextlib.aclosing(events):
        async for _, event in events:
            if isinstance(event, GenerationUsage):
                presenter.count(event)
            else:
                yield list(presenter.chunks(event))
    if include_usage:
        yield [presenter.usage_chunk()]
