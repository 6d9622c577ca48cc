"""Deadlines: no request takes longer than it may, and what is given up is given up in the engine too.

The service has a longest time, and a client may ask for a shorter one. Waiting for one's turn counts.
"""

import asyncio
import contextlib
from collections.abc import AsyncGenerator

from domain.errors import DeadlineError
from domain.policies.wrapper import BackendWrapper
from domain.port import InferenceBackend, RequestContext
from domain.requests import EmbeddingRequest, GenerationRequest
from domain.results import EmbeddingResult, GenerationEvent


class DeadlineBackend(BackendWrapper):
    """Aborts what takes too long."""

    def __init__(self, backend: InferenceBackend, *, timeout_s: float) -> None:
        """Make the policy.

        Args:
            backend: the backend inside.
            timeout_s: longest time of a request, in seconds; 0 for none.
        """
        super().__init__(backend)
        self._timeout_s = timeout_s

    async def embed(self, request: EmbeddingRequest, context: RequestContext) -> EmbeddingResult:
        """See the port. Raises DeadlineError."""
        allowed_s = self._allowed_s(context)
        if allowed_s is None:
            return await self._backend.embed(request, context)
        try:
            async with asyncio.timeout(allowed_s) as limit:
                return await self._backend.embed(request, context)
        except TimeoutError as error:
            raise _too_late(limit, allowed_s) from error

    async def generate(
        self, request: GenerationRequest, context: RequestContext
    ) -> AsyncGenerator[GenerationEvent, None]:
        """See the port. Raises DeadlineError.

        A silence is bounded before the first event only: after it a look at the clock for each event is
        enough, and an engine that falls silent in the middle is noticed by whoever watches it.
        """
        allowed_s = self._allowed_s(context)
        async with contextlib.aclosing(self._backend.generate(request, context)) as events:
            if allowed_s is None:
                async for event in events:
                    yield event
                return
            now = asyncio.get_running_loop().time
            deadline = now() + allowed_s
            try:
                async with asyncio.timeout_at(deadline) as limit:
                    first = await anext(events, None)
            except TimeoutError as error:
                raise _too_late(limit, allowed_s) from error
            if first is None:
                return
            yield first
            async for event in events:
                if now() > deadline:
                    raise _deadline_error(allowed_s)
                yield event

    def _allowed_s(self, context: RequestContext) -> float | None:
        """Seconds that the request may take, the smaller of two; None for as long as it likes."""
        own = context.timeout_s
        if not self._timeout_s:
            return own
        return self._timeout_s if own is None else min(own, self._timeout_s)


def _too_late(limit: asyncio.Timeout, allowed_s: float) -> Exception:
    # A TimeoutError from below that nobody translated is not this policy's.
    return _deadline_error(allowed_s) if limit.expired() else TimeoutError()


def _deadline_error(allowed_s: float) -> DeadlineError:
    return DeadlineError(
        f"The request took longer than the {allowed_s:g} seconds that it may take, and has been given up. Ask for "
        "less at a time, or allow more time (the x-request-timeout header, or REQUEST_TIMEOUT_S of the service)."
    )
