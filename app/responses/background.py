"""Generates responses in the background, independently of the client's connection.

The process that accepted a response generates it and keeps its events in memory until it has ended; the store has
them too, for other processes and for later.
"""

import asyncio
import contextlib
import logging
from collections.abc import AsyncGenerator, Sequence

import msgspec

from app.http.errors import as_inference_error
from app.http.rate_limits import Reservation
from app.responses.field_names import response_field_names
from app.responses.preparation import Prepared, record
from domain.errors import InferenceError, OverloadedError
from domain.openai.responses.events import Event
from domain.port import RequestContext
from domain.state import StateStore

log = logging.getLogger("memoria")

FLUSH_INTERVAL_S = 0.2
"""How often events are stored, and requests to cancel from other processes are looked up."""
QUEUE_RETRY_S = 1.0
"""How long a response waits before it tries again, while the model's queue is full."""
MAX_RUNS = 1_000
"""Responses of one process at a time: each keeps its prompt and its events in memory."""
BUSY_RETRY_S = 10
"""Seconds after which a client should try again, while there are too many."""
_encode = msgspec.json.Encoder().encode

StoredEvent = tuple[int, bytes]
"""A sequence number, and the event as a JSON object."""


class Run:
    """One response that is generated in the background."""

    def __init__(
        self, prepared: Prepared, owner: str, context: RequestContext, reservation: Reservation, state: StateStore
    ) -> None:
        self.owner = owner
        self._prepared = prepared
        self._context = context
        self._reservation = reservation
        self._state = state
        self._events: list[StoredEvent] = []
        self._stored = 0
        self._is_finishing = False
        self._has_ended = False
        self.is_cancelled = False
        """Whether a client has asked for its end."""
        self._changed = asyncio.Event()
        self._shown = prepared.presenter.response
        """The response as clients see it: ended only once that is stored."""
        self.task: asyncio.Task[None] | None = None

    async def begin(self) -> None:
        """Start to generate, once the response is stored: its client may leave and ask for it later."""
        await self._state.begin_durably(record(self._prepared, self.owner))
        self._add(self._prepared.presenter.first_chunks())
        self._shown = self._prepared.presenter.response
        self.task = asyncio.create_task(self._run(), name=f"response-{self.id}")

    @property
    def id(self) -> str:
        """The response's id."""
        return self._prepared.presenter.response.id

    @property
    def body(self) -> bytes:
        """The response as it is now, as JSON."""
        return _encode(self._shown)

    async def events(self, after: int) -> AsyncGenerator[StoredEvent, None]:
        """The events with sequence numbers above `after`, as they arrive, to the last."""
        position = after + 1
        while True:
            changed = self._changed
            while position < len(self._events):
                yield self._events[position]
                position += 1
            if self._has_ended:
                return
            await changed.wait()

    async def cancel(self) -> None:
        """Cancel the response and wait until it has ended; one that has ended stays as it is."""
        self.is_cancelled = True
        await self.break_off()

    async def break_off(self) -> None:
        """End the generation and wait until the response has ended; safe to call repeatedly and at any time.

        The response ends as cancelled if a client has asked for it, and as failed otherwise.
        """
        if self.task is None:
            return
        # A task that is cancelled before its first step never runs.
        await asyncio.sleep(0)
        # Storing the end must not be cancelled: nothing would end the streams that wait for it.
        if not self._is_finishing:
            self.task.cancel()
        await asyncio.wait([self.task])

    def flush(self) -> None:
        """Hand new events to the store."""
        if self._stored < len(self._events):
            self._state.append_events(self.id, self._events[self._stored :])
            self._stored = len(self._events)

    def _add(self, events: Sequence[Event]) -> None:
        if not events:
            return
        # The sequence number of an event is its position.
        self._events += _to_store(events)
        self._wake()

    def _wake(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()

    async def _run(self) -> None:
        presenter = self._prepared.presenter
        try:
            with self._reservation as reservation:
                try:
                    await self._generate()
                finally:
                    reservation.used = presenter.usage.total_tokens
            self._add(presenter.end_output())
        except asyncio.CancelledError:
            if self.is_cancelled:
                self._add(presenter.cancel())
            else:
                self._fail(InferenceError("The service was stopped while it generated the response."))
        except Exception as exception:
            self._fail(as_inference_error(exception))
        await self._finish()

    def _fail(self, error: InferenceError) -> None:
        self._add(self._prepared.presenter.fail(error))

    async def _generate(self) -> None:
        while True:
            try:
                with response_field_names():
                    await self._stream_once()
                return
            except OverloadedError:
                # Nothing waits for this response, so it is the one to give way.
                await asyncio.sleep(QUEUE_RETRY_S)

    async def _stream_once(self) -> None:
        presenter, backend = self._prepared.presenter, self._prepared.model.backend
        async with backend.stream(self._prepared.generation, self._context) as events:
            async for event in events:
                self._add(presenter.chunks(event))

    async def _finish(self) -> None:
        self._is_finishing = True
        last = _to_store(self._prepared.presenter.last_chunks())
        # Other processes take the events of an ended response for complete, so the end is stored after them.
        self.flush()
        self._state.append_events(self.id, last)
        try:
            await self._state.finish(record(self._prepared, self.owner))
        except InferenceError as error:
            log.warning("a background response could not be stored: %s", error.message)
        self._events += last
        self._stored = len(self._events)
        self._shown = self._prepared.presenter.response
        self._has_ended = True
        self._wake()


def _to_store(events: Sequence[Event]) -> list[StoredEvent]:
    return [(event.sequence_number, _encode(event)) for event in events]


class BackgroundRuns:
    """All background responses of this process."""

    def __init__(self, state: StateStore) -> None:
        """Create it without starting anything.

        Args:
            state: where responses and their events are stored.
        """
        self._state = state
        self._runs: dict[str, Run] = {}
        self._cancels: set[asyncio.Task[None]] = set()
        self._loop: asyncio.Task[None] | None = None

    async def begin(
        self, prepared: Prepared, owner: str, context: RequestContext, reservation: Reservation
    ) -> Run:
        """Generate a response in the background. If that fails, the reservation is given back.

        Raises:
            OverloadedError: there are too many already.
            StateUnavailableError: it can't be stored.
        """
        run = Run(prepared, owner, context, reservation, self._state)
        with contextlib.ExitStack() as undo:
            undo.enter_context(reservation)
            if len(self._runs) >= MAX_RUNS:
                raise OverloadedError(
                    f"{MAX_RUNS} responses are generated in the background already. Please try again later.",
                    retry_after_s=BUSY_RETRY_S,
                )
            undo.callback(self.forget, run.id)
            # Counted from now on, also while it is being stored.
            self._runs[run.id] = run
            await run.begin()
            undo.pop_all()
        if self._loop is None or self._loop.done():
            self._loop = asyncio.create_task(self._attend(), name="background-responses")
        return run

    def find(self, owner: str, response_id: str) -> Run | None:
        """The owner's response of that id, if this process generates it."""
        run = self._runs.get(response_id)
        return run if run is not None and run.owner == owner else None

    def forget(self, response_id: str) -> None:
        """Forget a response that has ended, if there is one of that id: from now on only the store has it."""
        self._runs.pop(response_id, None)

    async def stop(self) -> None:
        """End all responses as failed, because the service ends."""
        others = [*self._cancels]
        if self._loop is not None:
            self._loop.cancel()
            others.append(self._loop)
        endings = [run.break_off() for run in self._runs.values()]
        await asyncio.gather(*endings, *others, return_exceptions=True)
        self._runs.clear()

    async def _attend(self) -> None:
        """Store events and notice requests to cancel, while there are responses."""
        while self._runs:
            await asyncio.sleep(FLUSH_INTERVAL_S)
            for run in list(self._runs.values()):
                run.flush()
                if run.task is not None and run.task.done():
                    del self._runs[run.id]
            # The next look at the store may succeed.
            with contextlib.suppress(InferenceError):
                await self._cancel_requested()

    async def _cancel_requested(self) -> None:
        ids = [run.id for run in self._runs.values() if not run.is_cancelled]
        for response_id in await self._state.cancel_requested(ids):
            if response_id in self._runs:
                # Not awaited: while one response ends, the events of the others are stored.
                task = asyncio.create_task(self._runs[response_id].cancel(), name=f"cancel-{response_id}")
                self._cancels.add(task)
                task.add_done_callback(self._cancels.discard)
