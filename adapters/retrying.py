"""Retries of what can safely be asked again: nothing of an answer has come, and no server is at work on it.

A wrapper around the port that hands failures to tenacity. What succeeds at once never meets it.
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

SAFE = (BackendUnreachableError, BackendBusyError)
"""What no server is at work on. One that is silent may be at work still; one that failed may fail again."""
FIRST_WAIT_S = 0.1
LONGEST_WAIT_S = 2.0
LONGEST_RETRY_AFTER_S = 5
"""A server that wants to be left alone for longer is: the client is told, and decides."""


class RetryingBackend(BackendWrapper, RetryCounter):
    """Asks again, a few times and after a random while, as long as the budget lasts."""

    def __init__(
        self,
        backend: InferenceBackend,
        *,
        retries: int,
        budget: RetryBudget,
        has_free: Callable[[], bool] = lambda: False,
    ) -> None:
        """Make the policy.

        Args:
            backend: the backend inside.
            retries: most retries of one request.
            budget: the bound on those of all requests together.
            has_free: whether another server would take the request now, so that the busy one need not be waited
                for.
        """
        super().__init__(backend)
        self._retries = retries
        self._budget = budget
        self._has_free = has_free
        self._backoff = wait_random_exponential(multiplier=FIRST_WAIT_S, max=LONGEST_WAIT_S)
        self._policy = AsyncRetrying(
            sleep=asyncio.sleep,
            stop=self._gives_up,
            wait=self._wait_s,
            retry=retry_if_exception_type(SAFE),
            reraise=True,
        )

    async def call(self, request: Request[ResultT], context: RequestContext) -> ResultT:
        """See the port."""
        self._budget.earn()
        try:
            return await self._backend.call(request, context)
        except SAFE as error:
            return await self._again(error, lambda: self._backend.call(request, context))

    @contextlib.asynccontextmanager
    async def stream(self, request: GenerationRequest, context: RequestContext) -> AsyncGenerator[Events, None]:
        """See the port. Once the engine has begun to answer, failures are the caller's."""
        self._budget.earn()

        async with contextlib.AsyncExitStack() as stack:

            async def begin() -> Events:
                return await stack.enter_async_context(self._backend.stream(request, context))

            try:
                events = await begin()
            except SAFE as error:
                events = await self._again(error, begin)
            yield events

    async def _again(self, failure: Exception, ask: Callable[[], Awaitable[T]]) -> T:
        """Go on after a first failure, which tenacity is told as the outcome of its first attempt."""
        failures = [failure]

        async def attempt() -> T:
            if failures:
                raise failures.pop()
            return await ask()

        # A copy, because a policy at work keeps its state in itself.
        return await self._policy.copy()(attempt)

    def _gives_up(self, state: RetryCallState) -> bool:
        error = _error_of(state)
        is_too_late = (
            isinstance(error, BackendBusyError)
            and (error.retry_after_s or 0) > LONGEST_RETRY_AFTER_S
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
            # Jitter on top, so that not all come back at the same moment.
            return wait_s + (error.retry_after_s or 0)
        return wait_s


def _error_of(state: RetryCallState) -> BaseException | None:
    return state.outcome.exception() if state.outcome is not None else None
