"""Single flight and an exact cache for embeddings: equal inputs are computed once.

Re-indexing a collection, or many users with the same question, asks for the same vectors again and again. What
is kept is keyed by the exact input and by everything that changes its vector; it belongs to one model, and is
dropped whenever the engine behind may have become another one.
"""

import asyncio
from collections import OrderedDict
from typing import NamedTuple, cast

import msgspec

from domain.errors import InvalidRequestError, TooManyTokensError
from domain.gather import gather_all
from domain.health import CacheStats
from domain.policies.wrapper import BackendWrapper
from domain.port import InferenceBackend, ModelCard, RequestContext, StepListener, ignore_step
from domain.requests import MAX_EMBEDDING_TOKENS, EmbeddingRequest, Prompt, Request, ResultT
from domain.results import EmbeddingResult

ENTRY_OVERHEAD_BYTES = 400
"""What an entry takes besides its text and its vector: key, counters, places in two tables (CPython, 64 bit)."""

Key = tuple[str | tuple[int, ...], int | None, int | None, bool]
"""Input, dimensions, truncation, special tokens."""


class Row(NamedTuple):
    """One vector as float32 bytes, and the tokens of its input."""

    vector: bytes
    tokens: int


class CachingBackend(BackendWrapper):
    """Answers from memory where it can; the rest of a request goes on, in one piece."""

    def __init__(self, backend: InferenceBackend, *, max_bytes: int) -> None:
        """Make the policy.

        Args:
            backend: the backend inside.
            max_bytes: what all entries may take together; the least recently used ones make room.
        """
        super().__init__(backend)
        self._max_bytes = max_bytes
        self._rows: OrderedDict[Key, Row] = OrderedDict()
        self._bytes = 0
        self._flights: dict[Key, _Flight] = {}
        self._reports_tokens_per_input = False
        self._hits = self._shared = self._misses = 0

    @property
    def stats(self) -> CacheStats:
        """Counts so far."""
        return CacheStats(
            hits=self._hits,
            shared=self._shared,
            misses=self._misses,
            entries=len(self._rows),
            bytes=self._bytes,
            max_bytes=self._max_bytes,
        )

    async def start(self, on_step: StepListener = ignore_step) -> ModelCard:
        """See the port. What was kept is dropped: the model may be another one."""
        self.forget()
        card = await self._backend.start(on_step)
        self._reports_tokens_per_input = card.reports_tokens_per_input
        return card

    async def probe(self) -> None:
        """See the port. An engine that was away may come back as another one, so what was kept is dropped."""
        try:
            await self._backend.probe()
        except Exception:
            self.forget()
            raise

    async def call(self, request: Request[ResultT], context: RequestContext) -> ResultT:
        """See the port."""
        if isinstance(request, EmbeddingRequest):
            return cast(ResultT, await self._embed(request, context))
        return await self._backend.call(request, context)

    async def _embed(self, request: EmbeddingRequest, context: RequestContext) -> EmbeddingResult:
        keys = [_key(item, request) for item in request.inputs]
        known = {key: row for key in keys if (row := self._look_up(key)) is not None}
        missing = dict.fromkeys(key for key in keys if key not in known)
        if len(missing) > 1 and not self._reports_tokens_per_input:
            # The sum of all tokens can't be told apart.
            return await self._backend.call(request, context)
        self._hits += sum(key in known for key in keys)
        flights = {self._flights[key] for key in missing if key in self._flights}
        self._shared += sum(key in self._flights for key in missing)
        own = [key for key in missing if key not in self._flights]
        if own:
            self._misses += len(own)
            flights.add(self._start_flight(own, request, context))
        for rows in await _results_of(flights):
            known |= rows
        left = [key for key in missing if key not in known]
        if left:
            # Somebody else's request was refused, perhaps for another of its inputs.
            known |= await self._compute(left, request, context)
        return _result([known[key] for key in keys])

    def _start_flight(self, keys: list[Key], request: EmbeddingRequest, context: RequestContext) -> "_Flight":
        flight = _Flight(asyncio.create_task(self._compute(keys, request, context)), owner=asyncio.current_task())
        for key in keys:
            self._flights[key] = flight
        flight.task.add_done_callback(lambda _task: self._clear(keys, flight))
        return flight

    def _clear(self, keys: list[Key], flight: "_Flight") -> None:
        for key in keys:
            if self._flights.get(key) is flight:
                del self._flights[key]

    async def _compute(
        self, keys: list[Key], request: EmbeddingRequest, context: RequestContext
    ) -> dict[Key, Row]:
        inputs: list[Prompt] = [key[0] if isinstance(key[0], str) else list(key[0]) for key in keys]
        result = await self._backend.call(msgspec.structs.replace(request, inputs=inputs), context)
        if result.input_tokens is None and len(keys) > 1:
            # A server that tells less than the one at the start did: the sum can't be told apart.
            parts = await gather_all([self._compute([key], request, context) for key in keys])
            return {key: row for part in parts for key, row in part.items()}
        counts = result.input_tokens or [result.prompt_tokens]
        size = 4 * result.dimensions
        vectors = [result.vectors[start : start + size] for start in range(0, len(result.vectors), size)]
        rows = {key: Row(vector, tokens) for key, vector, tokens in zip(keys, vectors, counts, strict=True)}
        for key, row in rows.items():
            self._keep(key, row)
        return rows

    def _look_up(self, key: Key) -> Row | None:
        row = self._rows.get(key)
        if row is not None:
            self._rows.move_to_end(key)
        return row

    def _keep(self, key: Key, row: Row) -> None:
        size = _size(key, row)
        if key in self._rows or size > self._max_bytes:
            return
        self._rows[key] = row
        self._bytes += size
        while self._bytes > self._max_bytes:
            self._bytes -= _size(*self._rows.popitem(last=False))

    def forget(self) -> None:
        """Drop all vectors: the engine may have become another one."""
        self._rows.clear()
        self._bytes = 0
        # Who waits for these still gets them; nobody joins them any more.
        self._flights.clear()


