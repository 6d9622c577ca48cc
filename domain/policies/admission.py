"""Admission control: limits running and waiting requests per role and rejects excess requests immediately.

An unbounded queue grows until its requests time out before they run. Each role has its own bounds, in requests
and in tokens, so that a burst for one model does not affect clients of the other.

Each class of service has a queue, first in, first out. A request is admitted only if no request of a more urgent
class waits. Interactive requests use all of the bounds; requests of the other classes also need an allowance
(`domain.policies.allowance`), which changes over time. Batches may have any number of requests waiting.
"""

import asyncio
import contextlib
import time
from collections.abc import AsyncGenerator

from domain.errors import OverloadedError
from domain.load import Bounds, ClassLoad, Load, class_name
from domain.observation import Phase
from domain.policies.allowance import POLL_S, AllowancePolicy, BatchRules, InteractiveActivity, YieldingPolicy
from domain.policies.class_queue import SMOOTHING, ClassQueue, Waiter
from domain.policies.wrapper import BackendWrapper
from domain.port import Events, InferenceBackend, ModelCard, RequestContext, StepListener, ignore_step
from domain.requests import GenerationRequest, Request, ResultT
from domain.service_class import ServiceClass


class AdmissionBackend(BackendWrapper):
    """Runs requests up to the bounds, queues further ones up to a limit, and rejects the rest."""

    def __init__(
        self,
        backend: InferenceBackend,
        bounds: Bounds,
        *,
        activity: InteractiveActivity | None = None,
        policy: AllowancePolicy | None = None,
    ) -> None:
        """Make the policy.

        Args:
            backend: the wrapped backend.
            bounds: limits of all classes together.
            activity: shared by the roles whose batches give way to each other's interactive requests; None for
                this role alone.
            policy: allowances of FLEX and BATCH; None for those that follow from `activity`.
        """
        super().__init__(backend)
        self._bounds = bounds
        self._running = self._running_tokens = 0
        self._interactive = ClassQueue(ServiceClass.INTERACTIVE)
        self._yielding = (ClassQueue(ServiceClass.FLEX), ClassQueue(ServiceClass.BATCH))
        self._queues = (self._interactive, *self._yielding)
        self._activity = activity or InteractiveActivity()
        self._activity.sources.append(self._interactive_requests)
        self.policy = policy or YieldingPolicy(bounds, self._activity, BatchRules())
        self._poll: asyncio.TimerHandle | None = None

    async def start(self, on_step: StepListener = ignore_step) -> ModelCard:
        """See the port."""
        card = await self._backend.start(on_step)
        self.policy.engine_started(card.max_sequences)
        return card

    @property
    def load(self) -> Load:
        """Running and waiting work now."""
        interactive = self._interactive
        return Load(
            running=self._running,
            waiting=len(interactive.waiters),
            running_tokens=self._running_tokens,
            waiting_tokens=interactive.waiting_tokens,
            bounds=self._bounds,
            classes={class_name(queue.service_class): self._class_load(queue) for queue in self._queues},
        )

    def waiting(self, service_class: ServiceClass) -> int:
        """Requests of a class that wait now."""
        return len(self._queues[service_class].waiters)

    def _class_load(self, queue: ClassQueue) -> ClassLoad:
        running, running_tokens = self._running_of(queue)
        return ClassLoad(
            running=running,
            waiting=len(queue.waiters),
            running_tokens=running_tokens,
            waiting_tokens=queue.waiting_tokens,
        )

    async def call(self, request: Request[ResultT], context: RequestContext) -> ResultT:
        """See the port. Raises OverloadedError if too much waits already."""
        if not request.needs_inference:
            return await self._backend.call(request, context)
        tokens, queue = request.estimated_tokens, self._queues[context.service_class]
        if not self._admit_at_once(queue, tokens):
            await self._wait(queue, tokens, context)
        began = time.monotonic()
        try:
            return await self._backend.call(request, context)
        finally:
            self._leave(queue, tokens, began)

    @contextlib.asynccontextmanager
    async def stream(self, request: GenerationRequest, context: RequestContext) -> AsyncGenerator[Events, None]:
        """See the port. Raises OverloadedError if too much waits already."""
        tokens, queue = request.estimated_tokens, self._queues[context.service_class]
        if not self._admit_at_once(queue, tokens):
            await self._wait(queue, tokens, context)
        began = time.monotonic()
        try:
            async with self._backend.stream(request, context) as events:
                yield events
        finally:
            self._leave(queue, tokens, began)

    def _interactive_requests(self) -> int:
        return self._running_of(self._interactive)[0] + len(self._interactive.waiters)

    def _running_of(self, queue: ClassQueue) -> tuple[int, int]:
        """Running requests of a class, and their tokens."""
        if queue is not self._interactive:
            return queue.running, queue.running_tokens
        flex, batch = self._yielding
        return (
            self._running - flex.running - batch.running,
            self._running_tokens - flex.running_tokens - batch.running_tokens,
        )

    def _admit_at_once(self, queue: ClassQueue, tokens: int) -> bool:
        """Admit a request that has just arrived, if none waits before it and there is room."""
        if self._interactive.waiters or not self._has_room(tokens):
            return False
        if queue is not self._interactive:
            if not self._is_next(queue) or not self._has_allowance(queue, tokens):
                return False
            queue.running += 1
            queue.running_tokens += tokens
        # Not a call of `_acquire`: most requests come this way.
        self._running += 1
        self._running_tokens += tokens
        return True

    async def _wait(self, queue: ClassQueue, tokens: int, context: RequestContext) -> None:
        self._require_place(queue, tokens)
        waiter = Waiter(tokens)
        queue.waiters.append(waiter)
        queue.waiting_tokens += tokens
        began = time.monotonic()
        try:
            if queue is not self._interactive:
                self._poll_allowance()
            await waiter.admitted
        except asyncio.CancelledError:
            if waiter.is_waiting:
                queue.waiters.remove(waiter)
                queue.waiting_tokens -= tokens
                self._admit_waiters()
            elif not waiter.admitted.cancelled():
                # It was admitted just before the cancellation.
                self._release(queue, tokens)
            raise
        finally:
            if context.observer is not None:
                context.observer.waited(Phase.QUEUE, began, time.monotonic())

    def _require_place(self, queue: ClassQueue, tokens: int) -> None:
        """Raise OverloadedError if no further request of the class may wait."""
        bounds, waiting = self._bounds, len(queue.waiters)
        if queue.service_class is ServiceClass.BATCH or not (
            waiting >= bounds.max_waiting
            # A request larger than the bound may wait if the queue is empty; otherwise it could never be served.
            or (waiting and queue.waiting_tokens + tokens > bounds.max_waiting_tokens)
        ):
            return
        retry_after_s = queue.retry_after_s(self._running_of(queue)[0])
        if queue.service_class is ServiceClass.FLEX:
            raise OverloadedError(
                f"There is no room for more requests of the service tier 'flex' ({waiting} are waiting). Please "
                "try again later, or send the request without 'service_tier'.",
                param="service_tier",
                code="resource_unavailable",
                retry_after_s=retry_after_s,
            )
        raise OverloadedError(
            f"Too many requests are waiting for this model ({waiting} requests, about "
            f"{queue.waiting_tokens} tokens). Please try again later.",
            retry_after_s=retry_after_s,
        )

    def _leave(self, queue: ClassQueue, tokens: int, began: float) -> None:
        now = time.monotonic()
        took = now - began
        queue.mean_s = took if queue.mean_s == 0.0 else queue.mean_s + SMOOTHING * (took - queue.mean_s)
        if queue is self._interactive:
            self._activity.last = now
        else:
            self.policy.ended(queue.service_class, began, now)
        self._release(queue, tokens)

    def _acquire(self, queue: ClassQueue, tokens: int) -> None:
        self._running += 1
        self._running_tokens += tokens
        if queue is not self._interactive:
            # What remains of all requests are the interactive ones, which need not be counted twice.
            queue.running += 1
            queue.running_tokens += tokens

    def _release(self, queue: ClassQueue, tokens: int) -> None:
        self._running -= 1
        self._running_tokens -= tokens
        if queue is not self._interactive:
            queue.running -= 1
            queue.running_tokens -= tokens
            self._admit_waiters()
        elif queue.waiters:
            # Without interactive waiters the end of an interactive request changes nothing at once for the other
            # classes, because they wait for the absence of such requests; they notice it at the next poll.
            self._admit_waiters()

    def _admit_waiters(self) -> None:
        """Admit waiting requests while there is room, the most urgent class first."""
        if self._admit_from(self._interactive):
            for queue in self._yielding:
                if not self._admit_from(queue):
                    break

    def _admit_from(self, queue: ClassQueue) -> bool:
        """Admit waiting requests of one class while there is room; return whether none is left."""
        waiters = queue.waiters
        while waiters and (waiters[0].admitted.cancelled() or self._may_begin(queue, waiters[0].tokens)):
            waiter = waiters.popleft()
            waiter.is_waiting = False
            queue.waiting_tokens -= waiter.tokens
            # A waiter that was just cancelled may still be in the queue.
            if not waiter.admitted.cancelled():
                self._acquire(queue, waiter.tokens)
                waiter.admitted.set_result(None)
        return not waiters

    def _may_begin(self, queue: ClassQueue, tokens: int) -> bool:
        return self._has_room(tokens) and (queue is self._interactive or self._has_allowance(queue, tokens))

    def _is_next(self, queue: ClassQueue) -> bool:
        """Whether no request waits of this class, FLEX or BATCH, or of a more urgent one of the two."""
        return not any(each.waiters for each in self._yielding if each.service_class <= queue.service_class)

    def _has_room(self, tokens: int) -> bool:
        # A request that exceeds the bound by itself is admitted when nothing else runs.
        return not self._running or (
            self._running < self._bounds.max_running
            and self._running_tokens + tokens <= self._bounds.max_running_tokens
        )

    def _has_allowance(self, queue: ClassQueue, tokens: int) -> bool:
        now = time.monotonic()
        own, ceiling = self.policy.allowance(queue.service_class, now), self.policy.ceiling()
        running = sum(each.running for each in self._yielding)
        running_tokens = sum(each.running_tokens for each in self._yielding)
        return (
            queue.running < own.running
            and running < ceiling.running
            and (not queue.running or queue.running_tokens + tokens <= own.tokens)
            and (not running or running_tokens + tokens <= ceiling.tokens)
        )

    def _poll_allowance(self) -> None:
        """Ask for the allowance again in a moment, as long as requests wait for it."""
        if self._poll is None:
            self._poll = asyncio.get_running_loop().call_later(POLL_S, self._polled)

    def _polled(self) -> None:
        self._poll = None
        self._admit_waiters()
        if any(queue.waiters for queue in self._yielding):
            self._poll_allowance()
