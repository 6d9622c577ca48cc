"""Batching: embedding requests of several clients that wait at the same moment become one call of the engine.

What an engine's server spends on a request it then spends once for all of them. No request waits for others: one
that finds no call running is passed on at once, and those that arrive meanwhile form the next batch.
"""

import asyncio
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import cast

import msgspec

from domain.errors import BackendTimeoutError, BackendUnavailableError
from domain.observation import Phase
from domain.policies.wrapper import BackendWrapper
from domain.port import InferenceBackend, ModelCard, RequestContext, StepListener, ignore_step
from domain.requests import EmbeddingRequest, Request, ResultT
from domain.results import EmbeddingResult

MAX_INPUTS = 256
MAX_TOKENS = 32_768
"""Bounds a batch, so that no request waits for more than a moment's work of others. Texts are counted by their
characters, of which a token has at least one as a rule."""
MAX_CALLS = 1
"""With two, batches are half as full: before a vLLM server on two cores that served a tenth less."""


class BatchingBackend(BackendWrapper):
    """Batches embedding requests if the backend reports the tokens of each input; else passes them through.

    Each request keeps its own order, usage and failure: if the engine refuses a batch, each of its requests is
    sent again alone. Cancelling a request leaves the others of its batch alone; when all of them are cancelled,
    so is the batch.
    """

    def __init__(
        self,
        backend: InferenceBackend,
        *,
        max_inputs: int = MAX_INPUTS,
        max_tokens: int = MAX_TOKENS,
        max_calls: int = MAX_CALLS,
    ) -> None:
        """Make the policy.

        Args:
            backend: the backend inside.
            max_inputs: most inputs of a batch; a request with more is passed on alone.
            max_tokens: most tokens of a batch.
            max_calls: calls of the backend at a time.
        """
        super().__init__(backend)
        self._max_inputs = max_inputs
        self._max_tokens = max_tokens
        self._max_calls = max_calls
        self._waiting: deque[_Waiter] = deque()
        self._calls = 0
        self._batches: set[asyncio.Task[None]] = set()
        self._can_batch = False
        self.batched = 0
        """Requests that were part of a batch of several."""

    async def start(self, on_step: StepListener = ignore_step) -> ModelCard:
        """See the port."""
        card = await self._backend.start(on_step)
        self._can_batch = card.reports_tokens_per_input
        return card

    async def stop(self) -> None:
        """See the port."""
        for batch in self._batches:
            batch.cancel()
        await self._backend.stop()

    async def call(self, request: Request[ResultT], context: RequestContext) -> ResultT:
        """See the port."""
        if isinstance(request, EmbeddingRequest):
            return cast(ResultT, await self._embed(request, context))
        return await self._backend.call(request, context)

    async def _embed(self, request: EmbeddingRequest, context: RequestContext) -> EmbeddingResult:
        if not self._can_batch or len(request.inputs) >= self._max_inputs:
            return await self._backend.call(request, context)
        if self._calls < self._max_calls:
            self._calls += 1
            try:
                return await self._backend.call(request, context)
            finally:
                self._call_done()
        waiter = _Waiter(request, context)
        self._waiting.append(waiter)
        try:
            return await waiter.result
        finally:
            waiter.leave()

    def _call_done(self) -> None:
        """One call has ended: the next batch starts, with all that wait and fit."""
        self._calls -= 1
        while self._waiting and self._calls < self._max_calls:
            waiters = self._take_batch()
            if waiters:
                self._calls += 1
                batch = asyncio.create_task(self._run_batch(waiters))
                self._batches.add(batch)
                now = time.monotonic()
                for waiter in waiters:
                    waiter.report_wait(now)
                    waiter.on_leave = _cancel_when_empty(batch, waiters)

    def _take_batch(self) -> list["_Waiter"]:
        """The next batch: in order of arrival, of one kind, and within the bounds."""
        taken: list[_Waiter] = []
        skipped: list[_Waiter] = []
        inputs = tokens = 0
        while self._waiting:
            waiter = self._waiting.popleft()
            if waiter.has_left:
                continue
            if taken and waiter.kind != taken[0].kind:
                skipped.append(waiter)
                continue
            inputs += len(waiter.request.inputs)
            tokens += waiter.size
            if taken and (inputs > self._max_inputs or tokens > self._max_tokens):
                skipped.append(waiter)
                break
            taken.append(waiter)
        self._waiting.extendleft(reversed(skipped))
        return taken

    async def _run_batch(self, waiters: list["_Waiter"]) -> None:
        try:
            await self._embed_batch(waiters)
        finally:
            task = asyncio.current_task()
            if task is not None:
                self._batches.discard(task)
            for waiter in waiters:
                # Only those whose batch was cancelled have no result yet.
                waiter.fail(BackendUnavailableError("The service is stopping.", retry_after_s=1))
            self._call_done()

    async def _embed_batch(self, waiters: list["_Waiter"]) -> None:
        if len(waiters) == 1:
            await self._embed_alone(waiters[0])
            return
        self.batched += len(waiters)
        request, context = waiters[0].request, waiters[0].context
        inputs = [item for waiter in waiters for item in waiter.request.inputs]
        began = time.monotonic()
        try:
            try:
                result = await self._backend.call(msgspec.structs.replace(request, inputs=inputs), context)
            finally:
                for waiter in waiters:
                    waiter.report_call(began, len(waiters), leader=context)
        except (BackendUnavailableError, BackendTimeoutError) as error:
            # No input is to blame, and sending each again would only add to the trouble.
            for waiter in waiters:
                waiter.fail(error)
        except Exception:
            await asyncio.gather(*(self._embed_alone(waiter) for waiter in waiters))
        else:
            if result.input_tokens is None:
                # The sum can't be divided among the requests.
                await asyncio.gather(*(self._embed_alone(waiter) for waiter in waiters))
            else:
                _distribute(result, result.input_tokens, waiters)

    async def _embed_alone(self, waiter: "_Waiter") -> None:
        if waiter.has_left:
            return
        try:
            result = await self._backend.call(waiter.request, waiter.context)
        except Exception as error:
            waiter.fail(error)
        else:
            waiter.succeed(result)


