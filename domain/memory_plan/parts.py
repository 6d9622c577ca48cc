"""Computes an engine's memory besides weights and KV cache."""

from domain.memory_plan.shapes import ModelShape
from domain.units import GIB, KIB, MIB

BUFFER = 150 * MIB
"""`vllm.v1.worker.gpu_worker`: redundancy_buffer_memory, for memory that profiling misses."""
CUDA_CONTEXT = 768 * MIB
"""The process's CUDA context and CUDA libraries: 0.61 + 0.13 GiB on an H100 (MEASUREMENTS)."""
LOGIT_BYTES = 38
"""Bytes per sequence and vocabulary entry during sampling (MEASUREMENTS)."""
HIDDEN_COPIES = 2
"""Copies of all tokens' hidden states during sampling (MEASUREMENTS)."""
GRAPH_BYTES = 600 * KIB
"""Upper bound of the measured memory per layer and batch size that is captured as a CUDA graph."""
LARGEST_GRAPH = 512
"""`vllm.config.vllm.VllmConfig._set_cudagraph_sizes`; twice that on Blackwell, for more than 256 sequences."""
CPU_PROCESSES = GIB
"""An engine's process on the CPU, with Python and libraries: 0.55 GiB measured with all-MiniLM-L6-v2, and 0.75
with SmolLM2-135M-Instruct, whose output layer is packed a second time for its kernel."""

MEASUREMENTS = """llm-d/llm-d-benchmark, config_explorer/empirical-vllm-memory-results.md (commit 2593348): one
H100 with 79.18 GiB, 8,192 batched tokens and 1,024 sequences, which are vLLM's defaults there. Peak activations in
GiB: Qwen3-0.6B 5.56, Llama-3.1-8B 4.76, Llama-3.3-70B 4.84, Qwen3-32B 5.64, gpt-oss-20b 7.38. CUDA graphs: 0.10 to
1.03. Free at start 78.57, and 0.13 more outside of PyTorch. LOGIT_BYTES and HIDDEN_COPIES give all five peaks to
1.5 %; the vLLM that was measured is older than 0.32."""


def activation_bytes(
    shape: ModelShape, *, generates: bool, batched_tokens: int, sequences: int, element_bytes: int
) -> int:
    """Peak activation memory of a step, in the widest layer or in sampling.

    vLLM measures it with `profile_run` in `vllm.v1.worker.gpu_model_runner`: it runs a full batch through the
    layers, then samples one token, or pools one vector, per sequence.
    """
    attention = 2 * shape.head_dim * (shape.heads + shape.kv_heads)
    # Gate and up projections, and their product.
    dense = 3 * shape.intermediate
    experts = shape.experts_per_token * (3 * shape.expert_intermediate + shape.hidden)
    # The residual stream, and the layer's input and output.
    width = 3 * shape.hidden + max(attention, dense, experts)
    layers = batched_tokens * width * element_bytes
    if not generates:
        return layers + 2 * sequences * shape.hidden * 4
    hidden = HIDDEN_COPIES * batched_tokens * shape.hidden * element_bytes
    return max(layers, hidden + sequences * shape.vocabulary * LOGIT_BYTES)


def graph_sizes(sequences: int) -> int:
    """Number of batch sizes that are captured: `VllmConfig._set_cudagraph_sizes`."""
    largest = min(2 * sequences, LARGEST_GRAPH)
    sizes = {1, 2, 4, *range(8, 256, 8), *range(256, LARGEST_GRAPH + 1, 16)}
    return sum(size <= largest for size in sizes)


def graph_bytes(shape: ModelShape, *, sequences: int, eager: bool) -> int:
    """Estimated memory of CUDA graphs; 0 in eager mode."""
    return 0 if eager else shape.layers * graph_sizes(sequences) * GRAPH_BYTES


def reserve_bytes(total: int, *, on_gpu: bool) -> int:
    """Memory that is not given to any engine.

    On a GPU: 4 %, for the driver (a card of 24 GiB has 23.5 GiB for programs, one of 80 GiB has 79.2 GiB) and for
    fragmentation. In system memory: for the service itself and other programs.
    """
    return max(512 * MIB, total // 25) if on_gpu else 512 * MIB
