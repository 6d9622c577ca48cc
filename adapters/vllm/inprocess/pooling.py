"""Runs requests on an AsyncLLM with the pooling runner."""

from collections.abc import Sequence
from typing import Any

from vllm.outputs import PoolingOutput
from vllm.pooling_params import PoolingParams
from vllm.v1.engine.exceptions import EngineDeadError, EngineGenerateError

from adapters.vllm.inprocess.running_engine import REJECTIONS, RunningEngine
from domain.port import RequestContext


async def run_all(
    running: RunningEngine, inputs: Sequence[tuple[Any, PoolingParams]], context: RequestContext
) -> list[PoolingOutput]:
    """The outputs of all inputs, in their order.

    Submits all inputs before waiting for the first result, so that the engine batches them. Unlike
    `AsyncLLM.encode` this needs no task per input, but has to abort unfinished inputs after an error.

    Args:
        running: the engine.
        inputs: vLLM's engine inputs, each with its parameters.
        context: of the request that they belong to.
    """
    engine, trace_headers = running.engine, running.trace_headers(context)
    pending: list[Any] = []
    outputs: list[PoolingOutput] = []
    try:
        # One by one, so that the submitted ones are known if the next one fails.
        for item, params in inputs:
            pending += [
                await engine.add_request(
                    running.request_id(context),
                    item,
                    params,
                    trace_headers=trace_headers,
                    priority=context.service_class,
                )
            ]
        for output in pending:
            outputs += [(await output.get()).outputs]
            running.record_progress()
    except EngineDeadError:
        raise
    except BaseException as error:
        await engine.abort([output.request_id for output in pending[len(outputs) :]], internal=True)
        if isinstance(error, Exception) and not isinstance(error, REJECTIONS):
            raise EngineGenerateError from error
        raise
    return outputs
