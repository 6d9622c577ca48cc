"""Model shapes, from published configurations and generated safetensors files."""

import json
import shutil
import struct
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from adapters.models.known_shapes import KNOWN_SHAPES
from adapters.models.shape import UnknownShapeError, read_shape, shape_of
from adapters.models.weights import Tensor, local_tensors

QWEN3 = {
    "architectures": ["Qwen3ForCausalLM"], "model_type": "qwen3", "hidden_size": 1024, "intermediate_size": 3072,
    "num_hidden_layers": 28, "num_attention_heads": 16, "num_key_value_heads": 8, "head_dim": 128,
    "vocab_size": 151936, "max_position_embeddings": 40960, "torch_dtype": "bfloat16", "tie_word_embeddings": True,
    "sliding_window": None, "use_sliding_window": False,
}  # fmt: skip
BERT = {
    "architectures": ["BertModel"], "model_type": "bert", "hidden_size": 384, "intermediate_size": 1536,
    "num_hidden_layers": 6, "num_attention_heads": 12, "vocab_size": 30522, "max_position_embeddings": 512,
}  # fmt: skip
WEIGHTS = [Tensor(name="model.embed_tokens.weight", dtype="BF16", numbers=1000, bytes=2000)]


def shape(config: dict[str, Any], tensors: list[Tensor] = WEIGHTS, **what: Any):
    return shape_of("a model", {**config, **what}, tensors)


@pytest.fixture
def hub(monkeypatch, tmp_path) -> Path:
    """A hub with one model, whose files are in the folder "there" and are downloaded to "here"."""
    there, here = tmp_path / "there", tmp_path / "here"
    there.mkdir()
    here.mkdir()
    (there / "config.json").write_text(json.dumps(QWEN3))

    def download(_name: str, file: str, **_options: Any) -> str:
        return str(shutil.copy(there / file, here / file))

    class Api:
        def model_info(self, _name: str, **_options: Any):
            return SimpleNamespace(siblings=[SimpleNamespace(rfilename=file.name) for file in there.iterdir()])

        def get_safetensors_metadata(self, _name: str, **_options: Any):
            tensor = SimpleNamespace(dtype="BF16", parameter_count=100, data_offsets=(0, 200))
            return SimpleNamespace(files_metadata={"model": SimpleNamespace(tensors={"x.weight": tensor})})

    monkeypatch.setattr("huggingface_hub.hf_hub_download", download)
    monkeypatch.setattr("huggingface_hub.HfApi", Api)
    return there


@pytest.mark.parametrize("kind", ["bert", "roberta", "xlm-roberta"])
def test_the_input_limit_of_a_hub_model_is_read(hub, kind):
    (hub / f"sentence_{kind}_config.json").write_text('{"max_seq_length": 384}')
    found = read_shape("org/model", "org/model")
    assert (found.max_context, found.float_weights) == (384, 100)


def test_a_hub_model_without_an_input_limit(hub):
    assert read_shape("org/model", "org/model").max_context == 40960


def write(file: Path, tensors: dict[str, tuple[str, list[int], int]]) -> None:
    """Write a safetensors file, from names to type, shape and size."""
    header, place = {"__metadata__": {"format": "pt"}}, 0
    for name, (dtype, dimensions, size) in tensors.items():
        header[name] = {"dtype": dtype, "shape": dimensions, "data_offsets": [place, place + size]}
        place += size
    written = json.dumps(header).encode()
    start = struct.pack("<Q", len(written)) + written
    with file.open("wb") as out:
        out.write(start)
        # A sparse file: some tests write files of 100 MB.
        out.truncate(len(start) + place)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "config.json").write_text(json.dumps(QWEN3))
    write(tmp_path / "model.safetensors", {"a.weight": ("BF16", [4, 8], 64), "b.weight": ("F8_E4M3", [10], 10)})
    return tmp_path


