"""Deadlines: no request takes longer than it may, and what is given up is given up in the engine too.

The service has a longest time, and a client may ask for a shorter one. Waiting for one's turn counts.
"""

import asyncio
import contextlib
from collections.abc import AsyncGenerator

from domain.errors import DeadlineError
from domain.policies.wrapper import BackendWrapper
from domain.port import Events, InferenceBackend, RequestContext
from domain.requests import GenerationRequest, Request, ResultT


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

    async def call(self, request: Request[ResultT], context: RequestContext) -> ResultT:
        """See the port. Raises DeadlineError."""
        limit = asyncio.timeout(allowed_s := self._allowed_s(context))
        try:
            async with limit:
                return await self._backend.call(request, context)
        except TimeoutError as error:
            raise _translated(error, limit, allowed_s) from error

    @contextlib.asynccontextmanager
    async def stream(self, request: GenerationRequest, context: RequestContext) -> AsyncGenerator[Events, None]:
        """See the port. Raises DeadlineError; what the consumer of the events does counts too."""
        limit = asyncio.timeout(allowed_s := self._allowed_s(context))
        try:
            async with limit, self._backend.stream(request, context) as events:
                yield events
        except TimeoutError as error:
            raise _translated(error, limit, allowed_s) from error

    def _allowed_s(self, context: RequestContext) -> float | None:
        """Seconds that the request may take, the smaller of two; None for as long as it likes."""
        own = context.timeout_s
        if not self._timeout_s:
            return own
        return self._timeout_s if own is None else min(own, self._timeout_s)


def _translated(error: TimeoutError, limit: asyncio.Timeout, allowed_s: float | None) -> Exception:
    """DeadlineError if the limit was reached; a TimeoutError from elsewhere is not this policy's."""
    if not limit.expired():
        return error
    return DeadlineError(
        f"The request took longer than the {allowed_s:g} seconds that it may take, and has been given up. Ask for "
        "less at a time, or allow more time (the x-request-timeout header, or REQUEST_TIMEOUT_S of the service)."
    )
