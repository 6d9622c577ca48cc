"""`POST /v1/completions`, whole or streamed."""

import contextlib
import time
from collections.abc import AsyncGenerator

from litestar import Controller, post
from litestar.di import NamedDependency
from litestar.types import ASGIApp

from app.codec import BodyDecoder
from app.disconnect import unless_disconnected
from app.requests import AnyRequest, json_response, read_json
from app.service import Service
from app.streaming import stream_response
from domain.backend import GenerationDelta, GenerationUsage, RequestContext, Role
from domain.fan_in import Indexed, generate_all
from domain.openai.common import new_id
from domain.openai.completion_presenter import CompletionPresenter
from domain.openai.completions import Completion, CompletionBody

decoder = BodyDecoder(CompletionBody)


class CompletionsController(Controller):
    """Prompts to their continuations."""

    @post("/v1/completions", status_code=200)
    async def create(self, request: AnyRequest, service: NamedDependency[Service]) -> ASGIApp:
        """Continue all prompts."""
        body = decoder.decode(await read_json(request))
        model = service.catalog.resolve(body.model, Role.GENERATE)
        completion_id = new_id("cmpl")
        events = generate_all(model.backend, body.to_requests(), RequestContext(request_id=completion_id))
        presenter = CompletionPresenter(
            completion_id=completion_id,
            created=int(time.time()),
            model=model.name or body.model,
            n=body.n or 1,
            include_usage=body.include_usage,
        )
        if body.stream:
            chunks = _chunks(events, presenter, include_usage=body.include_usage)
            return await stream_response(chunks, request.receive)
        return json_response(await unless_disconnected(_whole(events, presenter), request.receive))


async def _whole(events: AsyncGenerator[Indexed, None], presenter: CompletionPresenter) -> Completion:
    """The one answer, when everything has come."""
    deltas: list[tuple[int, GenerationDelta]] = []
    async with contextlib.aclosing(events):
        async for prompt_index, event in events:
            if isinstance(event, GenerationUsage):
                presenter.count(event)
            else:
                deltas.append((prompt_index, event))
    return presenter.whole(deltas)


async def _chunks(
    events: AsyncGenerator[Indexed, None], presenter: CompletionPresenter, *, include_usage: bool
) -> AsyncGenerator[Completion, None]:
    """A chunk for each delta, and at the end the usage if asked for."""
    async with contextlib.aclosing(events):
        async for prompt_index, event in events:
            if isinstance(event, GenerationUsage):
                presenter.count(event)
            else:
                yield presenter.chunk(prompt_index, event)
    if include_usage:
        yield presenter.usage_chunk()
