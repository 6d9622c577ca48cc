import pytest

from domain.memory_plan.kv_cache import CacheShape, UnknownCacheError, cache_shape, token_layer_bytes
from domain.units import GIB, KIB
from tests.unit.memory_plan.shapes import (
    DEEPSEEK_LITE,
    EMBEDDER,
    GEMMA_27B,
    GENERATOR,
    GPT_OSS_20B,
    LLAMA_8B,
    MINILM,
    changed,
)


def on_gpu(shape, cache_dtype="auto") -> CacheShape:
    return cache_shape(shape, cache_dtype, 2, on_gpu=True)


@pytest.mark.parametrize(
    ("shape", "cache_dtype", "kib"),
    [
        # Grouped-query attention: keys and values of all layers and heads, with 128 numbers each.
        (GENERATOR, "auto", 144),
        (GENERATOR, "fp8", 72),
        (EMBEDDER, "auto", 112),
        (EMBEDDER, "fp8_e5m2", 56),
        (LLAMA_8B, "bfloat16", 128),
        (LLAMA_8B, "float32", 256),
        # A scale of four bytes per key and value of a head.
        (GENERATOR, "int8_per_token_head", 36 * 8 * 2 * (128 + 4) / KIB),
        (GENERATOR, "fp8_per_token_head", 36 * 8 * 2 * (128 + 4) / KIB),
        (GENERATOR, "int4_per_token_head", 36 * 8 * 2 * (64 + 4) / KIB),
        (GENERATOR, "nvfp4", 36 * 8 * 2 * (64 + 8) / KIB),
        # One latent vector of 512 + 64 numbers for all 16 heads.
        (DEEPSEEK_LITE, "auto", 27 * 576 * 2 / KIB),
        (DEEPSEEK_LITE, "fp8", 27 * 576 / KIB),
        (DEEPSEEK_LITE, "fp8_ds_mla", 27 * 656 / KIB),
        (MINILM, "auto", 0),
    ],
)
def test_the_cache_of_a_token(shape, cache_dtype, kib):
    assert on_gpu(shape, cache_dtype).bytes_per_token == kib * KIB


def test_auto_cache_dtype_is_the_compute_type():
    assert cache_shape(GENERATOR, "auto", 4, on_gpu=False).bytes_per_token == 288 * KIB


@pytest.mark.parametrize(
    ("shape", "context", "gib"),
    [(GENERATOR, 8192, 1.125), (GENERATOR, 32768, 4.5), (EMBEDDER, 8192, 0.875), (EMBEDDER, 32768, 3.5)],
)
def test_the_published_cache_sizes_of_the_default_models(shape, context, gib):
    cache = on_gpu(shape)
    assert cache.bytes_for(1, context, 2048) == gib * GIB + cache.block_bytes


@pytest.mark.parametrize(("requests", "context"), [(1, 1), (1, 16), (1, 17), (3, 100), (7, 4096)])
def test_a_cache_holds_exactly_the_planned_requests(requests, context):
    cache = on_gpu(GENERATOR)
    size = cache.bytes_for(requests, context, 2048)
    assert cache.requests_in(size, context, 2048) == requests
    assert cache.requests_in(size - 1, context, 2048) < requests


def test_the_first_block_is_never_allocated():
    cache = on_gpu(GENERATOR)
    assert cache.requests_in(cache.block_bytes, 16, 2048) == 0


def test_layers_with_a_window_keep_only_the_window():
    cache = on_gpu(changed(LLAMA_8B, sliding_window=4096, sliding_layers=32))
    # The window, two batches in progress, and a block because it may begin in the middle of one.
    kept = -(-(4095 + 2 * 2048) // 16) + 1
    assert (cache.full_groups, cache.window_groups) == (0, 1)
    assert cache.request_blocks(100_000, 2048) == kept
    assert cache.request_blocks(1000, 2048) == 63 + 1
    # A token attends to itself and 4,096 before it: 257 full blocks with two batches of 8.
    odd = on_gpu(changed(LLAMA_8B, sliding_window=4097, sliding_layers=32))
    assert odd.request_blocks(100_000, 8) == 257 + 1


def test_layers_of_two_kinds_form_groups_of_equal_size():
    # Five layers with a window to one without: groups of the smaller number, the last padded: six of ten for 52.
    cache = on_gpu(GEMMA_27B)
    assert (cache.full_groups, cache.window_groups) == (1, 6)
    assert cache.block_bytes == 10 * 16 * token_layer_bytes(GEMMA_27B, "auto", 2)
    assert cache.request_blocks(131072, 2048) == 8192 + 6 * (-(-(1023 + 4096) // 16) + 1)


def test_equally_many_layers_of_two_kinds_are_two_groups():
    cache = on_gpu(GPT_OSS_20B)
    assert (cache.full_groups, cache.window_groups) == (1, 1)
    # Almost as many: one group each, and the smaller one padded.
    cache = on_gpu(changed(GPT_OSS_20B, layers=25))
    assert (cache.full_groups, cache.window_groups) == (1, 1)
    assert cache.block_bytes == 13 * 16 * token_layer_bytes(GPT_OSS_20B, "auto", 2)


def test_a_window_saves_most_of_the_cache_of_a_long_request():
    plain = on_gpu(changed(GEMMA_27B, sliding_window=None, sliding_layers=0))
    assert on_gpu(GEMMA_27B).bytes_for(1, 131072, 2048) < plain.bytes_for(1, 131072, 2048) / 3


def test_an_unsupported_cache_type_is_named():
    with pytest.raises(UnknownCacheError, match=r"'turboquant_k8v4'.* fp8, "):
        on_gpu(GENERATOR, "turboquant_k8v4")
