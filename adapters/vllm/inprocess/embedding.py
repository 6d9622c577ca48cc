"""Embeddings on an AsyncLLM with the pooling runner."""

from typing import Any

import torch
from vllm.pooling_params import PoolingParams
from vllm.v1.engine.exceptions import EngineDeadError, EngineGenerateError

from adapters.vllm.inprocess.running_engine import REFUSALS, RunningEngine
from domain.errors import TooManyTokensError
from domain.port import RequestContext
from domain.requests import MAX_EMBEDDING_TOKENS, EmbeddingRequest
from domain.results import EmbeddingResult


async def embed(running: RunningEngine, request: EmbeddingRequest, context: RequestContext) -> EmbeddingResult:
    """Vectors for all inputs: float32, shape (len(inputs), dimensions), rows of unit length.

    Raises:
        TooManyTokensError: more than MAX_EMBEDDING_TOKENS.
        InferenceError: the engine refuses the request, or has failed.
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
        rows = await _encode(running, rendered, _changed_dimensions(running, request.dimensions), context)
    return EmbeddingResult(
        vectors=b"".join(rows), dimensions=len(rows[0]) // 4, prompt_tokens=tokens, input_tokens=counts
    )


def _changed_dimensions(running: RunningEngine, wanted: int | None) -> int | None:
    """The dimensions to ask vLLM for: None where the model's own are wanted.

    vLLM refuses the parameter for every model that was not trained for several sizes, the native size included,
    which is harmless.
    """
    return None if wanted == running.model_config.embedding_size else wanted


async def _encode(
    running: RunningEngine, rendered: list[Any], dimensions: int | None, context: RequestContext
) -> list[bytes]:
    """All inputs' vectors as float32 bytes.

    All are handed to the engine before the first is waited for, so that it batches them. That takes no task for
    each, as `AsyncLLM.encode` would, but what is left undone must be aborted here.
    """
    engine, trace_headers = running.engine, running.trace_headers(context)
    params = PoolingParams(task="embed", dimensions=dimensions)
    pending: list[Any] = []
    rows: list[bytes] = []
    try:
        # One by one, so that what has been handed over is known if the next one fails.
        for item in rendered:
            pending += [
                await engine.add_request(running.request_id(context), item, params, trace_headers=trace_headers)
            ]
        for output in pending:
            data = (await output.get()).outputs.data
            running.progressed()
            rows += [data.to(torch.float32).contiguous().numpy().tobytes()]
    except EngineDeadError:
        raise
    except BaseException as error:
        await engine.abort([output.request_id for output in pending[len(rows) :]], internal=True)
        if isinstance(error, Exception) and not isinstance(error, REFUSALS):
            raise EngineGenerateError from error
        raise
    return rows
