"""What a plan has to know of a model."""

import msgspec


class ModelShape(msgspec.Struct, frozen=True, kw_only=True):
    """Numbers from a model's `config.json` and from the headers of its weights."""

    name: str
    architecture: str
    layers: int
    hidden: int
    """Width of the residual stream."""
    intermediate: int
    """Width of the feed-forward part of a dense layer; 0 if all layers are mixtures of experts."""
    vocabulary: int
    heads: int
    kv_heads: int
    head_dim: int
    max_context: int
    """Tokens that an engine takes if no flag says how many."""
    dtype_bytes: int
    """Bytes of one number of the model's own type."""
    float_weights: int
    """Weights that are stored as plain floats: an engine holds them in the type that it computes in."""
    quantized_bytes: int = 0
    """Bytes of all other weights, held as they are stored."""
    output_head_weights: int = 0
    """Those of `float_weights` that only a generator needs: the output layer, where it is not the input's."""
    longest_context: int | None = None
    """Tokens that an engine can be set to take, where those are more than `max_context`."""
    quantization: str | None = None
    """Name of the method, such as fp8."""
    cache_dtype: str = "auto"
    """The cache that it was quantized for, as for vLLM's `--kv-cache-dtype`."""
    sliding_window: int | None = None
    """Tokens that the layers with a window look back on."""
    sliding_layers: int = 0
    """Layers that have the window."""
    latent_dim: int | None = None
    """With multi-head latent attention: numbers that a layer keeps of a token, kv_lora_rank + qk_rope_head_dim."""
    is_encoder: bool = False
    """Whether it reads whole texts at once and keeps nothing of them, as BERT does."""
    experts_per_token: int = 0
    expert_intermediate: int = 0

    @property
    def allowed_context(self) -> int:
        """Tokens of the longest request that the model can be asked for."""
        return self.longest_context or self.max_context

    def weight_bytes(self, element_bytes: int, *, with_output_head: bool = True) -> int:
        """Bytes of all weights.

        Args:
            element_bytes: size of the type that the engine computes in.
            with_output_head: whether the engine generates; vLLM drops the output layer of an embedder
                (`vllm.model_executor.models.adapters.as_embedding_model`).
        """
        floats = self.float_weights - (0 if with_output_head else self.output_head_weights)
        return floats * element_bytes + self.quantized_bytes
