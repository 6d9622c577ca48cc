"""Embeddings of a vLLM server."""

import asyncio
from typing import cast

from adapters.vllm.dialect.refusals import no_such_dimensions
from adapters.vllm.http.errors import translated
from adapters.vllm.http.server import RequestInfo, VLLMServer
from adapters.vllm.http.tokenizer import InputTokenizer
from adapters.vllm.http.translate import embedding_body, embedding_result
from adapters.vllm.http.wire import ServerModel, embeddings_decoder
from domain.errors import TooManyTokensError
from domain.gather import gather_all
from domain.matryoshka import is_matryoshka, shorten
from domain.port import RequestContext
from domain.requests import MAX_EMBEDDING_TOKENS, EmbeddingRequest, Prompt
from domain.results import EmbeddingResult

# Inputs of one request to the server, and requests at a time: small enough that no request is huge, and enough
# of them to keep the engine busy.
BATCH = 256
PARALLEL_BATCHES = 4
INLINE_CHARACTERS = 8192
"""Texts up to this length together are counted on the event loop, in some 2 ms at the most."""


class Embedding:
    """Asks a server with an embedding model; remembers what it has found out about that server."""

    def __init__(self, server: VLLMServer, model: ServerModel, tokenizer: InputTokenizer | None) -> None:
        """Make it.

        Args:
            server: with an embedding model.
            model: its model.
            tokenizer: the model's own, to count tokens by; None if it is not on this machine.
        """
        self._server = server
        self._model = model
        self._tokenizer = tokenizer
        self._native_dimensions: int | None = None

    async def embed(self, request: EmbeddingRequest, context: RequestContext) -> EmbeddingResult:
        """Vectors for all inputs. Many inputs go to the server in several requests, a few at a time.

        Raises:
            TooManyTokensError: more than MAX_EMBEDDING_TOKENS.
            InferenceError: the server refused, failed or can't be reached.
        """
        _require_few_tokens(sum(len(item) for item in request.inputs if isinstance(item, list)))
        shorten_to, dimensions = self._lengths(request.dimensions)
        counts = await self._input_tokens(request)
        tokens = 0
        slots = asyncio.Semaphore(PARALLEL_BATCHES)

        async def embed_batch(inputs: list[Prompt]) -> EmbeddingResult:
            nonlocal tokens
            body = embedding_body(
                inputs,
                model=self._model.id,
                dimensions=dimensions,
                truncate=request.truncate_prompt_tokens,
                add_special_tokens=request.add_special_tokens,
            )
            async with slots:
                content = await self._server.post("/v1/embeddings", body, context, RequestInfo("input"))
            with translated(self._server.name):
                result = embedding_result(embeddings_decoder.decode(content), expected=len(inputs))
            tokens += result.prompt_tokens
            _require_few_tokens(tokens)
            return result

        parts = await gather_all(
            [embed_batch(request.inputs[start : start + BATCH]) for start in range(0, len(request.inputs), BATCH)]
        )
        whole = EmbeddingResult(
            vectors=b"".join(part.vectors for part in parts),
            dimensions=parts[0].dimensions,
            prompt_tokens=tokens,
            input_tokens=counts if counts is not None and sum(counts) == tokens else None,
        )
        if dimensions is None:
            self._native_dimensions = whole.dimensions
        if shorten_to is None:
            return whole
        if shorten_to > whole.dimensions:
            raise no_such_dimensions(self._model.id)
        return shorten(whole, shorten_to)

    async def _input_tokens(self, request: EmbeddingRequest) -> list[int] | None:
        """Tokens of each input, or None where they can't be known here. Long inputs are counted in a thread."""
        inputs = request.inputs
        if request.truncate_prompt_tokens is not None:
            return None
        if isinstance(inputs[0], list):
            return [len(item) for item in inputs]
        if self._tokenizer is None or not request.add_special_tokens:
            return None
        texts = cast(list[str], inputs)
        if sum(map(len, texts)) <= INLINE_CHARACTERS:
            return self._tokenizer.count(texts)
        return await asyncio.to_thread(self._tokenizer.count, texts)

    def _lengths(self, wanted: int | None) -> tuple[int | None, int | None]:
        """The length to shorten vectors to here, and the length to ask the server for; None for its own."""
        if wanted is None or wanted == self._native_dimensions:
            return None, None
        # The server may not know of such a model that it can do this, and refuse.
        can_shorten = is_matryoshka(self._model.id, self._model.root)
        return (wanted, None) if can_shorten else (None, wanted)


def _require_few_tokens(tokens: int) -> None:
    if tokens > MAX_EMBEDDING_TOKENS:
        raise TooManyTokensError(tokens, MAX_EMBEDDING_TOKENS)
