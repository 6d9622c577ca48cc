"""Computes embeddings on an AsyncLLM with the pooling runner."""

import torch
from vllm.pooling_params import PoolingParams

from adapters.vllm.inprocess.pooling import run_all
from adapters.vllm.inprocess.running_engine import RunningEngine
from domain.errors import TooManyTokensError
from domain.port import RequestContext
from domain.requests import MAX_EMBEDDING_TOKENS, EmbeddingRequest
from domain.results import EmbeddingResult


async def embed(running: RunningEngine, request: EmbeddingRequest, context: RequestContext) -> EmbeddingResult:
    """Embed all inputs: float32 vectors of unit length, shape (len(inputs), dimensions).

    Raises:
        TooManyTokensError: the inputs have more than MAX_EMBEDDING_TOKENS tokens.
        InferenceError: the engine rejected the request or failed.
    """
    with running.translate_errors("input"):
        rendered = await running.render(
            request.inputs,
            truncate=request.truncate_prompt_tokens,
            add_special_tokens=request.add_special_tokens,
        )
        counts = [len(item["prompt_token_ids"]) for item in rendered]
        tokens = sum(counts)
        if tokens > MAX_EMBEDDING_TOKENS:
            raise TooManyTokensError(tokens, MAX_EMBEDDING_TOKENS)
        params = PoolingParams(task="embed", dimensions=_dimensions_parameter(running, request.dimensions))
        outputs = await run_all(running, [(item, params) for item in rendered], context)
        rows = [output.data.to(torch.float32).contiguous().numpy().tobytes() for output in outputs]
    return EmbeddingResult(
        vectors=b"".join(rows), dimensions=len(rows[0]) // 4, prompt_tokens=tokens, input_tokens=counts
    )


def _dimensions_parameter(running: RunningEngine, wanted: int | None) -> int | None:
    """The value for vLLM's `dimensions` parameter: None for the model's native dimensions.

    vLLM rejects the parameter for models that are not Matryoshka models, even with the native dimensions.
    """
    return None if wanted == running.model_config.embedding_size else wanted
