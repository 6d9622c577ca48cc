"""Batching: combines concurrent embedding requests of several clients into one engine call.

This pays the server's fixed cost per request once per batch. It adds no artificial delay: a request that finds no
call running is forwarded immediately, and those that arrive during a call form the next batch. Each class of
service has calls of its own, so that requests of one class never wait for those of another; admission bounds their
number.
"""

import asyncio
import time
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from typing import cast

import msgspec

from domain.errors import BackendTimeoutError, BackendUnavailableError
from domain.observation import Phase
from domain.policies.wrapper import BackendWrapper
from domain.port import InferenceBackend, ModelCard, RequestContext, StepListener, ignore_step
from domain.requests import EmbeddingRequest, Request, ResultT
from domain.results import EmbeddingResult
from domain.service_class import ServiceClass

MAX_INPUTS = 256
MAX_TOKENS = 32_768
"""Limits the size of a batch, so that no request waits long for the others in it. Texts are counted in characters,
of which a token usually has at least one."""
MAX_CALLS = 1
"""With two, batches are half as full; throughput of a vLLM server on two cores was a tenth lower."""


class BatchingBackend(BackendWrapper):
    """Batches embedding requests if the backend reports the tokens of each input; otherwise passes them through.

    Each request keeps its own order, usage and errors: if the engine rejects a batch, each of its requests is
    retried alone. Cancelling a request does not affect the others of its batch; when all of them are cancelled,
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
            backend: the wrapped backend.
            max_inputs: maximum inputs of a batch; a request with as many or more is forwarded alone.
            max_tokens: maximum tokens of a batch.
            max_calls: maximum concurrent calls of the backend, for each class of service.
        """
        super().__init__(backend)
        self._max_inputs = max_inputs
        self._max_tokens = max_tokens
        self._max_calls = max_calls
        self._waiting: tuple[deque[_Waiter], ...] = tuple(deque() for _ in ServiceClass)
        self._calls = [0 for _ in ServiceClass]
        self._batches: set[asyncio.Task[None]] = set()
        self._can_batch = False
        self.batched = 0
        """Requests that shared a batch with others."""

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
        service_class = context.service_class
        if self._calls[service_class] < self._max_calls:
            self._calls[service_class] += 1
            try:
                return await self._backend.call(request, context)
            finally:
                self._call_done(service_class)
        waiter = _Waiter(request, context)
        self._waiting[service_class].append(waiter)
        try:
            return await waiter.result
        finally:
            waiter.leave()

    def _call_done(self, service_class: ServiceClass) -> None:
        """Start the next batches after a call has ended."""
        self._calls[service_class] -= 1
        while self._waiting[service_class] and self._calls[service_class] < self._max_calls:
            waiters = self._take_batch(service_class)
            if waiters:
                self._calls[service_class] += 1
                batch = asyncio.create_task(self._embed_batch(waiters))
                self._batches.add(batch)
                # Not in the task itself: a task that is cancelled before its first step runs none of its code.
                batch.add_done_callback(partial(self._batch_done, waiters, service_class))
                now = time.monotonic()
                for waiter in waiters:
                    waiter.report_wait(now)
                    waiter.on_leave = _cancel_when_empty(batch, waiters)

    def _take_batch(self, service_class: ServiceClass) -> list["_Waiter"]:
        """The next batch: compatible requests of one class in order of arrival, within the bounds."""
        taken: list[_Waiter] = []
        skipped: list[_Waiter] = []
        inputs = tokens = 0
        waiting = self._waiting[service_class]
        while waiting:
            waiter = waiting.popleft()
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
        waiting.extendleft(reversed(skipped))
        return taken

    def _batch_done(
        self, waiters: list["_Waiter"], service_class: ServiceClass, batch: asyncio.Task[None]
    ) -> None:
        self._batches.discard(batch)
        for waiter in waiters:
            # Only requests of a cancelled batch have no result yet.
            waiter.fail(BackendUnavailableError("The service is stopping.", retry_after_s=1))
        self._call_done(service_class)

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
            # No input is at fault, and retrying each request would only add load.
            for waiter in waiters:
                waiter.fail(error)
        except Exception:
            await asyncio.gather(*(self._embed_alone(waiter) for waiter in waiters))
        else:
            if result.input_tokens is None:
                # The total can't be divided among the requests.
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
    """A request that waits for a batch."""

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
        """Called when the request is answered or cancelled."""
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
        """Mark the request as answered or cancelled."""
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
        # If some of them left with a result, the batch has ended or is about to.
        if all(waiter.has_left for waiter in waiters):
            batch.cancel()

    return check


def _distribute(result: EmbeddingResult, counts: list[int], waiters: Sequence[_Waiter]) -> None:
    """Give each request its own rows and token counts."""
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
