"""Computes the size of the KV cache, following `vllm.v1.kv_cache_interface` and `vllm.v1.core.kv_cache_utils`."""

import msgspec

from domain.memory_plan.shapes import ModelShape

GPU_BLOCK_TOKENS = 16
"""`vllm.config.cache.CacheConfig.DEFAULT_BLOCK_SIZE`."""
LATENT_BLOCK_TOKENS = 64
"""Required by the GPU kernels for latent attention."""
CPU_BLOCK_TOKENS = 128
"""`vllm.platforms.cpu.CpuPlatform.check_and_update_config`."""
STEPS_IN_FLIGHT = 2
"""Concurrently scheduled batches with async scheduling: `vllm.config.vllm.VllmConfig.max_concurrent_batches`."""
SCALE_BYTES = 4
"""Size of a scale in a cache with scales per token and head: `vllm.v1.attention.backends.triton_attn`."""

PLAIN = {"float32": 4, "bfloat16": 2, "float16": 2, "half": 2, "float": 4}
FP8 = ("fp8", "fp8_e4m3", "fp8_e5m2", "fp8_inc")
PACKED_LATENT = {"fp8_ds_mla": 656, "nvfp4_ds_mla": 352}
"""`vllm.model_executor.layers.attention.mla_attention`: bytes per token and layer, including scales."""


class UnknownCacheError(Exception):
    """The planner does not support the cache type, although an engine may; the message is a sentence."""


def token_layer_bytes(shape: ModelShape, cache_dtype: str, element_bytes: int) -> int:
    """Bytes per token in one layer: `AttentionSpec.page_size_bytes` for a block of one token.

    Args:
        shape: the model.
        cache_dtype: as for vLLM's `--kv-cache-dtype`.
        element_bytes: size of the engine's compute type, which "auto" selects.

    Raises:
        UnknownCacheError: the planner does not support this cache type.
    """
    if shape.is_encoder:
        # No `KVCacheSpec` at all: `vllm.model_executor.layers.attention.attention`, ENCODER_ONLY.
        return 0
    if shape.latent_dim is not None:
        if cache_dtype in PACKED_LATENT:
            return PACKED_LATENT[cache_dtype]
        # One latent vector for all heads, and no separate values (`MLAAttentionSpec`, head_size_v = 0).
        return _side_bytes(shape.latent_dim, cache_dtype, element_bytes, latent=True)
    return 2 * shape.kv_heads * _side_bytes(shape.head_dim, cache_dtype, element_bytes)


def _side_bytes(width: int, cache_dtype: str, element_bytes: int, *, latent: bool = False) -> int:
    """Bytes of the key, or of the value, of one token in one head."""
    scales = SCALE_BYTES * (2 if latent else 1)
    sizes = {
        "auto": width * element_bytes,
        **{name: width * size for name, size in PLAIN.items()},
        **dict.fromkeys(FP8, width),
        "fp8_per_token_head": width + scales,
        "int8_per_token_head": width + scales,
        "int4_per_token_head": width // 2 + scales,
        # `vllm.utils.torch_utils.nvfp4_kv_cache_full_dim`: two numbers per byte, and one scale per 16 numbers.
        "nvfp4": width // 2 + width // 16,
        "nvfp4_4over6": width // 2 + width // 16,
    }
    if cache_dtype not in sizes:
        raise UnknownCacheError(
            f"The memory plan does not support the KV cache type '{cache_dtype}'. Supported: {', '.join(sizes)}, "
            f"and for latent attention {', '.join(PACKED_LATENT)}."
        )
    return sizes[cache_dtype]


class CacheShape(msgspec.Struct, frozen=True, kw_only=True):
    """Block layout of one engine's cache."""

    block_tokens: int
    block_bytes: int
    """Size of one block in all layers that share it."""
    full_groups: int
    """Groups of layers with full attention; each allocates its own blocks."""
    window_groups: int
    """Groups of layers with a sliding window."""
    window: int = 0

    @property
    def bytes_per_token(self) -> int:
        """Bytes of a token while all layers keep it."""
        return self.block_bytes * (self.full_groups + self.window_groups) // self.block_tokens

    def request_blocks(self, context: int, batched_tokens: int) -> int:
        """Blocks of one request of the given length: `max_memory_usage_bytes` of the groups, in blocks.

        With a window: `SlidingWindowSpec.max_admission_blocks_per_request`.
        """
        full = _ceil(context, self.block_tokens)
        kept = min(self.window - 1 + STEPS_IN_FLIGHT * batched_tokens, context)
        return self.full_groups * full + self.window_groups * (_ceil(kept, self.block_tokens) + 1)

    def bytes_for(self, requests: int, context: int, batched_tokens: int) -> int:
        """Bytes of a cache for this number of requests of a length, plus the block that vLLM never allocates."""
        if not self.block_bytes:
            return 0
        return (requests * self.request_blocks(context, batched_tokens) + 1) * self.block_bytes

    def requests_in(self, cache_bytes: int, context: int, batched_tokens: int) -> int:
        """Concurrent requests of a length that fit: `get_max_concurrency_for_kv_cache_config`."""
        if not self.block_bytes:
            return 0
        return max(0, cache_bytes // self.block_bytes - 1) // self.request_blocks(context, batched_tokens)


def cache_shape(shape: ModelShape, cache_dtype: str, element_bytes: int, *, on_gpu: bool) -> CacheShape:
    """The block layout of a model's cache.

    Source: `_get_kv_cache_groups_uniform_page_size` in `vllm.v1.core.kv_cache_utils`.

    Layers with and without a window form groups of equal size, and the last group of each kind may be padded.
    """
    full, sliding = shape.layers - shape.sliding_layers, shape.sliding_layers
    group = max(full, sliding)
    if full and sliding and group >= 1.5 * min(full, sliding):
        group = min(full, sliding)
    if on_gpu:
        tokens = GPU_BLOCK_TOKENS if shape.latent_dim is None else LATENT_BLOCK_TOKENS
    else:
        tokens = CPU_BLOCK_TOKENS if shape.latent_dim is None else GPU_BLOCK_TOKENS
    return CacheShape(
        block_tokens=tokens,
        block_bytes=group * tokens * token_layer_bytes(shape, cache_dtype, element_bytes),
        full_groups=_ceil(full, group),
        window_groups=_ceil(sliding, group),
        window=shape.sliding_window or 0,
    )


def _ceil(amount: int, size: int) -> int:
    return -(-amount // size)
