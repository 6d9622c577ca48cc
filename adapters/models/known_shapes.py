"""Defines the shapes of the two default models for GPUs, so that planning them needs no model hub.

The shapes are from the models' `config.json`, and the numbers of weights are the sums of all matrices. keras-hub
reports the same number for the embedding model (pull request 2455: 595,776,512). Not yet compared with the files
on the hub.
"""

from domain.memory_plan import ModelShape

# Query, key, value, output and the three matrices of the feed-forward part, in 36 layers, one byte per weight.
_MATRICES_8B = 36 * (4096 * 128 * (32 + 8 + 8 + 32) + 3 * 4096 * 12288)
_EMBEDDING_8B = 151_936 * 4096
_NORMS_8B = 36 * (2 * 4096 + 2 * 128) + 4096

KNOWN_SHAPES = {
    shape.name: shape
    for shape in (
        ModelShape(
            name="Qwen/Qwen3-Embedding-0.6B",
            layers=28,
            hidden=1024,
            intermediate=3072,
            vocabulary=151_669,
            heads=16,
            max_context=32_768,
            float_weights=595_776_512,
            architecture="Qwen3ForCausalLM",
            kv_heads=8,
            head_dim=128,
            dtype_bytes=2,
        ),
        ModelShape(
            name="Qwen/Qwen3-8B-FP8",
            layers=36,
            hidden=4096,
            intermediate=12_288,
            vocabulary=151_936,
            heads=32,
            max_context=40_960,
            # The token embeddings and the output layer are separate matrices and are not quantized.
            float_weights=2 * _EMBEDDING_8B + _NORMS_8B,
            output_head_weights=_EMBEDDING_8B,
            # A scale of four bytes per block of 128 by 128.
            quantized_bytes=_MATRICES_8B + 4 * _MATRICES_8B // (128 * 128),
            quantization="fp8",
            architecture="Qwen3ForCausalLM",
            kv_heads=8,
            head_dim=128,
            dtype_bytes=2,
        ),
    )
}
