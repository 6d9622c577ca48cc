"""The shapes of the two models for a GPU, so that a plan for them needs no model hub.

From their `config.json`; the weights follow from it: the sums of all matrices. keras-hub states the same number of
weights for the embedding model (pull request 2455: 595,776,512). Not compared with the files on the hub so far.
"""

from domain.memory_plan import ModelShape

# Query, key, value, output and the three matrices of the feed-forward part, in 36 layers, one byte a number.
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
            # The tokens' vectors and the output layer are not quantized, and each is a matrix of its own.
            float_weights=2 * _EMBEDDING_8B + _NORMS_8B,
            output_head_weights=_EMBEDDING_8B,
            # A scale of four bytes for each block of 128 by 128.
            quantized_bytes=_MATRICES_8B + 4 * _MATRICES_8B // (128 * 128),
            quantization="fp8",
            architecture="Qwen3ForCausalLM",
            kv_heads=8,
            head_dim=128,
            dtype_bytes=2,
        ),
    )
}
