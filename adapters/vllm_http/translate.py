"""Between the domain's words and the bodies of a vLLM server. Pure."""

import base64
from typing import Any

from adapters.vllm_http.wire import ServerChoice, ServerEmbeddings, ServerLogprobs
from domain.backend import (
    EmbeddingRequest,
    EmbeddingResult,
    FinishReason,
    GenerationDelta,
    GenerationRequest,
    TokenLogprob,
)
from domain.errors import BackendFailedError


def embedding_body(request: EmbeddingRequest, *, model: str, dimensions: int | None) -> dict[str, Any]:
    """Body of `POST /v1/embeddings`, with the vectors asked for as exact bytes."""
    body = {"model": model, "input": request.inputs, "encoding_format": "base64"}
    return body | ({"dimensions": dimensions} if dimensions is not None else {})


def embedding_result(answer: ServerEmbeddings, *, expected: int) -> EmbeddingResult:
    """The domain's result for a server's answer.

    Raises:
        BackendFailedError: the answer lacks a vector, or the vectors differ in length.
    """
    items = sorted(answer.data, key=lambda item: item.index)
    rows = [base64.b64decode(item.embedding, validate=True) for item in items]
    lengths = {len(row) for row in rows}
    is_complete = [item.index for item in items] == list(range(expected))
    if not is_complete or len(lengths) != 1 or not rows[0] or len(rows[0]) % 4:
        raise BackendFailedError("The embedding server answered with an incomplete set of vectors.")
    return EmbeddingResult(
        vectors=b"".join(rows), dimensions=len(rows[0]) // 4, prompt_tokens=answer.usage.prompt_tokens
    )


def completion_body(request: GenerationRequest, *, model: str) -> dict[str, Any]:
    """Body of `POST /v1/completions`. What the request leaves open is left to the server's model."""
    wanted = request.sampling
    body: dict[str, Any] = {
        "model": model,
        "prompt": request.prompt,
        "max_tokens": wanted.max_tokens,
        "n": wanted.n,
        "stop": wanted.stop,
        "echo": request.echo,
        "stream": request.stream,
    }
    optional = {
        "temperature": wanted.temperature,
        "top_p": wanted.top_p,
        "seed": wanted.seed,
        "logprobs": wanted.logprobs,
        "presence_penalty": wanted.presence_penalty,
        "frequency_penalty": wanted.frequency_penalty,
        "logit_bias": {str(token): bias for token, bias in (wanted.logit_bias or {}).items()} or None,
        "stream_options": {"include_usage": True} if request.stream else None,
    }
    return body | {name: value for name, value in optional.items() if value is not None}


def delta(choice: ServerChoice) -> GenerationDelta:
    """The domain's delta for a server's choice.

    Raises:
        BackendFailedError: the engine behind the server gave the choice up.
    """
    reason = None
    if choice.finish_reason is not None:
        try:
            reason = FinishReason(choice.finish_reason)
        except ValueError:
            raise BackendFailedError(
                "The engine ended the generation before it was complete. Please try again."
            ) from None
    logprobs = _logprobs(choice.logprobs) if choice.logprobs is not None else None
    return GenerationDelta(index=choice.index, text=choice.text, logprobs=logprobs, finish_reason=reason)


def _logprobs(lists: ServerLogprobs) -> list[TokenLogprob]:
    return [
        TokenLogprob(token, logprob, list(top.items()) if top is not None else None)
        for token, logprob, top in zip(lists.tokens, lists.token_logprobs, lists.top_logprobs, strict=True)
    ]