class _Flight:
    """A computation that one request began and others may wait for; it ends when nobody does any more."""

    def __init__(self, task: asyncio.Task[dict[Key, Row]], *, owner: asyncio.Task[object] | None) -> None:
        self.task = task
        self.owner = owner
        self.waiting = 0


async def _results_of(flights: set[_Flight]) -> list[dict[Key, Row]]:
    """The rows of all flights. One's own failure is raised; the rows of another's failed flight are missing."""
    if not flights:
        return []
    for flight in flights:
        flight.waiting += 1
    try:
        await asyncio.wait([flight.task for flight in flights])
    finally:
        for flight in flights:
            flight.waiting -= 1
            if flight.waiting == 0 and not flight.task.done():
                flight.task.cancel()
    me = asyncio.current_task()
    rows: list[dict[Key, Row]] = []
    for flight in flights:
        try:
            rows.append(flight.task.result())
        except (InvalidRequestError, asyncio.CancelledError):
            if flight.owner is me:
                raise
    return rows


def _key(item: Prompt, request: EmbeddingRequest) -> Key:
    exact = item if isinstance(item, str) else tuple(item)
    return exact, request.dimensions, request.truncate_prompt_tokens, request.add_special_tokens


def _size(key: Key, row: Row) -> int:
    """Bytes that an entry takes: at most four for a character, 36 for a number in a list."""
    each = 4 if isinstance(key[0], str) else 36
    return each * len(key[0]) + len(row.vector) + ENTRY_OVERHEAD_BYTES


def _result(rows: list[Row]) -> EmbeddingResult:
    counts = [row.tokens for row in rows]
    total = sum(counts)
    if total > MAX_EMBEDDING_TOKENS:
        # What was known already counts as well.
        raise TooManyTokensError(total, MAX_EMBEDDING_TOKENS)
    return EmbeddingResult(
        vectors=b"".join(row.vector for row in rows),
        dimensions=len(rows[0].vector) // 4,
        prompt_tokens=total,
        input_tokens=counts,
    )
