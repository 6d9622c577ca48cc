"""What the doctor knows of vLLM without loading it, held against vLLM itself."""

import ast
from pathlib import Path

import pytest

from app.commands.doctor.machine import SHM_NEEDED
from app.commands.doctor.models import KINDS
from app.commands.doctor.numbers import BF16, FLOAT32, MIN_CAPABILITY_OF, NATIVE_FP8

pytestmark = pytest.mark.integration


@pytest.mark.parametrize("method", MIN_CAPABILITY_OF)
def test_the_oldest_gpu_for_a_quantization_matches_vllm(method: str) -> None:
    from vllm.model_executor.layers.quantization import get_quantization_config

    major, minor = MIN_CAPABILITY_OF[method]
    assert get_quantization_config(method).get_min_capability() == 10 * major + minor


@pytest.mark.parametrize("method", MIN_CAPABILITY_OF)
def test_float32_support_of_quantizations_matches_vllm(method: str) -> None:
    import inspect

    import torch
    from vllm.model_executor.layers.quantization import get_quantization_config

    ask = get_quantization_config(method).get_supported_act_dtypes
    # Of some it is a method of the class, of others of what has not been made; none looks at itself.
    needs_self = bool(inspect.signature(ask).parameters)
    dtypes = ask(None) if needs_self else ask()
    assert (torch.float32 in dtypes) == (method in FLOAT32)


def test_the_task_of_an_architecture_matches_vllm() -> None:
    from vllm.config.model import iter_architecture_defaults

    kinds = {"generate": "generate", "pooling": "embed"}
    wanted = [
        (suffix, "classify" if convert == "classify" else kinds[runner])
        for suffix, (runner, convert) in iter_architecture_defaults()
    ]
    assert list(KINDS) == wanted


def test_shared_memory_of_an_engine_matches_its_largest_queue() -> None:
    import inspect

    from vllm.distributed.device_communicators.shm_broadcast import MessageQueue

    defaults = inspect.signature(MessageQueue.__init__).parameters
    assert defaults["max_chunk_bytes"].default * defaults["max_chunks"].default == SHM_NEEDED


def test_fp8_and_bf16_capabilities_match_vllm() -> None:
    import vllm.platforms

    # Read and not loaded, which only works where there is a GPU.
    source = Path(vllm.platforms.__file__).with_name("cuda.py").read_text()
    functions = {
        node.name: ast.get_source_segment(source, node) or ""
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.FunctionDef)
    }

    def number(capability: tuple[int, int]) -> str:
        return f"has_device_capability({10 * capability[0] + capability[1]})"

    assert number(NATIVE_FP8) in functions["supports_fp8"]
    assert number(BF16) in functions["check_if_supports_dtype"]
