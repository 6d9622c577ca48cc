"""Splitting: scores thousands of pairs in parts, so that other requests are admitted between them."""

import asyncio
from typing import cast

from domain.gather import gather_all
from domain.policies.wrapper import BackendWrapper
from domain.port import RequestContext
from domain.requests import Request, ResultT, ScoreRequest
from domain.results import ScoreResult

PART_PAIRS = 64
"""Pairs of one part: enough to keep an engine busy."""
PARALLEL_PARTS = 4
"""Parts of one request that wait or run at a time."""


class SplittingBackend(BackendWrapper):
    """Splits requests with many pairs; the first part that fails cancels the others."""

    async def call(self, request: Request[ResultT], context: RequestContext) -> ResultT:
        """See the port."""
        if isinstance(request, ScoreRequest) and request.width > PART_PAIRS:
            return cast(ResultT, await self._score(request, context))
        return await self._backend.call(request, context)

    async def _score(self, request: ScoreRequest, context: RequestContext) -> ScoreResult:
        slots = asyncio.Semaphore(PARALLEL_PARTS)

        async def score_part(start: int) -> ScoreResult:
            async with slots:
                return await self._backend.call(request.pairs(start, start + PART_PAIRS), context)

        parts = await gather_all([score_part(start) for start in range(0, request.width, PART_PAIRS)])
        return ScoreResult(
            scores=[score for part in parts for score in part.scores],
            prompt_tokens=sum(part.prompt_tokens for part in parts),
        )
