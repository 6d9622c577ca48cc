"""From a decoded request to its engine and back: whole answers, and streams.

What a request is estimated to cost is charged to its key first, and corrected to what it took. The work ends when
the client leaves.
"""

from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any, Protocol, TypeVar

import msgspec

from app.http.disconnect import unless_disconnected
from app.http.rate_limits import Reservation, reserve
from app.http.requests import AnyRequest, context_of, options_of
from app.http.streaming import Presenter, StreamedAnswer
from domain.catalog import ServedModel
from domain.fan_in import stream_all
from domain.gather import gather_all
from domain.port import InferenceBackend, RequestContext
from domain.requests import GenerationRequest, Request
from domain.results import GenerationEvent


class Result(Protocol):
    """A result that says how many tokens it took."""

    @property
    def total_tokens(self) -> int:
        """Tokens of inputs and answers."""
        ...


class GenerationPresenter(Presenter, Protocol):
    """Turns the events of generations into chunks."""

    def chunks(self, event: GenerationEvent, prompt_index: int = 0, /) -> Sequence[msgspec.Struct]:
        """The chunks for one event of one of the request's prompts."""
        ...


R = TypeVar("R", bound=Result)


async def call_all(request: AnyRequest, model: ServedModel, calls: Sequence[Request[R]]) -> list[R]:
    """The results of calls that answer one request, in order; the first failure ends the others.

    Raises:
        TokenRateError: the client's key has not so many tokens left.
        InferenceError: a call failed.
        ClientDisconnectedError: the client left.
    """
    context = context_of(request, model)
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
) -> StreamedAnswer[Any]:
    """A response that streams generations as they come.

    Raises:
        TokenRateError: the client's key has not so many tokens left.
    """
    context = context_of(request, model)
    keep_alive_s = options_of(request).keep_alive_s
    reservation = reserve(request, generations)
    if len(generations) == 1:
        stream: AbstractAsyncContextManager[Any] = model.backend.stream(generations[0], context)
        return StreamedAnswer(
            stream, presenter.chunks, presenter, reservation=reservation, keep_alive_s=keep_alive_s
        )
    return StreamedAnswer(
        stream_all(model.backend, generations, context),
        lambda item: presenter.chunks(item[1], item[0]),
        presenter,
        reservation=reservation,
        keep_alive_s=keep_alive_s,
    )
