"""Reads the shape of a model from its `config.json` and the headers of its weight files."""

from pathlib import Path
from typing import Any

import msgspec

from adapters.models.known_shapes import KNOWN_SHAPES
from adapters.models.locate import HUB_TIMEOUT_S
from adapters.models.weights import Tensor, local_tensors
from domain.memory_plan import ModelShape

ENCODERS = {
    "bert", "camembert", "distilbert", "electra", "modernbert", "mpnet", "new", "nomic_bert", "roberta",
    "xlm-roberta",
}  # fmt: skip
# Files in which sentence-transformers stores the maximum input length, in the order in which
# `vllm.transformers_utils.config.get_sentence_transformer_tokenizer_config` reads them.
SENTENCE_TRANSFORMERS_FILES = tuple(
    f"sentence_{kind}_config.json"
    for kind in ("bert", "roberta", "distilbert", "camembert", "albert", "xlm-roberta", "xlnet")
)
TOKENIZER_FILE = "tokenizer_config.json"
# Models whose positions start after the padding token, so that two positions are unused.
PADDED_POSITIONS = {"roberta", "xlm-roberta", "camembert"}
# One of this many layers has no window; for models whose configuration may not list the layers.
WINDOW_PATTERNS = {"gemma2": 2, "gemma3_text": 6, "cohere2": 4}
# Models whose window applies only if `use_sliding_window` is set.
OPTIONAL_WINDOWS = ("qwen2", "qwen3")
# Keys of models that cache something other than keys and values, or have parts that the planner does not support.
UNSUPPORTED = {
    "vision_config": "images",
    "audio_config": "sound",
    "is_encoder_decoder": "an encoder and a decoder",
    "mamba_d_state": "state-space layers",
    "ssm_cfg": "state-space layers",
    "layers_block_type": "layers of several kinds",
    "hybrid_override_pattern": "layers of several kinds",
    "linear_attn_config": "linear attention",
    "attention_chunk_size": "chunked attention",
    "num_kv_shared_layers": "layers that share a cache",
    "index_topk": "sparse attention",
}
KNOWN_LAYERS = {"full_attention", "sliding_attention"}
FLOAT_DTYPES = {"F64", "F32", "F16", "BF16"}
SCALE_SUFFIXES = ("_scale", "_scale_inv", "scales", "zeros", "_scale_2")
DTYPE_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}


class UnknownShapeError(Exception):
    """The shape of a model can't be read, or the planner does not support it; the message is a sentence."""


def read_shape(name: str, source: str) -> ModelShape:
    """The shape of a model.

    Args:
        name: the model's name, for messages.
        source: local folder or hub name.

    Raises:
        UnknownShapeError: it can't be read, or the planner does not support it.
    """
    folder = Path(source)
    if not folder.is_dir():
        if source in KNOWN_SHAPES:
            return KNOWN_SHAPES[source]
        return _from_hub(name, source)
    return _shape_in(folder, name, local_tensors(folder))


def _from_hub(name: str, source: str) -> ModelShape:
    try:
        from huggingface_hub import HfApi, hf_hub_download
    except ImportError as error:
        raise UnknownShapeError(
            f"'{source}' is a hub name, but this installation (gateway) has no access to the hub."
        ) from error
    try:
        config = Path(hf_hub_download(source, "config.json", etag_timeout=HUB_TIMEOUT_S))
        tensors = local_tensors(config.parent)
        if not tensors:
            # Not downloaded yet: get only the headers from the hub, and the files that limit the context.
            info = HfApi().model_info(source, timeout=HUB_TIMEOUT_S)
            for file in {*SENTENCE_TRANSFORMERS_FILES, TOKENIZER_FILE} & {
                each.rfilename for each in info.siblings or []
            }:
                hf_hub_download(source, file, etag_timeout=HUB_TIMEOUT_S)
            found = HfApi().get_safetensors_metadata(source, timeout=HUB_TIMEOUT_S)
            tensors = [
                Tensor(
                    name=tensor,
                    dtype=facts.dtype,
                    numbers=facts.parameter_count,
                    bytes=facts.data_offsets[1] - facts.data_offsets[0],
                )
                for part in found.files_metadata.values()
                for tensor, facts in part.tensors.items()
            ]
    except Exception as error:
        # The hub's library raises many kinds of errors, about names, permissions, the network and files.
        raise UnknownShapeError(
            f"The shape of '{source}' could not be read from the hub or its cache on this machine "
            f"({_first_line(error)}). Connect the machine to the network, or use a local folder."
        ) from error
    return _shape_in(config.parent, name, tensors)


