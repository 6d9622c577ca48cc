"""Shape of a model: the dimensions that the planner needs."""

import msgspec


class ModelShape(msgspec.Struct, frozen=True, kw_only=True):
    """Dimensions from a model's `config.json` and from the headers of its weights."""

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
    """Default context length of an engine, in tokens."""
    dtype_bytes: int
    """Bytes per number of the model's own type."""
    float_weights: int
    """Number of weights that are stored as plain floats; an engine converts them to its compute type."""
    quantized_bytes: int = 0
    """Bytes of all other weights, kept as stored."""
    output_head_weights: int = 0
    """The part of `float_weights` that only generation needs: the output layer, if its weights are not tied."""
    longest_context: int | None = None
    """Longest context length that an engine can be configured for, if that is more than `max_context`."""
    quantization: str | None = None
    """Quantization method, such as fp8."""
    cache_dtype: str = "auto"
    """The cache type that the model was quantized for, as for vLLM's `--kv-cache-dtype`."""
    sliding_window: int | None = None
    """Size of the sliding window in tokens."""
    sliding_layers: int = 0
    """Number of layers with a sliding window."""
    latent_dim: int | None = None
    """With multi-head latent attention: numbers per token and layer, kv_lora_rank + qk_rope_head_dim."""
    is_encoder: bool = False
    """Whether it is an encoder-only model without a KV cache, such as BERT."""
    experts_per_token: int = 0
    expert_intermediate: int = 0

    @property
    def allowed_context(self) -> int:
        """Maximum context length of the model in tokens."""
        return self.longest_context or self.max_context

    def weight_bytes(self, element_bytes: int, *, with_output_head: bool = True) -> int:
        """Bytes of all weights.

        Args:
            element_bytes: size of the engine's compute type.
            with_output_head: whether the engine generates; vLLM drops the output layer of an embedding model
                (`vllm.model_executor.models.adapters.as_embedding_model`).
        """
        floats = self.float_weights - (0 if with_output_head else self.output_head_weights)
        return floats * element_bytes + self.quantized_bytes
