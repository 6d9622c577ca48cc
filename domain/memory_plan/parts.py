"""What an engine holds besides weights and cache."""

from domain.memory_plan.shapes import ModelShape
from domain.units import GIB, KIB, MIB

BUFFER = 150 * MIB
"""`vllm.v1.worker.gpu_worker`: redundancy_buffer_memory, for what profiling overlooks."""
CUDA_CONTEXT = 768 * MIB
"""The process's CUDA context and what CUDA's libraries take: 0.61 + 0.13 GiB on an H100 (MEASUREMENTS)."""
LOGIT_BYTES = 38
"""Bytes for each sequence and word of the vocabulary while the next tokens are drawn (MEASUREMENTS)."""
HIDDEN_COPIES = 2
"""Copies of all tokens' hidden states that are there meanwhile (MEASUREMENTS)."""
GRAPH_BYTES = 600 * KIB
"""For each layer and size of batch that is recorded as a CUDA graph: an upper bound of what was measured."""
LARGEST_GRAPH = 512
"""`vllm.config.vllm.VllmConfig._set_cudagraph_sizes`; twice that on Blackwell, for more than 256 sequences."""
CPU_PROCESSES = GIB
"""An engine's process on the CPU, Python and its libraries: 0.55 GiB measured with all-MiniLM-L6-v2, and 0.75 with
SmolLM2-135M-Instruct, whose output layer is packed a second time for its kernel."""

MEASUREMENTS = """llm-d/llm-d-benchmark, config_explorer/empirical-vllm-memory-results.md (commit 2593348): one
H100 with 79.18 GiB, 8,192 batched tokens and 1,024 sequences, which are vLLM's defaults there. Peak activations in
GiB: Qwen3-0.6B 5.56, Llama-3.1-8B 4.76, Llama-3.3-70B 4.84, Qwen3-32B 5.64, gpt-oss-20b 7.38. CUDA graphs: 0.10 to
1.03. Free at start 78.57, and 0.13 more outside of PyTorch. LOGIT_BYTES and HIDDEN_COPIES give all five peaks to
1.5 %; the vLLM that was measured is older than 0.32."""


def activation_bytes(
    shape: ModelShape, *, generates: bool, batched_tokens: int, sequences: int, element_bytes: int
) -> int:
    """The peak of what a step holds for a moment: the widest layer, or the choice of the next tokens.

    vLLM measures it by `profile_run` in `vllm.v1.worker.gpu_model_runner`: all tokens of a full batch through the
    layers, then one token for every sequence from the logits, or one vector from the pooler.
    """
    attention = 2 * shape.head_dim * (shape.heads + shape.kv_heads)
    # Gate and up together, and their product.
    dense = 3 * shape.intermediate
    experts = shape.experts_per_token * (3 * shape.expert_intermediate + shape.hidden)
    # The residual stream, what goes into the layer and what comes out.
    width = 3 * shape.hidden + max(attention, dense, experts)
    layers = batched_tokens * width * element_bytes
    if not generates:
        return layers + 2 * sequences * shape.hidden * 4
    hidden = HIDDEN_COPIES * batched_tokens * shape.hidden * element_bytes
    return max(layers, hidden + sequences * shape.vocabulary * LOGIT_BYTES)


def graph_sizes(sequences: int) -> int:
    """How many sizes of batch are recorded: `VllmConfig._set_cudagraph_sizes`."""
    largest = min(2 * sequences, LARGEST_GRAPH)
    sizes = {1, 2, 4, *range(8, 256, 8), *range(256, LARGEST_GRAPH + 1, 16)}
    return sum(size <= largest for size in sizes)


def graph_bytes(shape: ModelShape, *, sequences: int, eager: bool) -> int:
    """Memory of CUDA graphs, estimated; none where the engine runs without."""
    return 0 if eager else shape.layers * graph_sizes(sequences) * GRAPH_BYTES


def reserve_bytes(total: int, *, on_gpu: bool) -> int:
    """What no engine is given.

    On a card: 4 %, for what the driver keeps of it (a card of 24 GiB has 23.5 for programs, one of 80 has 79.2)
    and for gaps between allocations. In a machine's memory: the service itself and everybody else.
    """
    return max(512 * MIB, total // 25) if on_gpu else 512 * MIB