class _Waiter:
    """A request that waits for its batch."""

    def __init__(self, request: EmbeddingRequest, context: RequestContext) -> None:
        self.request = request
        self.context = context
        self.kind = (
            type(request.inputs[0]),
            request.dimensions,
            request.truncate_prompt_tokens,
            request.add_special_tokens,
        )
        self.size = sum(map(len, request.inputs))
        self.result: asyncio.Future[EmbeddingResult] = asyncio.get_running_loop().create_future()
        self.has_left = False
        self.on_leave: Callable[[], None] = lambda: None
        """Called when its client has the answer or wants none any more."""
        self._since = time.monotonic()
        self._is_waiting = True

    def report_wait(self, now: float) -> None:
        """Report the end of the wait to the request's observer, once."""
        if self._is_waiting and self.context.observer is not None:
            self.context.observer.waited(Phase.JOIN, self._since, now)
        self._is_waiting = False

    def report_call(self, began: float, batch_size: int, *, leader: RequestContext) -> None:
        """Report the end of the batch's call to the request's observer."""
        if self.context.observer is not None:
            self.context.observer.batched(began, time.monotonic(), batch_size=batch_size, trace=leader.trace)

    def leave(self) -> None:
        """The client has its answer, or wants none any more."""
        self.has_left = True
        self.report_wait(time.monotonic())
        self.on_leave()

    def succeed(self, result: EmbeddingResult) -> None:
        if not self.result.done():
            self.result.set_result(result)

    def fail(self, error: Exception) -> None:
        if not self.result.done():
            self.result.set_exception(error)


def _cancel_when_empty(batch: asyncio.Task[None], waiters: Sequence[_Waiter]) -> Callable[[], None]:
    def check() -> None:
        # Some of those who left may have their result; then the batch has ended, or is about to.
        if all(waiter.has_left for waiter in waiters):
            batch.cancel()

    return check


def _distribute(result: EmbeddingResult, counts: list[int], waiters: Sequence[_Waiter]) -> None:
    """Give each request its own rows and tokens."""
    row_bytes = 4 * result.dimensions
    begin = 0
    for waiter in waiters:
        end = begin + len(waiter.request.inputs)
        own = counts[begin:end]
        waiter.succeed(
            EmbeddingResult(
                vectors=result.vectors[begin * row_bytes : end * row_bytes],
                dimensions=result.dimensions,
                prompt_tokens=sum(own),
                input_tokens=own,
            )
        )
        begin = end
