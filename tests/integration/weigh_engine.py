"""Measures an engine's memory in vLLM: `python -m tests.integration.weigh_engine FOLDER RUNNER FLAGS…`.

Prints JSON with the bytes of the model's parameters and of its KV cache in the worker, and the scheduler's number
of blocks.
"""

import json
import sys
from typing import Any


def weigh(worker: Any) -> dict[str, int]:
    """Runs in the worker."""
    runner = worker.model_runner
    parameters = {id(parameter): parameter for parameter in runner.model.parameters()}
    # On the CPU the matrix of a linear layer is packed for its kernel and removed from the parameters.
    packed = sum(
        module.input_size_per_partition * module.output_size_per_partition * module.weight.element_size()
        for module in runner.model.modules()
        if hasattr(module, "input_size_per_partition") and not module.weight.numel()
    )
    caches = [tensor for cache in runner.kv_caches for tensor in (cache if isinstance(cache, list) else [cache])]
    storages = {tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes() for tensor in caches}
    return {
        "weights": packed + sum(parameter.numel() * parameter.element_size() for parameter in parameters.values()),
        "kv_cache": sum(storages.values()),
    }


def main(folder: str, runner: str, flags: list[str]) -> None:
    from vllm import LLM
    from vllm.engine.arg_utils import EngineArgs
    from vllm.utils.argparse_utils import FlexibleArgumentParser

    parser = EngineArgs.add_cli_args(FlexibleArgumentParser())
    arguments = parser.parse_args(["--model", folder, "--runner", runner, *flags])
    engine = LLM.from_engine_args(EngineArgs.from_cli_args(arguments))
    found = engine.collective_rpc(weigh)[0]
    cache = engine.llm_engine.vllm_config.cache_config
    found |= {"blocks": cache.num_gpu_blocks, "block_tokens": cache.block_size}
    found["context"] = engine.llm_engine.vllm_config.model_config.max_model_len
    print("WEIGHED " + json.dumps(found))


if __name__ == "__main__":
    # Imported by name, so that the worker can unpickle the function; it could not import it from __main__.
    from tests.integration.weigh_engine import main as run

    run(sys.argv[1], sys.argv[2], sys.argv[3:])
