"""Joining: embedding requests of different clients that wait at the same moment travel to the engine together.

What an engine's server spends on a request it spends once for all of them. Nobody waits for company: a request
that finds nothing under way goes at once, and those that come meanwhile go together when it is back.
"""

import asyncio
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import cast

from domain.errors import BackendTimeoutError, BackendUnavailableError
from domain.observation import Phase
from domain.policies.wrapper import BackendWrapper
from domain.port import InferenceBackend, ModelCard, RequestContext, StepListener, ignore_step
from domain.requests import EmbeddingRequest, Request, ResultT
from domain.results import EmbeddingResult

MAX_INPUTS = 256
MAX_TOKENS = 32_768
"""A bound on what travels together, so that nobody waits for more than a moment's work of others. Texts are
counted by their characters, of which a token has at least one as a rule."""
MAX_UNDER_WAY = 1
"""With two, flights are half as full: before a vLLM server on two cores that served a tenth less."""


class JoiningBackend(BackendWrapper):
    """Joins embedding requests, if the backend tells the tokens of each input; else passes them through.

    Order, usage and failure of each request stay its own: if the engine refuses some that travelled together,
    each of them is asked again alone. A request that is cancelled leaves the others alone; when all of a flight
    are cancelled, so is the flight.
    """

    def __init__(
        self,
        backend: InferenceBackend,
        *,
        max_inputs: int = MAX_INPUTS,
        max_tokens: int = MAX_TOKENS,
        max_under_way: int = MAX_UNDER_WAY,
    ) -> None:
        """Make the policy.

        Args:
            backend: the backend inside.
            max_inputs: most inputs that travel together; a request with more travels alone.
            max_tokens: most tokens that travel together.
            max_under_way: flights at a time.
        """
        super().__init__(backend)
        self._max_inputs = max_inputs
        self._max_tokens = max_tokens
        self._max_under_way = max_under_way
        self._waiting: deque[_Passenger] = deque()
        self._under_way = 0
        self._flights: set[asyncio.Task[None]] = set()
        self._can_join = False
        self.joined = 0
        """Requests that have travelled in company."""

    async def start(self, on_step: StepListener = ignore_step) -> ModelCard:
        """See the port."""
        card = await self._backend.start(on_step)
        self._can_join = card.reports_tokens_per_input
        return card

    async def stop(self) -> None:
        """See the port."""
        for flight in self._flights:
            flight.cancel()
        await self._backend.stop()

    async def call(self, request: Request[ResultT], context: RequestContext) -> ResultT:
        """See the port."""
        if isinstance(request, EmbeddingRequest):
            return cast(ResultT, await self._embed(request, context))
        return await self._backend.call(request, context)

    async def _embed(self, request: EmbeddingRequest, context: RequestContext) -> EmbeddingResult:
        if not self._can_join or len(request.inputs) >= self._max_inputs:
            return await self._backend.call(request, context)
        if self._under_way < self._max_under_way:
            self._under_way += 1
            try:
                return await self._backend.call(request, context)
            finally:
                self._landed()
        passenger = _Passenger(request, context)
        self._waiting.append(passenger)
        try:
            return await passenger.result
        finally:
            passenger.leave()

    def _landed(self) -> None:
        """One flight is back: the next one starts, with all who wait and fit."""
        self._under_way -= 1
        while self._waiting and self._under_way < self._max_under_way:
            passengers = self._board()
            if passengers:
                self._under_way += 1
                flight = asyncio.create_task(self._fly(passengers))
                self._flights.add(flight)
                now = time.monotonic()
                for passenger in passengers:
                    passenger.tell_wait(now)
                    passenger.board(_cancel_when_empty(flight, passengers))

    def _board(self) -> list["_Passenger"]:
        """Those that travel together: in order of arrival, of one kind, and within the bounds."""
        passengers: list[_Passenger] = []
        passed: list[_Passenger] = []
        inputs = tokens = 0
        while self._waiting:
            passenger = self._waiting.popleft()
            if passenger.has_left:
                continue
            if passengers and passenger.kind != passengers[0].kind:
                passed.append(passenger)
                continue
            inputs += len(passenger.request.inputs)
            tokens += passenger.size
            if passengers and (inputs > self._max_inputs or tokens > self._max_tokens):
                passed.append(passenger)
                break
            passengers.append(passenger)
        self._waiting.extendleft(reversed(passed))
        return passengers

    async def _fly(self, passengers: list["_Passenger"]) -> None:
        try:
            await self._carry(passengers)
        finally:
            task = asyncio.current_task()
            if task is not None:
                self._flights.discard(task)
            for passenger in passengers:
                # Only those whose flight was cancelled have not heard yet.
                passenger.fail(BackendUnavailableError("The service is stopping.", retry_after_s=1))
            self._landed()

    async def _carry(self, passengers: list["_Passenger"]) -> None:
        if len(passengers) == 1:
            await self._carry_alone(passengers[0])
            return
        self.joined += len(passengers)
        request, context = passengers[0].request, passengers[0].context
        inputs = [item for passenger in passengers for item in passenger.request.inputs]
        together = EmbeddingRequest(
            inputs=inputs,
            dimensions=request.dimensions,
            truncate_prompt_tokens=request.truncate_prompt_tokens,
            add_special_tokens=request.add_special_tokens,
        )
        began = time.monotonic()
        try:
            try:
                result = await self._backend.call(together, context)
            finally:
                for passenger in passengers:
                    passenger.tell_flight(began, len(passengers), leader=context)
        except (BackendUnavailableError, BackendTimeoutError) as error:
            # Nobody's input is to blame, and asking again for each would only add to the trouble.
            for passenger in passengers:
                passenger.fail(error)
        except Exception:
            await asyncio.gather(*(self._carry_alone(passenger) for passenger in passengers))
        else:
            if result.input_tokens is None:
                # Whose tokens are whose can't be told.
                await asyncio.gather(*(self._carry_alone(passenger) for passenger in passengers))
            else:
                _hand_out(result, result.input_tokens, passengers)

    async def _carry_alone(self, passenger: "_Passenger") -> None:
        if passenger.has_left:
            return
        try:
            result = await self._backend.call(passenger.request, passenger.context)
        except Exception as error:
            passenger.fail(error)
        else:
            passenger.arrive(result)


