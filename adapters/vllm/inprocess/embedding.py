"""Computes embeddings on an AsyncLLM with the pooling runner."""

from typing import Any

import torch
from vllm.pooling_params import PoolingParams
from vllm.v1.engine.exceptions import EngineDeadError, EngineGenerateError

from adapters.vllm.inprocess.running_engine import REJECTIONS, RunningEngine
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
        rows = await _encode(running, rendered, _dimensions_parameter(running, request.dimensions), context)
    return EmbeddingResult(
        vectors=b"".join(rows), dimensions=len(rows[0]) // 4, prompt_tokens=tokens, input_tokens=counts
    )


def _dimensions_parameter(running: RunningEngine, wanted: int | None) -> int | None:
    """The value for vLLM's `dimensions` parameter: None for the model's native dimensions.

    vLLM rejects the parameter for models that are not Matryoshka models, even with the native dimensions.
    """
    return None if wanted == running.model_config.embedding_size else wanted


async def _encode(
    running: RunningEngine, rendered: list[Any], dimensions: int | None, context: RequestContext
) -> list[bytes]:
    """The vectors of all inputs as float32 bytes.

    Submits all inputs before waiting for the first result, so that the engine batches them. Unlike
    `AsyncLLM.encode` this needs no task per input, but has to abort unfinished inputs after an error.
    """
    engine, trace_headers = running.engine, running.trace_headers(context)
    params = PoolingParams(task="embed", dimensions=dimensions)
    pending: list[Any] = []
    rows: list[bytes] = []
    try:
        # One by one, so that the submitted ones are known if the next one fails.
        for item in rendered:
            pending += [
                await engine.add_request(running.request_id(context), item, params, trace_headers=trace_headers)
            ]
        for output in pending:
            data = (await output.get()).outputs.data
            running.record_progress()
            rows += [data.to(torch.float32).contiguous().numpy().tobytes()]
    except EngineDeadError:
        raise
    except BaseException as error:
        await engine.abort([output.request_id for output in pending[len(rows) :]], internal=True)
        if isinstance(error, Exception) and not isinstance(error, REJECTIONS):
            raise EngineGenerateError from error
        raise
    return rows
