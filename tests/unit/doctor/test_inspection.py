"""Facts about models that are found without loading them."""

import pytest

from adapters.models.hardware import gpu_card, gpu_driver
from adapters.models.inspection import _files_to_load, inspect_model
from adapters.models.packaged import PACKAGED_MODELS
from domain.errors import ConfigurationError
from domain.memory_plan import Card
from domain.roles import Role

PACKAGED = PACKAGED_MODELS["SmolLM2-135M-Instruct"]


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "my-model"
    folder.mkdir()
    (folder / "config.json").write_text('{"architectures":["BertModel"]}')
    return folder


def inspected(name, cache):
    return inspect_model(str(name), setting="MODEL_GEN_NAME", cache=cache)


def test_a_bare_folder(folder, tmp_path):
    found = inspected(folder, tmp_path)
    assert (found.name, found.origin, found.weight_bytes) == ("my-model", "folder", 0)
    assert found.config == {"architectures": ["BertModel"]}
    assert (found.has_chat_template, found.is_sentence_encoder, found.fetch_bytes) == (False, False, 0)


def test_only_one_format_of_weights_counts(folder, tmp_path):
    (folder / "model-1.safetensors").write_bytes(b"123")
    (folder / "model-2.safetensors").write_bytes(b"4567")
    (folder / "pytorch_model.bin").write_bytes(b"1234567")
    assert inspected(folder, tmp_path).weight_bytes == 7


def test_of_duplicate_weights_one_set_counts(folder, tmp_path):
    (folder / "model-00001-of-00002.safetensors").write_bytes(b"123")
    (folder / "model-00002-of-00002.safetensors").write_bytes(b"4567")
    (folder / "consolidated.safetensors").write_bytes(b"12345678")
    assert inspected(folder, tmp_path).weight_bytes == 8
    sizes = {"consolidated.safetensors": 8, "model.safetensors": 7, "config.json": 1, "a/b.json": 1}
    assert _files_to_load(sizes) == {"consolidated.safetensors": 8, "config.json": 1}


@pytest.mark.parametrize(
    ("file", "text", "expected"),
    [
        ("chat_template.jinja", "{{ messages }}", True),
        ("tokenizer_config.json", '{"chat_template":"{{ messages }}"}', True),
        ("tokenizer_config.json", '{"chat_template":null}', False),
        ("tokenizer_config.json", "{", False),
        ("tokenizer_config.json", "[]", False),
    ],
)
def test_a_chat_template_is_found(folder, tmp_path, file, text, expected):
    (folder / file).write_text(text)
    assert inspected(folder, tmp_path).has_chat_template is expected


def test_a_sentence_encoder_is_recognized(folder, tmp_path):
    pooling = '[{"type": "sentence_transformers.models.Pooling"}]'
    (folder / "modules.json").write_text(pooling.replace("Pooling", "LogitScore"))
    assert not inspected(folder, tmp_path).is_sentence_encoder, "a reranking model"
    (folder / "modules.json").write_text(pooling)
    assert inspected(folder, tmp_path).is_sentence_encoder


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", "\xff"])
def test_an_invalid_config_is_reported(folder, tmp_path, text):
    (folder / "config.json").write_text(text)
    with pytest.raises(ConfigurationError, match=r"MODEL_GEN_NAME: .*config\.json is not a JSON object"):
        inspected(folder, tmp_path)


@pytest.mark.parametrize("name", ["/no/such/folder", "nothing", "../a"])
def test_a_missing_model_is_reported(tmp_path, name):
    with pytest.raises(ConfigurationError, match="MODEL_GEN_NAME: "):
        inspected(name, tmp_path)


def test_the_shape_of_a_local_model_is_read_from_its_folder(folder, tmp_path):
    assert inspected(folder, tmp_path).source == str(folder)


