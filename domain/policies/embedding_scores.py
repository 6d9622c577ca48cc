"""Scores pairs with an embedding model: the cosine of the angle between the vectors of query and document.

vLLM's server scores with an embedding model in the same way (`BiEncoderIOProcessor` in
vllm.entrypoints.pooling.scoring.io_processor, 0.32.0), so `/v1/rerank` works without a reranking model.
"""

import asyncio
from operator import mul
from typing import cast

from domain.errors import InvalidRequestError
from domain.gather import gather_all
from domain.policies.wrapper import BackendWrapper
from domain.port import InferenceBackend, ModelCard, RequestContext, StepListener, ignore_step
from domain.requests import EmbeddingRequest, Prompt, Request, ResultT, ScoreRequest, TokenizeRequest
from domain.results import EmbeddingResult, ScoreResult

YIELD_AFTER = 16_384
"""Numbers to multiply until other tasks of the event loop run, which takes about 1 ms."""


class EmbeddingScores(BackendWrapper):
    """Answers score requests with an embedding model, and passes all others on."""

    def __init__(self, backend: InferenceBackend) -> None:
        super().__init__(backend)
        self._max_model_len: int | None = None
        self._special: int | None = None

    async def start(self, on_step: StepListener = ignore_step) -> ModelCard:
        """See the port."""
        card = await self._backend.start(on_step)
        self._max_model_len, self._special = card.max_model_len, None
        return card

    async def call(self, request: Request[ResultT], context: RequestContext) -> ResultT:
        """See the port."""
        if isinstance(request, ScoreRequest):
            return cast(ResultT, await self._score(request, context))
        return await self._backend.call(request, context)

    async def _score(self, request: ScoreRequest, context: RequestContext) -> ScoreResult:
        request = request.within(self._max_model_len)
        if request.max_tokens_per_query is None and request.max_tokens_per_doc is None:
            # One call, so that the engine computes queries and documents in one batch.
            texts: list[Prompt] = [*request.queries, *request.documents]
            both = await self._embed(texts, request.truncate_prompt_tokens, context)
            vectors = _rows(both)
            queries, documents = vectors[: len(request.queries)], vectors[len(request.queries) :]
            return await _result(queries, documents, both.prompt_tokens)
        special = await self._special_tokens(context)

        def limit(tokens: int | None) -> int | None:
            return _limit(request.truncate_prompt_tokens, tokens, special, self._max_model_len)

        found = await gather_all(
            [
                self._embed([*request.queries], limit(request.max_tokens_per_query), context),
                self._embed([*request.documents], limit(request.max_tokens_per_doc), context),
            ]
        )
        return await _result(_rows(found[0]), _rows(found[1]), sum(result.prompt_tokens for result in found))

    async def _embed(
        self, texts: list[Prompt], truncate_to: int | None, context: RequestContext
    ) -> EmbeddingResult:
        request = EmbeddingRequest(inputs=texts, truncate_prompt_tokens=truncate_to)
        try:
            return await self._backend.call(request, context)
        except InvalidRequestError as error:
            if error.param is not None and error.param.startswith("input"):
                error.param = "documents"
            raise

    async def _special_tokens(self, context: RequestContext) -> int:
        """Number of special tokens that the model adds to a text; asked for once, because a server answers it."""
        if self._special is None:
            self._special = len((await self._backend.call(TokenizeRequest(prompt=""), context)).token_ids)
        return self._special


def _limit(whole: int | None, tokens: int | None, special: int, max_model_len: int | None) -> int | None:
    """The limit on the tokens of one text, special ones included; None for no limit.

    Args:
        whole: the request's `truncate_prompt_tokens`.
        tokens: the limit on the text without special tokens.
        special: number of special tokens.
        max_model_len: context length; the engine rejects larger limits.
    """
    if tokens is None or (max_model_len is not None and tokens + special > max_model_len):
        return whole
    return tokens + special if whole is None or whole < 0 else min(whole, tokens + special)


def _rows(result: EmbeddingResult) -> list[memoryview]:
    """The vectors, not unpacked yet."""
    size = 4 * result.dimensions
    vectors = memoryview(result.vectors)
    return [vectors[start : start + size] for start in range(0, len(vectors), size)]


def _numbers(vector: memoryview) -> list[float]:
    # typeshed has no overload for float formats.
    return cast(list[float], vector.cast("f").tolist())


async def _result(queries: list[memoryview], documents: list[memoryview], tokens: int) -> ScoreResult:
    """The scores; vectors have unit length, so that the cosine is the scalar product."""
    first = _numbers(queries[0])
    scores = []
    numbers = 0
    for position, vector in enumerate(documents):
        query = first if len(queries) == 1 else _numbers(queries[position])
        scores.append(sum(map(mul, query, _numbers(vector))))
        numbers += len(query)
        if numbers >= YIELD_AFTER:
            numbers = 0
            await asyncio.sleep(0)
    return ScoreResult(scores=scores, prompt_tokens=tokens)
