"""Embedding cache: computes equal inputs once, also when they are requested concurrently.

Re-indexing a collection, or many users with the same question, requests the same vectors repeatedly. Entries are
keyed by the exact input and every parameter that changes its vector. They belong to one model, and are dropped
whenever the engine may have been replaced.
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
"""Size of an entry without its text and its vector: key, counters, slots in two hash tables (CPython, 64 bit)."""

Key = tuple[str | tuple[int, ...], int | None, int | None, bool]
"""Input, dimensions, truncation, special tokens."""


class Row(NamedTuple):
    """One vector as float32 bytes, and the tokens of its input."""

    vector: bytes
    tokens: int


class CachingBackend(BackendWrapper):
    """Answers known inputs from memory, and forwards the rest of a request in one call."""

    def __init__(self, backend: InferenceBackend, *, max_bytes: int) -> None:
        """Make the policy.

        Args:
            backend: the wrapped backend.
            max_bytes: maximum size of all entries together; the least recently used ones are evicted.
        """
        super().__init__(backend)
        self._max_bytes = max_bytes
        self._rows: OrderedDict[Key, Row] = OrderedDict()
        self._bytes = 0
        self._version = 0
        """Raised by `clear`, so that vectors of an earlier engine are not stored."""
        self._running: dict[Key, _Computation] = {}
        self._reports_tokens_per_input = False
        self._hits = self._shared = self._misses = 0

    @property
    def stats(self) -> CacheStats:
        """Counters since the start."""
        return CacheStats(
            hits=self._hits,
            shared=self._shared,
            misses=self._misses,
            entries=len(self._rows),
            bytes=self._bytes,
            max_bytes=self._max_bytes,
        )

    async def start(self, on_step: StepListener = ignore_step) -> ModelCard:
        """See the port. Drops all entries: the model may be a different one."""
        self.clear()
        card = await self._backend.start(on_step)
        self._reports_tokens_per_input = card.reports_tokens_per_input
        return card

    async def probe(self) -> None:
        """See the port. Drops all entries if the probe fails: the engine may come back with a different model."""
        try:
            await self._backend.probe()
        except Exception:
            self.clear()
            raise

    async def call(self, request: Request[ResultT], context: RequestContext) -> ResultT:
        """See the port."""
        if isinstance(request, EmbeddingRequest):
            return cast(ResultT, await self._embed(request, context))
        return await self._backend.call(request, context)

    async def _embed(self, request: EmbeddingRequest, context: RequestContext) -> EmbeddingResult:
        keys = [_key(item, request) for item in request.inputs]
        rows_by_key = {key: row for key in keys if (row := self._lookup(key)) is not None}
        missing = dict.fromkeys(key for key in keys if key not in rows_by_key)
        if len(missing) > 1 and not self._reports_tokens_per_input:
            # The total can't be divided among the inputs.
            return await self._backend.call(request, context)
        self._hits += sum(key in rows_by_key for key in keys)
        computations = {self._running[key] for key in missing if key in self._running}
        self._shared += sum(key in self._running for key in missing)
        own = [key for key in missing if key not in self._running]
        if own:
            self._misses += len(own)
            computations.add(self._start_computation(own, request, context))
        for rows in await _wait_for(computations):
            rows_by_key |= rows
        left = [key for key in missing if key not in rows_by_key]
        if left:
            # Another request's computation was rejected, perhaps because of one of its other inputs.
            rows_by_key |= await self._compute(left, request, context)
        return _result([rows_by_key[key] for key in keys])

    def _start_computation(
        self, keys: list[Key], request: EmbeddingRequest, context: RequestContext
    ) -> "_Computation":
        computation = _Computation(
            asyncio.create_task(self._compute(keys, request, context)), owner=asyncio.current_task()
        )
        for key in keys:
            self._running[key] = computation
        computation.task.add_done_callback(lambda _task: self._remove_running(keys, computation))
        return computation

    def _remove_running(self, keys: list[Key], computation: "_Computation") -> None:
        for key in keys:
            if self._running.get(key) is computation:
                del self._running[key]

    async def _compute(
        self, keys: list[Key], request: EmbeddingRequest, context: RequestContext
    ) -> dict[Key, Row]:
        version = self._version
        inputs: list[Prompt] = [key[0] if isinstance(key[0], str) else list(key[0]) for key in keys]
        result = await self._backend.call(msgspec.structs.replace(request, inputs=inputs), context)
        if result.input_tokens is None and len(keys) > 1:
            # This server reports only a total, unlike the one at the start; it can't be divided among the inputs.
            parts = await gather_all([self._compute([key], request, context) for key in keys])
            return {key: row for part in parts for key, row in part.items()}
        counts = result.input_tokens or [result.prompt_tokens]
        size = 4 * result.dimensions
        vectors = [result.vectors[start : start + size] for start in range(0, len(result.vectors), size)]
        rows = {key: Row(vector, tokens) for key, vector, tokens in zip(keys, vectors, counts, strict=True)}
        if version == self._version:
            for key, row in rows.items():
                self._store(key, row)
        return rows

    def _lookup(self, key: Key) -> Row | None:
        row = self._rows.get(key)
        if row is not None:
            self._rows.move_to_end(key)
        return row

    def _store(self, key: Key, row: Row) -> None:
        size = _size(key, row)
        if key in self._rows or size > self._max_bytes:
            return
        self._rows[key] = row
        self._bytes += size
        while self._bytes > self._max_bytes:
            self._bytes -= _size(*self._rows.popitem(last=False))

    def clear(self) -> None:
        """Drop all entries, also those of calls under way, because the engine may have been replaced."""
        self._version += 1
        self._rows.clear()
        self._bytes = 0
        # Requests that already wait for these still get them; later requests don't share them.
        self._running.clear()


class _Computation:
    """A computation that one request started and others may share; cancelled when no request waits for it."""

    def __init__(self, task: asyncio.Task[dict[Key, Row]], *, owner: asyncio.Task[object] | None) -> None:
        self.task = task
        self.owner = owner
        self.waiting = 0


async def _wait_for(computations: set[_Computation]) -> list[dict[Key, Row]]:
    """The rows of all computations.

    Raises the failure of the caller's own computation, and leaves out the rows of another request's that failed.
    """
    if not computations:
        return []
    for computation in computations:
        computation.waiting += 1
    try:
        await asyncio.wait([computation.task for computation in computations])
    finally:
        for computation in computations:
            computation.waiting -= 1
            if computation.waiting == 0 and not computation.task.done():
                computation.task.cancel()
    me = asyncio.current_task()
    rows: list[dict[Key, Row]] = []
    for computation in computations:
        try:
            rows.append(computation.task.result())
        except (InvalidRequestError, asyncio.CancelledError):
            if computation.owner is me:
                raise
    return rows


def _key(item: Prompt, request: EmbeddingRequest) -> Key:
    exact = item if isinstance(item, str) else tuple(item)
    return exact, request.dimensions, request.truncate_prompt_tokens, request.add_special_tokens


def _size(key: Key, row: Row) -> int:
    """Bytes of an entry: at most 4 per character, 36 per token id."""
    item_bytes = 4 if isinstance(key[0], str) else 36
    return item_bytes * len(key[0]) + len(row.vector) + ENTRY_OVERHEAD_BYTES


def _result(rows: list[Row]) -> EmbeddingResult:
    counts = [row.tokens for row in rows]
    total = sum(counts)
    if total > MAX_EMBEDDING_TOKENS:
        # Cached inputs count as well.
        raise TooManyTokensError(total, MAX_EMBEDDING_TOKENS)
    return EmbeddingResult(
        vectors=b"".join(row.vector for row in rows),
        dimensions=len(rows[0].vector) // 4,
        prompt_tokens=total,
        input_tokens=counts,
    )