@pytest.mark.parametrize(
    ("name", "weights", "is_known"),
    [("some/model", True, True), ("some/model", False, False), ("Qwen/Qwen3-8B-FP8", False, True)],
)
def test_the_hub_is_not_needed_for_the_shape_of_a_cached_model(tmp_path, monkeypatch, name, weights, is_known):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    snapshot = tmp_path / f"models--{name.replace('/', '--')}" / "snapshots" / (40 * "a")
    snapshot.mkdir(parents=True)
    (snapshot.parents[1] / "refs").mkdir()
    (snapshot.parents[1] / "refs" / "main").write_text(40 * "a")
    (snapshot / "config.json").write_text('{"architectures":["Qwen3ForCausalLM"]}')
    if weights:
        (snapshot / "model.safetensors").write_bytes(b"12")
    expected = str(snapshot) if name == "some/model" else name
    assert inspected(name, tmp_path).source == (expected if is_known else None)


def test_a_packaged_model_is_not_fetched(tmp_path):
    found = inspected(PACKAGED.name, tmp_path / "cache")
    assert (found.origin, found.package_role, found.has_chat_template) == ("package", Role.GENERATE, True)
    assert found.fetch_bytes > PACKAGED.wheel_bytes
    assert found.source is None
    assert not (tmp_path / "cache").exists()


def test_a_prepared_packaged_model_is_inspected(tmp_path):
    prepared = tmp_path / "models" / PACKAGED.folder_name
    prepared.mkdir(parents=True)
    (prepared / "config.json").write_text('{"architectures":["LlamaForCausalLM"]}')
    (prepared / "model.safetensors").write_bytes(b"12")
    found = inspected(PACKAGED.name, tmp_path)
    assert (found.fetch_bytes, found.weight_bytes, found.package_role) == (0, 2, Role.GENERATE)
    assert found.source == str(prepared)


NEW = "NVIDIA RTX 4090, 564, 24564, 8.9"
OLD = "Tesla P4, 611, 7611"


def tool(folder, monkeypatch, text: str) -> None:
    """Put a fake nvidia-smi on the path."""
    script = folder / "nvidia-smi"
    script.write_text(f"#!/bin/sh\n{text}\n")
    script.chmod(0o755)
    monkeypatch.setenv("PATH", str(folder))


@pytest.mark.parametrize(
    ("output", "expected"),
    [
        (NEW, ("NVIDIA RTX 4090", 24564 * 2**20, 24000 * 2**20, "8.9", (8, 9))),
        (f"{NEW}\n{OLD}", ("NVIDIA RTX 4090", 24564 * 2**20, 24000 * 2**20, "8.9", (8, 9))),
        (OLD, ("Tesla P4", 7611 * 2**20, 7000 * 2**20, None, None)),
        # This GPU has no memory of its own.
        ("GB10, [N/A], [N/A], 12.1", ("GB10", 128 * 2**30, 120 * 2**30, "12.1", (12, 1))),
        ("No devices were found", None),
        ("", None),
    ],
)
def test_the_first_card_is_described(tmp_path, monkeypatch, output, expected):
    tool(tmp_path, monkeypatch, f"echo '{output}'")
    machine = Card(name="this machine", total_bytes=128 * 2**30, used_bytes=8 * 2**30, is_gpu=False)
    monkeypatch.setattr("adapters.models.hardware.ram", lambda: machine)
    card = gpu_card()
    found = card and (card.name, card.total_bytes, card.free_bytes, card.capability, card.capability_number)
    assert found == expected


def test_an_old_driver_is_queried_without_the_capability(tmp_path, monkeypatch):
    tool(tmp_path, monkeypatch, f"case $1 in *compute_cap*) exit 2;; esac\necho '{OLD}'")
    assert gpu_card().capability is None


def test_the_driver_version_is_read(tmp_path, monkeypatch):
    tool(tmp_path, monkeypatch, 'test "$1" = --query-gpu=driver_version && echo 580.95.05')
    assert gpu_driver() == "580.95.05"


@pytest.mark.parametrize("status", [9, None])
def test_without_nvidia_smi_there_is_no_card(tmp_path, monkeypatch, status):
    tool(tmp_path, monkeypatch, f"exit {status}")
    if status is None:
        (tmp_path / "nvidia-smi").unlink()
    assert (gpu_card(), gpu_driver()) == (None, None)
