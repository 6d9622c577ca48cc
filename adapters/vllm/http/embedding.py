"""Computes embeddings on a vLLM server."""

import asyncio
from typing import cast

from adapters.vllm.dialect.refusals import no_such_dimensions
from adapters.vllm.http.errors import translate_errors
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

# Inputs per request to the server, and concurrent requests: enough to keep the engine busy without huge requests.
BATCH_SIZE = 256
PARALLEL_BATCHES = 4
INLINE_CHARACTERS = 8192
"""Texts of up to this total length are tokenized on the event loop, which takes about 2 ms at most."""


class Embedding:
    """Embeds on one server; caches what it learns about the server's model."""

    def __init__(self, server: VLLMServer, model: ServerModel, tokenizer: InputTokenizer | None) -> None:
        """Create the client.

        Args:
            server: serves an embedding model.
            model: the server's model.
            tokenizer: the model's tokenizer, to count tokens; None if it is not on this machine.
        """
        self._server = server
        self._model = model
        self._tokenizer = tokenizer
        self._native_dimensions: int | None = None

    async def embed(self, request: EmbeddingRequest, context: RequestContext) -> EmbeddingResult:
        """Embed all inputs. Many inputs are split into several requests, of which a few run concurrently.

        Raises:
            TooManyTokensError: the inputs have more than MAX_EMBEDDING_TOKENS tokens.
            InferenceError: the server returned an error or can't be reached.
        """
        _check_token_limit(sum(len(item) for item in request.inputs if isinstance(item, list)))
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
            with translate_errors(self._server.name):
                result = embedding_result(embeddings_decoder.decode(content), expected=len(inputs))
            tokens += result.prompt_tokens
            _check_token_limit(tokens)
            return result

        parts = await gather_all(
            [
                embed_batch(request.inputs[start : start + BATCH_SIZE])
                for start in range(0, len(request.inputs), BATCH_SIZE)
            ]
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
        """Number of tokens of each input, or None if unknown. Long inputs are tokenized in a thread."""
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
        """Dimensions to shorten to here, and dimensions to request from the server; None for the model's own."""
        if wanted is None or wanted == self._native_dimensions:
            return None, None
        # The server may not know that the model supports this, and reject the parameter.
        can_shorten = is_matryoshka(self._model.id, self._model.root)
        return (wanted, None) if can_shorten else (None, wanted)


def _check_token_limit(tokens: int) -> None:
    if tokens > MAX_EMBEDDING_TOKENS:
        raise TooManyTokensError(tokens, MAX_EMBEDDING_TOKENS)
