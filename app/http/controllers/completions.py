"""`POST /v1/completions`, whole or streamed."""

import contextlib
import time
from collections.abc import AsyncGenerator

from litestar.types import ASGIApp

from app.http.codec import BodyDecoder
from app.http.disconnect import unless_disconnected
from app.http.rate_limits import counted, reserve
from app.http.requests import AnyRequest, context_of, json_response, options_of, read_body, service_of
from app.http.streaming import stream_response
from domain.best_of import keep_best
from domain.fan_in import Indexed, generate_all
from domain.openai.common import new_id
from domain.openai.completion_presenter import CompletionPresenter
from domain.openai.completions import Completion, CompletionBody
from domain.results import GenerationDelta, GenerationUsage
from domain.roles import Role

decoder = BodyDecoder(CompletionBody)


async def create_completion(request: AnyRequest) -> ASGIApp:
    """Continue all prompts."""
    body = await read_body(request, decoder)
    model = service_of(request).catalog.resolve(body.model, Role.GENERATE, endpoint="v1/completions")
    generations = body.to_requests()
    context = context_of(request, model)
    # Whatever can be refused has been by now: what is reserved is given back by the work alone.
    reservation = await reserve(request, generations)
    events = counted(generate_all(model.backend, generations, context), reservation)
    presenter = CompletionPresenter(
        completion_id=new_id("cmpl"),
        created=int(time.time()),
        model=model.name or body.model,
        n=body.n or 1,
        include_usage=body.include_usage,
    )
    if body.stream:
        chunks = _chunks(events, presenter, include_usage=body.include_usage)
        return await stream_response(chunks, request.receive, keep_alive_s=options_of(request).keep_alive_s)
    return json_response(await unless_disconnected(_whole(events, presenter, body), request.receive))


async def _whole(
    events: AsyncGenerator[Indexed, None], presenter: CompletionPresenter, body: CompletionBody
) -> Completion:
    """The one answer, when everything has come."""
    deltas: list[tuple[int, GenerationDelta]] = []
    prompt_tokens: dict[int, int] = {}
    async with contextlib.aclosing(events):
        async for prompt_index, event in events:
            if isinstance(event, GenerationUsage):
                presenter.count(event)
                prompt_tokens[prompt_index] = event.prompt_tokens
            else:
                deltas.append((prompt_index, event))
    keep = body.n or 1
    if body.candidates > keep:
        deltas = keep_best(
            deltas,
            keep=keep,
            echoed_tokens=prompt_tokens if body.echo else {},
            tell_logprobs=body.logprobs is not None,
        )
    return presenter.whole(deltas)


async def _chunks(
    events: AsyncGenerator[Indexed, None], presenter: CompletionPresenter, *, include_usage: bool
) -> AsyncGenerator[list[Completion], None]:
    """A chunk for each delta, and at the end the usage if asked for."""
    async with contextlib.aclosing(events):
        async for prompt_index, event in events:
            if isinstance(event, GenerationUsage):
                presenter.count(event)
            else:
                yield [presenter.chunk(prompt_index, event)]
    if include_usage:
        yield [presenter.usage_chunk()]
