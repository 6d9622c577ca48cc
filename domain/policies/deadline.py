"""Deadlines: aborts requests that exceed their timeout, in the engine too.

The service sets a maximum time, and a client may ask for a shorter one. Time in the queue counts. For the lines of
a batch the service sets none: they may wait for hours, and the batch as a whole has a time limit.
"""

import asyncio
import contextlib
from collections.abc import AsyncGenerator

from domain.errors import DeadlineError
from domain.policies.wrapper import BackendWrapper
from domain.port import Events, InferenceBackend, RequestContext
from domain.requests import GenerationRequest, Request, ResultT
from domain.service_class import ServiceClass


class DeadlineBackend(BackendWrapper):
    """Aborts requests that take too long."""

    def __init__(self, backend: InferenceBackend, *, timeout_s: float) -> None:
        """Make the policy.

        Args:
            backend: the wrapped backend.
            timeout_s: maximum time of a request, in seconds; 0 for no limit.
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
            if not limit.expired():
                raise
            raise _deadline_error(allowed_s) from error

    @contextlib.asynccontextmanager
    async def stream(self, request: GenerationRequest, context: RequestContext) -> AsyncGenerator[Events, None]:
        """See the port. Raises DeadlineError; the time that the consumer of the events takes counts too."""
        limit = asyncio.timeout(allowed_s := self._allowed_s(context))
        try:
            async with limit, self._backend.stream(request, context) as events:
                yield events
        except TimeoutError as error:
            if not limit.expired():
                raise
            raise _deadline_error(allowed_s) from error

    def _allowed_s(self, context: RequestContext) -> float | None:
        """Timeout of the request in seconds, the smaller of the two; None for no limit."""
        own = context.timeout_s
        if not self._timeout_s or context.service_class is ServiceClass.BATCH:
            return own
        return self._timeout_s if own is None else min(own, self._timeout_s)


def _deadline_error(allowed_s: float | None) -> DeadlineError:
    return DeadlineError(
        f"The request exceeded its timeout of {allowed_s:g} seconds and was aborted. Send less work per request, "
        "or raise the timeout (the x-request-timeout header, or the service's REQUEST_TIMEOUT_S)."
    )