def test_a_folder(folder):
    found = read_shape("mine", str(folder))
    assert (found.name, found.layers, found.kv_heads, found.head_dim) == ("mine", 28, 8, 128)
    assert (found.float_weights, found.quantized_bytes, found.dtype_bytes) == (32, 10, 2)


def test_weights_in_several_files_are_found_by_the_index(folder):
    (folder / "model.safetensors").unlink()
    write(folder / "model-1-of-2.safetensors", {"a.weight": ("BF16", [3], 6)})
    write(folder / "model-2-of-2.safetensors", {"b.weight": ("F16", [5], 10)})
    write(folder / "model-old.safetensors", {"c.weight": ("F16", [7], 14)})
    index = {"weight_map": {"a.weight": "model-1-of-2.safetensors", "b.weight": "model-2-of-2.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    assert read_shape("mine", str(folder)).float_weights == 8


@pytest.mark.parametrize(
    "content",
    [b"", b"\x02", struct.pack("<Q", 10**12), struct.pack("<Q", 4) + b"nope", struct.pack("<Q", 2) + b"[]",
     struct.pack("<Q", 9) + b'{"a": {}}'],
)  # fmt: skip
def test_an_invalid_weight_file_is_reported(folder, content):
    (folder / "model.safetensors").write_bytes(content)
    with pytest.raises(UnknownShapeError, match="'mine' has no weights"):
        read_shape("mine", str(folder))


def test_an_incomplete_download_has_no_weights(folder):
    (folder / "model.safetensors").unlink()
    for number in (1, 2):
        assert local_tensors(folder) == []
        write(folder / f"model-0000{number}-of-00002.safetensors", {"a.weight": ("BF16", [3], 6)})
    assert len(local_tensors(folder)) == 2


def test_mistrals_consolidated_files_are_read(folder):
    (folder / "model.safetensors").rename(folder / "consolidated.safetensors")
    # None of the files in this index exists.
    (folder / "model.safetensors.index.json").write_text('{"weight_map": {"a": "model-1-of-1.safetensors"}}')
    assert len(local_tensors(folder)) == 2


def test_missing_files_of_the_index_are_noticed(folder):
    (folder / "model.safetensors.index.json").write_text('{"weight_map": {"a": "gone.safetensors"}}')
    assert local_tensors(folder) == []


@pytest.mark.parametrize("content", ["", "[]", "{"])
def test_an_invalid_configuration_is_reported(folder, content):
    (folder / "config.json").write_text(content)
    with pytest.raises(UnknownShapeError, match=r"config\.json can't be read"):
        read_shape("mine", str(folder))


def test_the_limit_of_sentence_transformers_counts(folder):
    (folder / "sentence_xlnet_config.json").write_text('{"max_seq_length": 128}')
    assert read_shape("mine", str(folder)).max_context == 128
    # The first file with a limit wins.
    (folder / "sentence_bert_config.json").write_text('{"max_seq_length": 256}')
    assert read_shape("mine", str(folder)).max_context == 256
    assert read_shape("mine", str(folder)).allowed_context == 256


def test_a_tokenizers_limit_counts_for_absolute_positions(folder):
    (folder / "tokenizer_config.json").write_text('{"model_max_length": 300}')
    assert read_shape("mine", str(folder)).max_context == 40960
    (folder / "config.json").write_text(json.dumps({**BERT, "position_embedding_type": "absolute"}))
    assert read_shape("mine", str(folder)).max_context == 300
    (folder / "tokenizer_config.json").write_text('{"model_max_length": 1000000000000000019884624838656}')
    assert read_shape("mine", str(folder)).max_context == 512


def test_the_default_models_need_no_hub():
    for name, known in KNOWN_SHAPES.items():
        assert read_shape(name, name) is known


def test_an_unreachable_hub_is_reported_in_one_sentence(monkeypatch, tmp_path):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(UnknownShapeError) as caught:
        read_shape("org/model", "org/model")
    said = str(caught.value)
    assert said.startswith("The shape of 'org/model' could not be read from the hub or its cache on this machine")
    assert said.endswith("Connect the machine to the network, or use a local folder.")
    assert "\n" not in said


def test_a_tied_output_layer_is_not_counted_twice():
    both = [*WEIGHTS, Tensor(name="lm_head.weight", dtype="BF16", numbers=1000, bytes=2000)]
    assert shape(QWEN3, both).float_weights == 1000
    untied = shape(QWEN3, both, tie_word_embeddings=False)
    assert (untied.float_weights, untied.output_head_weights) == (2000, 1000)


def test_quantized_weights_keep_their_size_with_scales():
    tensors = [
        *WEIGHTS,
        Tensor(name="q.weight", dtype="F8_E4M3", numbers=500, bytes=500),
        Tensor(name="q.weight_scale_inv", dtype="F32", numbers=4, bytes=16),
        Tensor(name="p.qweight", dtype="I32", numbers=10, bytes=40),
    ]
    found = shape(QWEN3, tensors, quantization_config={"quant_method": "fp8"})
    assert (found.float_weights, found.quantized_bytes, found.quantization) == (1000, 556, "fp8")


def test_bert_is_an_encoder_without_pooler():
    tensors = [
        Tensor(name="embeddings.weight", dtype="F32", numbers=1000, bytes=4000),
        Tensor(name="pooler.dense.weight", dtype="F32", numbers=500, bytes=2000),
    ]
    found = shape(BERT, tensors)
    assert (found.is_encoder, found.float_weights, found.dtype_bytes) == (True, 1000, 4)
    assert (found.head_dim, found.kv_heads, found.max_context) == (32, 12, 512)
    padded = shape(BERT, tensors, model_type="xlm-roberta", max_position_embeddings=514)
    # vLLM accepts 514 tokens, but there are positions for only 512.
    assert (padded.max_context, padded.allowed_context) == (512, 514)


def test_a_bidirectional_decoder_is_an_encoder():
    assert shape(QWEN3, is_causal=False).is_encoder


def test_latent_attention():
    found = shape(QWEN3, kv_lora_rank=512, qk_rope_head_dim=64, qk_nope_head_dim=128)
    assert (found.latent_dim, found.head_dim) == (576, 192)


def test_latent_attention_also_keeps_a_quantized_matrix_as_floats():
    config = {"kv_lora_rank": 512, "qk_rope_head_dim": 64, "qk_nope_head_dim": 128, "v_head_dim": 96}
    name = "model.layers.0.self_attn.kv_b_proj.weight"
    plain, quantized = (
        shape(QWEN3, [*WEIGHTS, Tensor(name=name, dtype=dtype, numbers=10, bytes=10)], **config)
        for dtype in ("BF16", "F8_E4M3")
    )
    assert plain.float_weights == 1010
    assert (quantized.float_weights, quantized.quantized_bytes) == (1000 + 28 * 512 * 16 * (128 + 96), 10)


def modelopt(**scheme: Any) -> dict[str, Any]:
    return {"quant_method": "modelopt", "kv_cache_scheme": scheme}


@pytest.mark.parametrize(
    ("says", "expected"),
    [
        ({"quant_method": "modelopt", "kv_cache_quant_algo": "FP8"}, "fp8_e4m3"),
        ({"quant_method": "modelopt_fp4", "quantization": {"kv_cache_quant_algo": "NVFP4"}}, "nvfp4"),
        ({"quant_method": "modelopt", "kv_cache_quant_algo": "INT8"}, "auto"),
        ({"quant_method": "fp8", "kv_cache_quant_algo": "FP8"}, "auto"),
        (modelopt(), "auto"),
        (modelopt(type="float", num_bits=8, dynamic=False), "fp8_e4m3"),
        (modelopt(type="float", num_bits=8, dynamic=True), "auto"),
        (modelopt(type="float", num_bits=4), "nvfp4"),
        (modelopt(type="int", num_bits=4), "auto"),
    ],
)
def test_the_cache_dtype_of_a_quantized_model(says, expected):
    assert shape(QWEN3, quantization_config=says).cache_dtype == expected


@pytest.mark.parametrize(
    ("config", "layers"),
    [
        ({"sliding_window": 4096, "use_sliding_window": False}, 0),
        ({"sliding_window": 4096, "use_sliding_window": True, "max_window_layers": 20}, 8),
        ({"sliding_window": 4096, "use_sliding_window": True}, 28),
        ({"sliding_window": 4096, "model_type": "qwen2"}, 0),
        ({"sliding_window": 4096, "model_type": "qwen3_moe"}, 0),
        ({"sliding_window": 4096, "model_type": "mistral"}, 28),
        ({"sliding_window": 512, "layer_types": ["sliding_attention", "full_attention"] * 14}, 14),
        ({"sliding_window": 512, "model_type": "gemma3_text"}, 28 - 4),
        ({"sliding_window": 512, "model_type": "gemma2"}, 14),
        ({"sliding_window": 512, "sliding_window_pattern": 4}, 21),
    ],
)
def test_layers_with_a_window(config, layers):
    base = {key: value for key, value in QWEN3.items() if key != "use_sliding_window"}
    found = shape(base, **{"model_type": "llama", **config})
    assert found.sliding_layers == layers
    assert found.sliding_window == (config["sliding_window"] if layers else None)


@pytest.mark.parametrize(
    ("config", "context"),
    [
        ({"rope_scaling": {"type": "linear", "factor": 2.0}}, 81920),
        ({"rope_scaling": {"type": "linear", "factor": 8.0}, "model_type": "gemma3_text"}, 40960),
        ({"model_max_length": 131072}, 131072),
        # The value is already scaled.
        ({"rope_scaling": {"rope_type": "yarn", "factor": 4.0}}, 40960),
        ({"rope_scaling": {"rope_type": "llama3", "factor": 8.0}}, 40960),
        ({"rope_scaling": {"rope_type": "longrope"}, "original_max_position_embeddings": 4096}, 4096),
        ({"rope_parameters": {"rope_type": "default", "rope_theta": 1e6}}, 40960),
        ({"rope_scaling": None}, 40960),
    ],
)
def test_the_default_context(config, context):
    assert shape(QWEN3, **config).max_context == context


def test_a_longer_context_than_the_default_is_allowed():
    for kind in ("longrope", "su"):
        found = shape(QWEN3, rope_scaling={"type": kind}, original_max_position_embeddings=4096)
        assert (found.max_context, found.allowed_context) == (4096, 40960)


def test_experts():
    found = shape(QWEN3, num_experts_per_tok=8, moe_intermediate_size=768)
    assert (found.experts_per_token, found.expert_intermediate) == (8, 768)


@pytest.mark.parametrize(
    ("config", "what"),
    [
        ({"vision_config": {"hidden_size": 10}}, "images"),
        ({"is_encoder_decoder": True}, "an encoder and a decoder"),
        ({"mamba_d_state": 16}, "state-space layers"),
        ({"layer_types": ["linear_attention", "full_attention"]}, "linear_attention"),
    ],
)
def test_unsupported_models_are_reported(config, what):
    with pytest.raises(UnknownShapeError, match=f"'a model' has {what}, which the planner"):
        shape(QWEN3, **config)


@pytest.mark.parametrize("key", ["hidden_size", "num_hidden_layers", "num_attention_heads", "vocab_size"])
@pytest.mark.parametrize("value", [None, "many", [1, 2]])
def test_an_incomplete_configuration_is_reported(key, value):
    with pytest.raises(UnknownShapeError, match=r"config\.json of 'a model' does not describe its size"):
        shape(QWEN3, **{key: value})
