"""`POST /v1/completions`, complete or streamed."""

import time

from litestar.types import ASGIApp

from app.http.codec import BodyDecoder
from app.http.inference import call_all, streamed
from app.http.requests import AnyRequest, json_response, read_body, service_of
from domain.best_of import keep_best
from domain.openai.common import new_id
from domain.openai.completion_presenter import CompletionPresenter
from domain.openai.completions import CompletionBody
from domain.roles import Role

decoder = BodyDecoder(CompletionBody)


async def create_completion(request: AnyRequest) -> ASGIApp:
    """Continue all prompts."""
    body = await read_body(request, decoder)
    model = service_of(request).catalog.resolve(body.model, Role.GENERATE, endpoint="v1/completions")
    generations = body.to_requests()
    keep = body.n or 1
    presenter = CompletionPresenter(
        completion_id=new_id("cmpl"),
        created=int(time.time()),
        model=model.name or body.model,
        n=keep,
        include_usage=body.include_usage,
    )
    if body.stream:
        return streamed(request, model, generations, presenter)
    results = await call_all(request, model, generations)
    if body.candidates > keep:
        is_echoed, with_logprobs = bool(body.echo), body.logprobs is not None
        results = [
            keep_best(result, keep=keep, is_echoed=is_echoed, with_logprobs=with_logprobs) for result in results
        ]
    return json_response(presenter.whole(results))
