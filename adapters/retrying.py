"""Retries requests that are safe to repeat: no part of a response has arrived and no server is processing them.

A wrapper around the port that hands failures to tenacity. Requests that succeed at once bypass tenacity.
"""

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Awaitable, Callable
from typing import TypeVar

from tenacity import AsyncRetrying, RetryCallState, retry_if_exception_type, wait_random_exponential

from domain.errors import BackendBusyError, BackendUnreachableError
from domain.policies.retry_budget import RetryBudget
from domain.policies.wrapper import BackendWrapper
from domain.port import Events, InferenceBackend, RequestContext
from domain.requests import GenerationRequest, Request, ResultT
from domain.statistics import RetryCounter

T = TypeVar("T")

RETRYABLE = (BackendUnreachableError, BackendBusyError)
"""Errors after which no server is processing the request. A server that timed out may still be processing it, and
a request that failed may fail again."""
INITIAL_WAIT_S = 0.1
MAX_WAIT_S = 2.0
MAX_RETRY_AFTER_S = 5
"""A longer `Retry-After` is passed on to the client instead of being waited for."""


class RetryingBackend(BackendWrapper, RetryCounter):
    """Retries a request a few times with exponential backoff and jitter, within the retry budget."""

    def __init__(
        self,
        backend: InferenceBackend,
        *,
        retries: int,
        budget: RetryBudget,
        has_free: Callable[[], bool] = lambda: False,
    ) -> None:
        """Create the policy.

        Args:
            backend: the wrapped backend.
            retries: maximum retries of one request.
            budget: limits the retries of all requests together.
            has_free: whether another server can take the request now, so that `Retry-After` need not be honored.
        """
        super().__init__(backend)
        self._retries = retries
        self._budget = budget
        self._has_free = has_free
        self._backoff = wait_random_exponential(multiplier=INITIAL_WAIT_S, max=MAX_WAIT_S)
        self._policy = AsyncRetrying(
            sleep=asyncio.sleep,
            stop=self._should_stop,
            wait=self._wait_s,
            retry=retry_if_exception_type(RETRYABLE),
            reraise=True,
        )

    async def call(self, request: Request[ResultT], context: RequestContext) -> ResultT:
        """See the port."""
        self._budget.earn()
        try:
            return await self._backend.call(request, context)
        except RETRYABLE as error:
            return await self._retry(error, lambda: self._backend.call(request, context))

    @contextlib.asynccontextmanager
    async def stream(self, request: GenerationRequest, context: RequestContext) -> AsyncGenerator[Events, None]:
        """See the port. Failures after the first event are not retried."""
        self._budget.earn()

        async with contextlib.AsyncExitStack() as stack:

            async def start() -> Events:
                return await stack.enter_async_context(self._backend.stream(request, context))

            try:
                events = await start()
            except RETRYABLE as error:
                events = await self._retry(error, start)
            yield events

    async def _retry(self, failure: Exception, send: Callable[[], Awaitable[T]]) -> T:
        """Retry after a first failure, which tenacity sees as the outcome of its first attempt."""
        failures = [failure]

        async def attempt() -> T:
            if failures:
                raise failures.pop()
            return await send()

        # A copy, because `AsyncRetrying` keeps the state of a call in itself.
        return await self._policy.copy()(attempt)

    def _should_stop(self, state: RetryCallState) -> bool:
        error = _error_of(state)
        is_too_late = (
            isinstance(error, BackendBusyError)
            and (error.retry_after_s or 0) > MAX_RETRY_AFTER_S
            and not self._has_free()
        )
        if state.attempt_number > self._retries or is_too_late or not self._budget.spend():
            self.given_up += 1
            return True
        self.retries += 1
        return False

    def _wait_s(self, state: RetryCallState) -> float:
        error = _error_of(state)
        wait_s = self._backoff(state)
        if isinstance(error, BackendBusyError) and not self._has_free():
            # Jitter on top, so that clients do not all return at the same moment.
            return wait_s + (error.retry_after_s or 0)
        return wait_s


def _error_of(state: RetryCallState) -> BaseException | None:
    return state.outcome.exception() if state.outcome is not None else None
