"""`memoria plan` as a user calls it."""

import itertools
import json
import re
import shlex
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from adapters.models.locate import LocatedModel
from app.cli import main
from app.commands.plan.text import BAR
from app.settings import VARIABLES, load_settings
from domain.roles import Role
from domain.units import GIB
from tests.unit.test_shape import QWEN3, write

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs" / "memory.md"
PAIR = ["--embed", "Qwen/Qwen3-Embedding-0.6B", "--gen", "Qwen/Qwen3-8B-FP8"]


@pytest.fixture
def plan(tmp_path, monkeypatch):
    """Runs the command in an empty folder, without the user's settings and without the hub."""
    monkeypatch.chdir(tmp_path)
    for variable in VARIABLES:
        monkeypatch.delenv(variable.name, raising=False)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))

    def run(*arguments: str, **environ: str) -> Result:
        return CliRunner().invoke(main, ["plan", *arguments], env=environ)

    return run


def is_mistake(result: Result, *messages: str) -> bool:
    return (
        result.exit_code == 2
        and result.stdout == ""
        and "Traceback" not in result.stderr
        and all(each in result.stderr for each in messages)
    )


def test_a_plan_that_fits_exits_with_0(plan):
    result = plan("--gpu-memory", "24GiB", "--gpu-name", "NVIDIA L4")
    assert result.exit_code == 0
    assert result.stdout.startswith("NVIDIA L4: 24.00 GiB. It fits.\n")
    assert "Suggested changes" not in result.stdout


def test_a_plan_that_does_not_fit_exits_with_1_and_suggests_changes(plan):
    result = plan("--gpu-memory", "24GB", "--context", "16384", "--concurrency", "16")
    assert result.exit_code == 1
    assert "It does not fit: " in result.stdout
    assert "1. Plan for 4 full-length generation request(s) at a time" in result.stdout
    assert result.stdout.rstrip().endswith(", and it fits.")


@pytest.mark.parametrize("gib", ["16GiB", "24GiB", "80GiB", "12GiB"])
def test_the_bars_add_up_to_the_card(plan, gib):
    lines = plan("--gpu-memory", gib, *PAIR).stdout.splitlines()
    bars = [line for line in lines if re.match(r"(embed|generate|reserve|free) .*[█▒▓░] \d", line)]
    drawn = [re.search(r"[█▒▓░]+", line) for line in bars]
    assert sum(len(found[0]) for found in drawn) == BAR
    for before, after in itertools.pairwise(drawn):
        assert after.start() == before.end()


def test_json_has_exact_bytes(plan):
    result = plan("--gpu-memory", "80GiB", "--json")
    found = json.loads(result.stdout)
    assert found["fits"] is True
    assert found["card"]["total_bytes"] == 80 * GIB
    for engine in found["engines"]:
        assert sum(part["bytes"] for part in engine["parts"]) == engine["total_bytes"]


def test_options_apply_to_the_generation_engine(plan):
    options = ["--context", "4096", "--concurrency", "3", "--kv-cache-dtype", "fp8", "--embed-context", "1024"]
    embed, generate = json.loads(plan("--gpu-memory", "80GiB", "--json", *options).stdout)["engines"]
    assert (embed["max_model_len"], embed["kv_cache_dtype"]) == (1024, "auto")
    assert (generate["max_model_len"], generate["kv_cache_dtype"]) == (4096, "fp8")


def test_options_override_settings(plan):
    environ = {
        "VLLM_GEN_MAX_MODEL_LEN": "2048",
        "VLLM_EMBED_GPU_MEMORY": "6GiB",
        "VLLM_EMBED_ARGS": "--max-num-seqs 8",
    }
    found = json.loads(plan("--gpu-memory", "80GiB", "--json", **environ).stdout)["engines"]
    assert (found[0]["max_num_seqs"], found[1]["max_model_len"]) == (8, 2048)
    assert found[0]["total_bytes"] == pytest.approx(6 * GIB, abs=found[0]["kv_block_bytes"])
    environ["VLLM_GEN_ARGS"] = "--max-model-len 1024"
    found = json.loads(plan("--gpu-memory", "80GiB", "--json", "--context", "4096", **environ).stdout)["engines"]
    assert found[1]["max_model_len"] == 4096


@pytest.mark.parametrize(("off", "on"), [("EMBED", "generate"), ("GEN", "embed")])
def test_an_engine_that_is_off_is_not_planned(plan, off, on):
    both = json.loads(plan("--gpu-memory", "24GiB", "--json").stdout)["engines"]
    result = plan("--gpu-memory", "24GiB", "--json", **{f"{off}_BACKEND": "off"})
    assert result.exit_code == 0
    (engine,) = json.loads(result.stdout)["engines"]
    assert engine["role"] == on
    shared = next(each for each in both if each["role"] == on)
    assert engine["total_bytes"] >= shared["total_bytes"], "it has the whole card"
    assert f"_{off}_" not in plan("--gpu-memory", "24GiB", "--env", **{f"{off}_BACKEND": "off"}).stdout
    assert plan("--gpu-memory", "24GiB", **{f"{off}_BACKEND": "off"}).exit_code == 0