class _Passenger:
    """A request that waits for its flight."""

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
        self._since = time.monotonic()
        self._waits = True
        self._on_leaving: Callable[[], None] = lambda: None

    def board(self, on_leaving: Callable[[], None]) -> None:
        self._on_leaving = on_leaving

    def tell_wait(self, now: float) -> None:
        """Tell who watches that the wait is over, once."""
        if self._waits and self.context.observer is not None:
            self.context.observer.waited(Phase.JOIN, self._since, now)
        self._waits = False

    def tell_flight(self, began: float, company: int, *, leader: RequestContext) -> None:
        """Tell who watches that the flight is back."""
        if self.context.observer is not None:
            self.context.observer.travelled(began, time.monotonic(), company=company, trace=leader.trace)

    def leave(self) -> None:
        """Its client has its answer, or wants none any more."""
        self.has_left = True
        self.tell_wait(time.monotonic())
        self._on_leaving()

    def arrive(self, result: EmbeddingResult) -> None:
        if not self.result.done():
            self.result.set_result(result)

    def fail(self, error: Exception) -> None:
        if not self.result.done():
            self.result.set_exception(error)


def _cancel_when_empty(flight: asyncio.Task[None], passengers: Sequence[_Passenger]) -> Callable[[], None]:
    def check() -> None:
        # Of those who have left, some may have arrived; then the flight is over, or about to be.
        if all(passenger.has_left for passenger in passengers):
            flight.cancel()

    return check


def _hand_out(result: EmbeddingResult, counts: list[int], passengers: Sequence[_Passenger]) -> None:
    """To each its own rows and tokens."""
    row_bytes = 4 * result.dimensions
    begin = 0
    for passenger in passengers:
        end = begin + len(passenger.request.inputs)
        own = counts[begin:end]
        passenger.arrive(
            EmbeddingResult(
                vectors=result.vectors[begin * row_bytes : end * row_bytes],
                dimensions=result.dimensions,
                prompt_tokens=sum(own),
                input_tokens=own,
            )
        )
        begin = end
