import pytest

from domain.memory_plan.parts import activation_bytes, graph_bytes, graph_sizes, reserve_bytes
from domain.units import GIB
from tests.unit.memory_plan.shapes import (
    EMBEDDER,
    GENERATOR,
    GPT_OSS_20B,
    LLAMA_8B,
    LLAMA_70B,
    QWEN_06B,
    QWEN_32B,
)


@pytest.mark.parametrize(
    ("shape", "gib"),
    [(QWEN_06B, 5.56), (LLAMA_8B, 4.76), (LLAMA_70B, 4.84), (QWEN_32B, 5.64), (GPT_OSS_20B, 7.38)],
)
def test_activations_match_measured_peaks(shape, gib):
    # On an H100 with vLLM's defaults: `parts.MEASUREMENTS`.
    peak = activation_bytes(shape, generates=True, batched_tokens=8192, sequences=1024, element_bytes=2)
    assert peak / GIB == pytest.approx(gib, rel=0.015)


@pytest.mark.parametrize(("shape", "gib"), [(QWEN_06B, 0.10), (GPT_OSS_20B, 0.39), (LLAMA_70B, 0.6)])
def test_estimates_of_graphs_are_at_least_the_measured_sizes(shape, gib):
    assert graph_bytes(shape, sequences=1024, eager=False) / GIB >= gib


def test_weights_match_published_sizes():
    assert GENERATOR.weight_bytes(2) / GIB == pytest.approx(8.79, abs=0.005)
    assert EMBEDDER.weight_bytes(2) / GIB == pytest.approx(1.11, abs=0.005)
    # Measured (parts.MEASUREMENTS), each in GiB.
    assert LLAMA_8B.weight_bytes(2) / GIB == pytest.approx(14.99, rel=0.02)
    assert QWEN_32B.weight_bytes(2) / GIB == pytest.approx(61.03, rel=0.02)


def test_only_plain_floats_depend_on_the_compute_type():
    assert GENERATOR.weight_bytes(4) - GENERATOR.weight_bytes(2) == 2 * GENERATOR.float_weights


def test_an_embedding_model_has_no_output_layer():
    less = GENERATOR.weight_bytes(2) - GENERATOR.weight_bytes(2, with_output_head=False)
    assert less == 2 * 151_936 * 4096


def test_an_embedding_model_needs_no_memory_for_sampling():
    sizes = {"batched_tokens": 2048, "sequences": 256, "element_bytes": 2}
    embed = activation_bytes(QWEN_06B, generates=False, **sizes)
    assert embed < activation_bytes(QWEN_06B, generates=True, **sizes) / 10


@pytest.mark.parametrize(("sequences", "count"), [(1, 2), (2, 3), (16, 7), (64, 19), (256, 51), (1024, 51)])
def test_the_number_of_captured_batch_sizes(sequences, count):
    # vLLM's list: 1, 2, 4, by 8 up to 256, by 16 up to 512, and none above twice the sequences.
    assert graph_sizes(sequences) == count


def test_eager_mode_needs_no_memory_for_graphs():
    assert graph_bytes(GENERATOR, sequences=256, eager=True) == 0


@pytest.mark.parametrize(("gib", "usable"), [(24, 23.53), (80, 79.18)])
def test_the_reserve_covers_the_drivers_memory(gib, usable):
    # As PyTorch reports for an RTX 4090 and an H100.
    assert gib * GIB - reserve_bytes(gib * GIB, on_gpu=True) < usable * GIB