def test_options_for_an_engine_that_is_off_are_a_mistake(plan):
    options = ["--gpu-memory", "24GiB", "--embed", "Qwen/Qwen3-Embedding-0.6B"]
    result = plan(*options, EMBED_BACKEND="off")
    assert is_mistake(result, "The embedding engine can't be planned: EMBED_BACKEND is off.")


def test_lines_for_the_settings_make_the_same_plan(plan):
    output = plan("--gpu-memory", "24GiB", "--env", VLLM_GEN_ARGS="--seed 7 --max-num-seqs 99").stdout
    lines = dict(line.split("=", 1) for line in output.splitlines())
    assert lines["VLLM_GEN_ARGS"].endswith("--seed 7")
    assert load_settings(lines).role(Role.GENERATE).args == lines["VLLM_GEN_ARGS"]
    first, second = (
        json.loads(plan("--gpu-memory", "24GiB", "--json", **environ).stdout)["engines"]
        for environ in ({"VLLM_GEN_ARGS": "--seed 7 --max-num-seqs 99"}, lines)
    )
    sizes = ("kv_cache_memory_bytes", "max_model_len", "max_num_batched_tokens", "max_num_seqs")
    assert [[engine[size] for size in sizes] for engine in first] == [
        [engine[size] for size in sizes] for engine in second
    ]


def test_lines_for_compose_contain_only_memory_flags(plan):
    output = plan("--gpu-memory", "24GiB", "--compose", VLLM_GEN_ARGS="--seed 7").stdout
    lines = dict(line.split("=", 1) for line in output.splitlines())
    assert list(lines) == ["MODEL_EMBED_NAME", "VLLM_EMBED_MEMORY_ARGS", "MODEL_GEN_NAME", "VLLM_GEN_MEMORY_ARGS"]
    assert shlex.split(lines["VLLM_GEN_MEMORY_ARGS"])[::2] == [
        "--gpu-memory-utilization",
        "--kv-cache-memory-bytes",
        "--max-model-len",
        "--max-num-batched-tokens",
        "--max-num-seqs",
    ]


def test_an_optional_model_on_a_server_may_have_no_name(plan):
    arguments = ("--gpu-memory", "24GiB", *PAIR)
    result = plan(*arguments, RERANK_BACKEND="vllm-http")
    assert (result.exit_code, result.stdout) == (0, plan(*arguments).stdout)
    off = {"EMBED_BACKEND": "off", "GEN_BACKEND": "off"}
    assert is_mistake(plan("--gpu-memory", "24GiB", RERANK_BACKEND="vllm-http", **off), "MODEL_RERANK_NAME")


def test_an_optional_engine_is_planned_if_its_model_is_named(plan):
    # No reranker's shape is known without the hub.
    name = "Qwen/Qwen3-Embedding-0.6B"
    for given in (plan("--json", "--rerank", name), plan("--json", MODEL_RERANK_NAME=name)):
        assert [engine["role"] for engine in json.loads(given.stdout)["engines"]] == [
            "embed",
            "generate",
            "rerank",
        ]
    output = plan("--gpu-memory", "40GiB", "--compose", "--rerank", name).stdout
    lines = dict(line.split("=", 1) for line in output.splitlines())
    assert lines["MODEL_RERANK_NAME"] == name
    assert lines["VLLM_RERANK_MEMORY_ARGS"].startswith("--gpu-memory-utilization")
    # In the compose file this engine has to be switched on.
    assert (lines["RERANK_BACKEND"], lines["COMPOSE_PROFILES"]) == ("vllm-http", "rerank")
    assert is_mistake(
        plan("--rerank-context", "512"), "MODEL_RERANK_NAME is not set. Set it, or name a model with"
    )


def test_a_local_folder_and_this_machine(plan, tmp_path):
    for name in ("a", "b"):
        folder = tmp_path / name
        folder.mkdir()
        (folder / "config.json").write_text(json.dumps(QWEN3))
        write(folder / "model.safetensors", {"x.weight": ("BF16", [1000], 2000)})
    found = json.loads(plan("--embed", "./a", "--gen", "./b", "--json").stdout)
    assert [engine["model"] for engine in found["engines"]] == ["a", "b"]
    assert found["card"]["is_gpu"] is False
    # Engines on the CPU compute in float32.
    assert found["engines"][0]["parts"][0] == {"name": "weights", "bytes": 4000}


