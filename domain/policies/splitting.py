"""Splitting: scores thousands of pairs in parts, so that other requests are admitted between them."""

import asyncio
from itertools import pairwise
from typing import cast

from domain.gather import gather_all
from domain.policies.wrapper import BackendWrapper
from domain.port import RequestContext
from domain.requests import Request, ResultT, ScoreRequest, estimate_tokens
from domain.results import ScoreResult

PART_PAIRS = 64
"""Pairs of one part: enough to keep an engine busy."""
PART_TOKENS = 65_536
"""Estimated tokens of the texts of one part, so that long documents also give way, and that an embedding model can
score them: one request to it has at most `MAX_EMBEDDING_TOKENS`."""
PARALLEL_PARTS = 4
"""Parts of one request that wait or run at a time."""


class SplittingBackend(BackendWrapper):
    """Splits requests with many pairs; the first part that fails cancels the others."""

    async def call(self, request: Request[ResultT], context: RequestContext) -> ResultT:
        """See the port."""
        if isinstance(request, ScoreRequest) and len(starts := _starts(request)) > 1:
            return cast(ResultT, await self._score(request, starts, context))
        return await self._backend.call(request, context)

    async def _score(self, request: ScoreRequest, starts: list[int], context: RequestContext) -> ScoreResult:
        slots = asyncio.Semaphore(PARALLEL_PARTS)

        async def score_part(start: int, stop: int) -> ScoreResult:
            async with slots:
                return await self._backend.call(request.pairs(start, stop), context)

        parts = await gather_all([score_part(*part) for part in pairwise([*starts, request.width])])
        return ScoreResult(
            scores=[score for part in parts for score in part.scores],
            prompt_tokens=sum(part.prompt_tokens for part in parts),
        )


def _starts(request: ScoreRequest) -> list[int]:
    """The position of the first pair of each part."""
    has_own_queries = len(request.queries) == request.width
    starts = [0]
    tokens = 0
    for position, document in enumerate(request.documents):
        own = estimate_tokens(document) + (estimate_tokens(request.queries[position]) if has_own_queries else 0)
        if position - starts[-1] == PART_PAIRS or (position > starts[-1] and tokens + own > PART_TOKENS):
            starts.append(position)
            tokens = 0
        tokens += own
    return starts
