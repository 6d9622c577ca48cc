"""The Qwen3 pair in its real shapes and without its weights: to measure memory on machines without a hub.

The folders hold real configurations, and files of weights whose headers name every tensor and whose data are holes
that take no room on the disk. `--load-format dummy` makes vLLM fill the tensors with small random numbers.

Source: config.json of Qwen/Qwen3-8B-FP8 and Qwen/Qwen3-Embedding-0.6B. Tests hold the numbers of parameters
against published ones.
"""

import json
import shutil
from collections.abc import Iterator
from math import prod
from pathlib import Path
from typing import Any

from app.commands.bench.tiny_models import make_tiny_models
from domain.roles import Role

NAMES = {Role.EMBED: "Qwen3-Embedding-0.6B", Role.GENERATE: "Qwen3-8B-FP8"}
SMALL = {Role.GENERATE: "Qwen3-0.6B"}
_COMMON = {
    "architectures": ["Qwen3ForCausalLM"],
    "model_type": "qwen3",
    "attention_bias": False,
    "attention_dropout": 0.0,
    "bos_token_id": 0,
    "eos_token_id": 0,
    "hidden_act": "silu",
    "head_dim": 128,
    "num_key_value_heads": 8,
    "rms_norm_eps": 1e-06,
    "rope_scaling": None,
    "rope_theta": 1000000,
    "sliding_window": None,
    "torch_dtype": "bfloat16",
    # Without it transformers takes a large vocabulary of unknown age for one of Mistral's, and warns.
    "transformers_version": "5.0.0",
    "use_cache": True,
}
CONFIGS: dict[Role, dict[str, Any]] = {
    Role.EMBED: _COMMON
    | {
        "hidden_size": 1024,
        "intermediate_size": 3072,
        "max_position_embeddings": 32768,
        "num_attention_heads": 16,
        "num_hidden_layers": 28,
        "tie_word_embeddings": True,
        "vocab_size": 151669,
    },
    Role.GENERATE: _COMMON
    | {
        "hidden_size": 4096,
        "intermediate_size": 12288,
        "max_position_embeddings": 40960,
        "num_attention_heads": 32,
        "num_hidden_layers": 36,
        "quantization_config": {
            "activation_scheme": "dynamic",
            "fmt": "e4m3",
            "quant_method": "fp8",
            "weight_block_size": [128, 128],
        },
        "tie_word_embeddings": False,
        "vocab_size": 151936,
    },
}
BYTES = {"BF16": 2, "F8_E4M3": 1}
Tensor = tuple[str, str, list[int]]
"""Name, number format and shape, as in the header of a safetensors file."""


def make_real_shapes(folder: Path, *, small: bool = False) -> dict[Role, Path]:
    """Folders of the pair. Needs vLLM's libraries, and a few seconds.

    Args:
        folder: for the models.
        small: whether the generator has the shape of the embedding model, under a name of its own.
    """
    tiny = make_tiny_models(folder / "tokenizer")["tiny-gen"]
    names, configs = (NAMES | SMALL, dict.fromkeys(NAMES, CONFIGS[Role.EMBED])) if small else (NAMES, CONFIGS)
    return {role: _make(folder / names[role], configs[role], tiny) for role in names}


def tensors(config: dict[str, Any]) -> Iterator[Tensor]:
    """Every tensor of a Qwen3 model."""
    hidden, ffn, head = config["hidden_size"], config["intermediate_size"], config["head_dim"]
    queries, keys = config["num_attention_heads"] * head, config["num_key_value_heads"] * head
    yield "model.embed_tokens.weight", "BF16", [config["vocab_size"], hidden]
    for layer in range(config["num_hidden_layers"]):
        at = f"model.layers.{layer}"
        for name in ("input_layernorm", "post_attention_layernorm"):
            yield f"{at}.{name}.weight", "BF16", [hidden]
        for name in ("q_norm", "k_norm"):
            yield f"{at}.self_attn.{name}.weight", "BF16", [head]
        for name, shape in (
            ("self_attn.q_proj", [queries, hidden]),
            ("self_attn.k_proj", [keys, hidden]),
            ("self_attn.v_proj", [keys, hidden]),
            ("self_attn.o_proj", [hidden, queries]),
            ("mlp.gate_proj", [ffn, hidden]),
            ("mlp.up_proj", [ffn, hidden]),
            ("mlp.down_proj", [hidden, ffn]),
        ):
            yield from _linear(f"{at}.{name}", shape, config.get("quantization_config"))
    yield "model.norm.weight", "BF16", [hidden]
    if not config["tie_word_embeddings"]:
        yield "lm_head.weight", "BF16", [config["vocab_size"], hidden]


def _linear(name: str, shape: list[int], quantisation: dict[str, Any] | None) -> Iterator[Tensor]:
    """A matrix, and, where it is stored in FP8, the scales of its blocks."""
    if quantisation is None:
        yield f"{name}.weight", "BF16", shape
        return
    yield f"{name}.weight", "F8_E4M3", shape
    blocks = [-(-length // block) for length, block in zip(shape, quantisation["weight_block_size"], strict=True)]
    yield f"{name}.weight_scale_inv", "BF16", blocks


def _make(folder: Path, config: dict[str, Any], tiny: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config, indent=2))
    _write_holes(folder / "model.safetensors", list(tensors(config)))
    for file in tiny.iterdir():
        if file.name.startswith(("tokenizer_", "special_", "chat_template")):
            shutil.copyfile(file, folder / file.name)
    _set_length(folder / "tokenizer_config.json", config["max_position_embeddings"])
    _pad(tiny / "tokenizer.json", folder / "tokenizer.json", config["vocab_size"])
    return folder


def _write_holes(path: Path, wanted: list[Tensor]) -> None:
    """A safetensors file whose data have never been written. Format: huggingface.co/docs/safetensors."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, form, shape in wanted:
        begin, end = end, end + prod(shape) * BYTES[form]
        header[name] = {"dtype": form, "shape": shape, "data_offsets": [begin, end]}
    text = json.dumps(header).encode()
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.truncate(8 + len(text) + end)


def _set_length(path: Path, length: int) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | {"model_max_length": length}))


def _pad(source: Path, target: Path, size: int) -> None:
    """A tokenizer with words for all ids that the model may come up with, though no text leads to them."""
    tokenizer = json.loads(source.read_text())
    words = tokenizer["model"]["vocab"]
    # What is added stands behind the vocabulary, wherever that ends, unless it stands in it.
    words |= {added["content"]: added["id"] for added in tokenizer["added_tokens"]}
    words |= {f"<|unused-{number}|>": number for number in range(max(words.values()) + 1, size)}
    target.write_text(json.dumps(tokenizer))
