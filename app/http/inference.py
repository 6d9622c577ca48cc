"""Passes decoded requests to their engine and returns complete or streamed answers.

A request's estimated tokens are charged to its key in advance, and corrected afterwards. The work is cancelled
when the client disconnects.
"""

from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any, Protocol, TypeVar

import msgspec

from app.http.disconnect import unless_disconnected
from app.http.rate_limits import Reservation, reserve
from app.http.requests import AnyRequest, context_of, options_of
from app.http.stream_formats import OPENAI_STREAM, StreamFormat
from app.http.streaming import Presenter, StreamedAnswer
from domain.catalog import ServedModel
from domain.fan_in import stream_all
from domain.gather import gather_all
from domain.port import InferenceBackend, RequestContext
from domain.requests import GenerationRequest, Request
from domain.results import GenerationEvent


class Result(Protocol):
    """A result with the number of its tokens."""

    @property
    def total_tokens(self) -> int:
        """Tokens of inputs and answers."""
        ...


class GenerationPresenter(Presenter, Protocol):
    """Converts the events of generations to chunks."""

    def chunks(self, event: GenerationEvent, prompt_index: int = 0, /) -> Sequence[msgspec.Struct]:
        """The chunks of one event of one of the request's prompts."""
        ...


R = TypeVar("R", bound=Result)


async def call_all(
    request: AnyRequest, model: ServedModel, calls: Sequence[Request[R]], *, tier: str | None = None
) -> list[R]:
    """Run the calls of one request and return their results in order; the first failure cancels the others.

    Args:
        request: the request.
        model: the requested model.
        calls: what to run.
        tier: the body's `service_tier`, if it has one.

    Raises:
        ContextLengthError: a requested answer is longer than the context length.
        TokenRateError: the client's key does not have enough tokens left.
        InferenceError: a call failed.
        ClientDisconnectedError: the client disconnected.
    """
    model.require_room(calls)
    context = context_of(request, model, tier=tier)
    work = _charged(model.backend, calls, context, reserve(request, calls))
    return await unless_disconnected(work, request.receive)


async def _charged(
    backend: InferenceBackend, calls: Sequence[Request[R]], context: RequestContext, reservation: Reservation
) -> list[R]:
    with reservation:
        results = await gather_all([backend.call(call, context) for call in calls])
        reservation.used = sum(result.total_tokens for result in results)
    return results


def streamed(
    request: AnyRequest,
    model: ServedModel,
    generations: Sequence[GenerationRequest],
    presenter: GenerationPresenter,
    stream_format: StreamFormat = OPENAI_STREAM,
    *,
    tier: str | None = None,
) -> StreamedAnswer[Any]:
    """A response that streams generations.

    Args:
        request: the request.
        model: the requested model.
        generations: one for each prompt.
        presenter: converts their events to chunks.
        stream_format: how chunks are written.
        tier: the body's `service_tier`, if it has one.

    Raises:
        ContextLengthError: a requested answer is longer than the context length.
        TokenRateError: the client's key does not have enough tokens left.
    """
    model.require_room(generations)
    context = context_of(request, model, tier=tier)
    keep_alive_s = options_of(request).keep_alive_s
    reservation = reserve(request, generations)
    if len(generations) == 1:
        stream: AbstractAsyncContextManager[Any] = model.backend.stream(generations[0], context)
        return StreamedAnswer(
            stream,
            presenter.chunks,
            presenter,
            reservation=reservation,
            keep_alive_s=keep_alive_s,
            stream_format=stream_format,
        )
    return StreamedAnswer(
        stream_all(model.backend, generations, context),
        lambda item: presenter.chunks(item[1], item[0]),
        presenter,
        reservation=reservation,
        keep_alive_s=keep_alive_s,
        stream_format=stream_format,
    )