def test_a_model_quantized_for_another_cache_type_uses_it(plan, tmp_path):
    quantized = {**QWEN3, "quantization_config": {"quant_method": "modelopt", "kv_cache_quant_algo": "FP8"}}
    (tmp_path / "config.json").write_text(json.dumps(quantized))
    write(tmp_path / "model.safetensors", {"x.weight": ("BF16", [1000], 2000)})

    def cache(*options: str) -> tuple[str, int]:
        output = plan("--gpu-memory", "24GiB", "--gen", str(tmp_path), "--json", *options).stdout
        engine = json.loads(output)["engines"][1]
        return engine["kv_cache_dtype"], engine["kv_bytes_per_token"]

    plain = 28 * 8 * 128 * 2 * 2
    assert cache() == cache("--kv-cache-dtype", "auto") == ("fp8_e4m3", plain // 2)
    assert cache("--kv-cache-dtype", "bfloat16") == ("bfloat16", plain)


def test_lines_for_the_settings_name_a_local_model_by_its_path(plan, tmp_path):
    folder = tmp_path / "models" / "mine"
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(QWEN3))
    write(folder / "model.safetensors", {"x.weight": ("BF16", [1000], 2000)})
    output = plan("--gpu-memory", "24GiB", "--env", "--gen", "models/mine/").stdout
    assert f"MODEL_GEN_NAME={folder}" in output.splitlines()
    assert "MODEL_EMBED_NAME=Qwen/Qwen3-Embedding-0.6B" in output.splitlines()
    assert is_mistake(
        plan("--gpu-memory", "24GiB", "--compose", "--gen", "models/mine/"), f"'{folder}' is a local folder"
    )


def test_a_packaged_model_keeps_its_name_and_is_rejected_for_compose(plan, tmp_path, monkeypatch):
    (tmp_path / "config.json").write_text(json.dumps(QWEN3))
    write(tmp_path / "model.safetensors", {"x.weight": ("BF16", [1000], 2000)})
    prepared = LocatedModel(name="SmolLM2-135M-Instruct", source=str(tmp_path), is_local=True)
    monkeypatch.setattr("app.commands.plan.composition.locate", lambda *_, **__: prepared)
    options = ["--gpu-memory", "24GiB", "--gen", "SmolLM2-135M-Instruct"]
    assert "MODEL_GEN_NAME=SmolLM2-135M-Instruct" in plan(*options, "--env").stdout.splitlines()
    assert is_mistake(plan(*options, "--compose"), "'SmolLM2-135M-Instruct' is a packaged model")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--gpu-memory", "24"], "--gpu-memory is '24'; it must be a size such as 24GiB."),
        (["--gpu-memory", "0GiB"], "--gpu-memory is '0GiB'"),
        (["--gpu-memory", "lots"], "--gpu-memory is 'lots'"),
        (["--gpu-memory", "24GiB", "--context", "0"], "--context"),
        (
            ["--gpu-memory", "24GiB", "--context", "100000"],
            "exceeds the maximum of the generate model 'Qwen/Qwen3-8B-FP8'",
        ),
        (["--gpu-memory", "24GiB", "--kv-cache-dtype", "fp7"], "does not support the KV cache type 'fp7'"),
        (["--gpu-memory", "24GiB", "--kv-cache-dtype", "a b'"], "does not support the KV cache type 'a b''"),
        (["--gpu-memory", "24GiB", "--gen", "./nowhere"], "--gen: there is no folder ./nowhere"),
        (["--gpu-memory", "24GiB", "--gen", "org/model"], "the hub can't be reached"),
    ],
)
def test_mistakes_are_reported_in_a_sentence(plan, arguments, message):
    assert is_mistake(plan(*arguments), message)


def test_an_unsupported_model_is_reported(plan, tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"mamba_d_state": 16}))
    assert is_mistake(
        plan("--gen", str(tmp_path), "--gpu-memory", "24GiB"), "No plan can be made: ", "state-space"
    )


def examples() -> list[tuple[str, str]]:
    """The commands in the documentation, and their output there."""
    return re.findall(r"```\n\$ (memoria plan .+?)\n(.+?)```", DOCS.read_text(), re.DOTALL)


def test_the_documentation_has_five_cards_and_one_that_is_too_small():
    sizes = [command.split("--gpu-memory ")[1].split("GiB")[0] for command, _output in examples()]
    assert sizes == ["24", "16", "48", "80", "141", "12"]


@pytest.mark.parametrize(("command", "output"), examples(), ids=lambda text: text[:48])
def test_the_documentation_shows_the_actual_output(plan, command, output):
    assert plan(*shlex.split(command)[2:]).stdout.rstrip() == output.rstrip()