def _shape_in(folder: Path, name: str, tensors: list[Tensor]) -> ModelShape:
    """The shape described by the configuration files in a folder."""
    config = _json(folder / "config.json")
    return shape_of(
        name, config, tensors, longest_input=_longest_input(folder), tokenizer_limit=_tokenizer_limit(folder)
    )


def shape_of(
    name: str,
    config: dict[str, Any],
    tensors: list[Tensor],
    *,
    longest_input: int | None = None,
    tokenizer_limit: int | None = None,
) -> ModelShape:
    """The shape described by a configuration and a list of weights.

    Args:
        name: the model's name.
        config: the content of `config.json`.
        tensors: all weights.
        longest_input: the maximum input length of sentence-transformers, if any.
        tokenizer_limit: the maximum length in the tokenizer's configuration, if any.

    Raises:
        UnknownShapeError: required values are missing, or the planner does not support the model.
    """
    config = {**config, **config.get("text_config", {})} if "text_config" in config else config
    unsupported = next((what for key, what in UNSUPPORTED.items() if config.get(key)), None)
    kinds = set(config.get("layer_types") or []) - KNOWN_LAYERS
    if unsupported or kinds:
        raise UnknownShapeError(
            f"'{name}' has {unsupported or ', '.join(sorted(kinds))}, which the planner does not support yet."
        )
    if not tensors:
        raise UnknownShapeError(f"'{name}' has no weights in readable safetensors files.")
    try:
        return _shape(name, config, tensors, longest_input, tokenizer_limit)
    except (KeyError, TypeError, ValueError, ZeroDivisionError, msgspec.ValidationError) as error:
        raise UnknownShapeError(
            f"The config.json of '{name}' does not describe its size in a known format ({error!r})."
        ) from error


