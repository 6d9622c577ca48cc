"""Shapes of real models, from their published configurations."""

from typing import Any

import msgspec

from adapters.models.known_shapes import KNOWN_SHAPES
from domain.memory_plan import ModelShape

EMBEDDER = KNOWN_SHAPES["Qwen/Qwen3-Embedding-0.6B"]
GENERATOR = KNOWN_SHAPES["Qwen/Qwen3-8B-FP8"]

BF16: dict[str, Any] = {"architecture": "X", "dtype_bytes": 2}
LLAMA_8B = ModelShape(
    name="Llama-3.1-8B", layers=32, hidden=4096, intermediate=14336, vocabulary=128256, heads=32, kv_heads=8,
    head_dim=128, max_context=131072, float_weights=8_030_261_248, **BF16,
)  # fmt: skip
LLAMA_70B = ModelShape(
    name="Llama-3.3-70B", layers=80, hidden=8192, intermediate=28672, vocabulary=128256, heads=64, kv_heads=8,
    head_dim=128, max_context=131072, float_weights=70_553_706_496, **BF16,
)  # fmt: skip
QWEN_06B = ModelShape(
    name="Qwen3-0.6B", layers=28, hidden=1024, intermediate=3072, vocabulary=151936, heads=16, kv_heads=8,
    head_dim=128, max_context=40960, float_weights=596_049_920, **BF16,
)  # fmt: skip
QWEN_32B = ModelShape(
    name="Qwen3-32B", layers=64, hidden=5120, intermediate=25600, vocabulary=151936, heads=64, kv_heads=8,
    head_dim=128, max_context=40960, float_weights=32_762_123_264, **BF16,
)  # fmt: skip
GPT_OSS_20B = ModelShape(
    name="gpt-oss-20b", layers=24, hidden=2880, intermediate=0, vocabulary=201088, heads=64, kv_heads=8,
    head_dim=64, max_context=131072, float_weights=1_800_000_000, quantized_bytes=10_700_000_000,
    sliding_window=128, sliding_layers=12, experts_per_token=4, expert_intermediate=2880, **BF16,
)  # fmt: skip
DEEPSEEK_LITE = ModelShape(
    name="DeepSeek-V2-Lite", layers=27, hidden=2048, intermediate=10944, vocabulary=102400, heads=16, kv_heads=16,
    head_dim=192, max_context=163840, float_weights=15_706_484_224, latent_dim=576, experts_per_token=6,
    expert_intermediate=1408, **BF16,
)  # fmt: skip
GEMMA_27B = ModelShape(
    name="gemma-3-27b", layers=62, hidden=5376, intermediate=21504, vocabulary=262208, heads=32, kv_heads=16,
    head_dim=128, max_context=131072, float_weights=27_009_002_240, sliding_window=1024, sliding_layers=52, **BF16,
)  # fmt: skip
MINILM = ModelShape(
    name="all-MiniLM-L6-v2", architecture="BertModel", layers=6, hidden=384, intermediate=1536, vocabulary=30522,
    heads=12, kv_heads=12, head_dim=32, max_context=256, dtype_bytes=4, float_weights=22_565_376, is_encoder=True,
)  # fmt: skip


def changed(shape: ModelShape, **what: Any) -> ModelShape:
    return msgspec.structs.replace(shape, **what)