def _shape(
    name: str,
    config: dict[str, Any],
    tensors: list[Tensor],
    longest_input: int | None,
    tokenizer_limit: int | None,
) -> ModelShape:
    hidden, heads = int(config["hidden_size"]), int(config["num_attention_heads"])
    layers = int(config["num_hidden_layers"])
    rope_dim = int(config.get("qk_rope_head_dim") or 0)
    latent = int(config["kv_lora_rank"]) + rope_dim if config.get("kv_lora_rank") else None
    key_dim = int(config.get("qk_nope_head_dim") or 0) + rope_dim
    is_encoder = config.get("model_type") in ENCODERS or config.get("is_causal") is False
    is_tied = bool(config.get("tie_word_embeddings", False))
    floats, others, head = _classify_weights(tensors, is_tied=is_tied, is_encoder=is_encoder)
    if latent and any("kv_b_proj" in tensor.name and tensor.dtype not in FLOAT_DTYPES for tensor in tensors):
        # `vllm.model_executor.layers.attention.mla_attention` also keeps two parts of it as floats.
        floats += layers * heads * (latent - rope_dim) * (key_dim - rope_dim + int(config["v_head_dim"]))
    window = _window(config)
    default, longest = (
        (longest_input, longest_input) if longest_input else _context_lengths(config, tokenizer_limit)
    )
    return ModelShape(
        name=name,
        architecture=str((config.get("architectures") or [config.get("model_type", "unknown")])[0]),
        layers=layers,
        hidden=hidden,
        intermediate=int(config.get("intermediate_size") or 0),
        vocabulary=int(config["vocab_size"]),
        heads=heads,
        kv_heads=int(config.get("num_key_value_heads") or heads),
        head_dim=(key_dim if latent else 0) or int(config.get("head_dim") or hidden // heads),
        max_context=default,
        longest_context=longest,
        dtype_bytes=_dtype_bytes(config, tensors),
        float_weights=floats,
        quantized_bytes=others,
        output_head_weights=head,
        quantization=(config.get("quantization_config") or {}).get("quant_method"),
        cache_dtype=_cache_dtype(config.get("quantization_config") or {}),
        sliding_window=window,
        sliding_layers=_sliding_layers(config, layers) if window else 0,
        latent_dim=latent,
        is_encoder=is_encoder,
        experts_per_token=int(config.get("num_experts_per_tok") or 0),
        expert_intermediate=int(config.get("moe_intermediate_size") or config.get("intermediate_size") or 0)
        if config.get("num_experts_per_tok")
        else 0,
    )


def _classify_weights(tensors: list[Tensor], *, is_tied: bool, is_encoder: bool) -> tuple[int, int, int]:
    """Count of float weights, bytes of weights kept as stored, and count of separate output layer weights."""
    floats = others = head = 0
    for tensor in tensors:
        is_head = tensor.name.endswith("lm_head.weight")
        if (is_head and is_tied) or (is_encoder and "pooler." in tensor.name):
            # Not loaded: a second copy, or for another task.
            continue
        if tensor.dtype in FLOAT_DTYPES and not tensor.name.endswith(SCALE_SUFFIXES):
            floats += tensor.numbers
            head += tensor.numbers if is_head else 0
        else:
            others += tensor.bytes
    return floats, others, head


def _window(config: dict[str, Any]) -> int | None:
    if not config.get("use_sliding_window", not str(config.get("model_type")).startswith(OPTIONAL_WINDOWS)):
        return None
    return int(config["sliding_window"]) if config.get("sliding_window") else None


def _sliding_layers(config: dict[str, Any], layers: int) -> int:
    if config.get("layer_types"):
        return sum(kind == "sliding_attention" for kind in config["layer_types"])
    if config.get("max_window_layers") is not None and config.get("use_sliding_window"):
        return max(0, layers - int(config["max_window_layers"]))
    pattern = config.get("sliding_window_pattern") or WINDOW_PATTERNS.get(str(config.get("model_type")))
    return layers - layers // int(pattern) if pattern else layers


def _context_lengths(config: dict[str, Any], tokenizer_limit: int | None) -> tuple[int, int]:
    """The default and the longest allowed context, as in `vllm.config.model._get_and_verify_max_len`."""
    # Cohere's models state their context length in `model_max_length`.
    longest = int(config.get("model_max_length") or config["max_position_embeddings"])
    if tokenizer_limit and config.get("position_embedding_type") == "absolute":
        longest = min(longest, tokenizer_limit)
    rope = config.get("rope_parameters") or config.get("rope_scaling") or {}
    kind = rope.get("rope_type") or rope.get("type")
    # Gemma 3's value is already scaled.
    if kind in ("linear", "dynamic") and "gemma3" not in str(config.get("model_type")):
        longest = int(longest * float(rope.get("factor") or 1))
    default = longest
    if kind in ("longrope", "su"):
        default = int(config.get("original_max_position_embeddings") or longest)
    elif config.get("model_type") in PADDED_POSITIONS:
        # vLLM would accept two more tokens, for which there are no positions.
        default = min(longest, int(config["max_position_embeddings"]) - 2)
    return default, longest


def _cache_dtype(quantization: dict[str, Any]) -> str:
    """The dtype to which `vllm.utils.torch_utils.resolve_kv_cache_dtype_string` resolves "auto"."""
    if not str(quantization.get("quant_method")).startswith("modelopt"):
        return "auto"
    places = (quantization.get("quantization", quantization), quantization)
    keys = ("kv_cache_scheme", "kv_cache_quant_algo")
    value = next(filter(None, (place.get(key) for key in keys for place in places)), None)
    if isinstance(value, dict):
        kind = (value.get("type"), value.get("num_bits"))
        is_fixed = value.get("dynamic") is False
        value = "nvfp4" if kind == ("float", 4) else "fp8" if kind == ("float", 8) and is_fixed else None
    return {"fp8": "fp8_e4m3", "nvfp4": "nvfp4"}.get(str(value).lower(), "auto")


def _dtype_bytes(config: dict[str, Any], tensors: list[Tensor]) -> int:
    named = DTYPE_BYTES.get(str(config.get("dtype") or config.get("torch_dtype")).removeprefix("torch."))
    return named or (4 if all(tensor.dtype == "F32" for tensor in tensors) else 2)


def _longest_input(folder: Path) -> int | None:
    """See `vllm.transformers_utils.config.get_sentence_transformer_tokenizer_config`."""
    found = (_json(folder / name) for name in SENTENCE_TRANSFORMERS_FILES if (folder / name).is_file())
    longest = next(filter(None, found), {}).get("max_seq_length")
    return int(longest) if longest else None


def _tokenizer_limit(folder: Path) -> int | None:
    file = folder / TOKENIZER_FILE
    longest = _json(file).get("model_max_length") if file.is_file() else None
    return int(longest) if longest else None


def _json(file: Path) -> dict[str, Any]:
    try:
        return msgspec.json.decode(file.read_bytes(), type=dict[str, Any])
    except (OSError, msgspec.MsgspecError) as error:
        raise UnknownShapeError(f"{file} can't be read: {_first_line(error)}.") from error


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
