"""The proof's shapes and report; the script itself runs in tests/integration."""

import importlib.metadata
import json
import subprocess
import sys
from math import prod
from pathlib import Path

import pytest

from domain.roles import Role
from domain.units import GIB
from tools.gpu_proof import checkout, service, steps
from tools.gpu_proof.clock import Clock
from tools.gpu_proof.memory import (
    REST,
    compare_card,
    compare_memory,
    lists_processes,
    logged_memory,
    memory_by_role,
    memory_failures,
    with_context,
)
from tools.gpu_proof.report import report_text
from tools.real_shapes import BYTES, CONFIGS, tensors

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    ("role", "parameters"),
    [
        # Both published: keras-hub's card of the model, and the hub's of Qwen3-8B.
        (Role.EMBED, 595_776_512),
        (Role.GENERATE, 8_190_735_360),
    ],
)
def test_the_shapes_have_the_published_number_of_parameters(role, parameters):
    weights = [shape for name, _form, shape in tensors(CONFIGS[role]) if not name.endswith("_scale_inv")]
    assert sum(map(prod, weights)) == parameters


def test_only_the_generators_matrices_are_fp8_each_with_its_scales():
    forms = {name: form for name, form, _shape in tensors(CONFIGS[Role.GENERATE])}
    stored = {name for name, form in forms.items() if form == "F8_E4M3"}
    assert len(stored) == 7 * 36
    assert {f"{name}_scale_inv" for name in stored} <= forms.keys()
    assert forms["lm_head.weight"] == forms["model.embed_tokens.weight"] == "BF16"
    assert {form for _name, form, _shape in tensors(CONFIGS[Role.EMBED])} == {"BF16"}


def test_the_weights_take_what_is_known_of_them():
    size = {
        role: sum(BYTES[form] * prod(shape) for _name, form, shape in tensors(config)) / GIB
        for role, config in CONFIGS.items()
    }
    assert size[Role.EMBED] == pytest.approx(1.11, abs=0.005)
    assert size[Role.GENERATE] == pytest.approx(8.79, abs=0.005)


def memory(**changes):
    parts = [{"name": "weights", "bytes": 2 * GIB}, {"name": "kv_cache", "bytes": GIB}]
    known = {
        "planned": parts,
        "measured_bytes": 3 * GIB,
        "kv_cache_planned_bytes": GIB,
        "kv_cache_bytes": GIB,
    }
    return known | changes


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({}, None),
        ({"measured_bytes": None, "kv_cache_bytes": None}, None),
        ({"measured_bytes": 3 * GIB + 1}, "uses 3.00 GiB, and 3.00 GiB were planned."),
        ({"kv_cache_bytes": int(0.99 * GIB)}, None),
        ({"kv_cache_bytes": int(0.97 * GIB)}, "has a KV cache of 0.97 GiB, and 1.00 GiB were planned."),
        ({"kv_cache_bytes": int(1.03 * GIB)}, "has a KV cache of 1.03 GiB, and 1.00 GiB were planned."),
    ],
)
def test_the_plan_is_compared_with_what_is_used(changes, complaint):
    compared = compare_memory(memory(**changes), {}, on_card=False)
    assert compared["planned_bytes"] == 3 * GIB
    assert compared["complaints"] == ([complaint] if complaint else [])


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"measured_bytes": None}, "could not be measured"),
        ({"kv_cache_bytes": None}, "does not tell the size of its KV cache."),
        ({"kv_cache_bytes": None, "kv_cache_planned_bytes": 0}, None),
    ],
)
def test_on_a_card_nothing_is_proved_without_a_measurement(changes, complaint):
    complaints = compare_memory(memory(**changes), {}, on_card=True)["complaints"]
    assert len(complaints) == bool(complaint)
    assert all(complaint in each for each in complaints)


def test_on_a_card_nothing_is_proved_without_a_plan():
    told = {"embed": None, "generate": memory(measured_bytes=None)}
    health = {"backends": {role: {"memory": memory} for role, memory in told.items()}}
    failed = {
        on_card: memory_failures(health, memory_by_role(health, {}, on_card=on_card), on_card=on_card)
        for on_card in (True, False)
    }
    assert failed[False] == []
    assert failed[True][0] == "embed: nothing was planned."
    assert failed[True][1].startswith("generate: could not be measured.")
    assert memory_failures(None, {}, on_card=True) == []


def test_what_has_no_plan_is_left_out():
    health = {"backends": {"embed": {"memory": None}, "generate": {"memory": memory()}}}
    health["backends"]["generate"]["model"] = "tiny-gen"
    compared = memory_by_role(health, logged_memory(LOG), on_card=False)
    assert list(compared) == ["generate"]
    assert compared["generate"]["parts"]["weights"]["measured"] == pytest.approx(8.79 * GIB, abs=1)
    assert memory_by_role(None, {}, on_card=True) == {}


def line(engine: str | None, message: str) -> str:
    record = {"level": "info", "message": message}
    return json.dumps(record if engine is None else record | {"engine": engine})


LOG = "\n".join(
    [
        "not JSON",
        line(None, "Model loading took 9 GiB memory and 1.0 seconds"),
        line("tiny-embed", "(EngineCore pid=7) INFO Model loading took 2.00 GiB memory and 0.25 seconds"),
        line("tiny-embed", "Initial free memory 77.50 GiB, reserved 1.00 GiB memory for KV Cache as specified by"),
        line("tiny-embed", "Graph capturing finished in 3 secs, took 0.25 GiB"),
        line("tiny-gen", "Model loading took 8.79 GiB memory and 4.5 seconds"),
        line("tiny-gen", "Initial free memory 70.00 GiB, reserved 3.00 GiB memory for KV Cache as specified by"),
        # Started once more, while the other was there.
        line("tiny-embed", "Initial free memory 60.00 GiB, reserved 1.00 GiB memory for KV Cache as specified by"),
    ]
)


def test_what_vllm_logs_of_its_memory_is_read_by_model():
    logged = logged_memory(LOG)
    assert logged["tiny-embed"] == {
        "weights": 2 * GIB, "free_at_start": int(77.5 * GIB), "cuda_graphs": GIB // 4
    }  # fmt: skip
    assert logged["tiny-gen"]["weights"] == pytest.approx(8.79 * GIB, abs=1)
    context = with_context(logged, 78 * GIB)
    assert {one["cuda_context"] for one in context.values()} == {GIB // 2}
    assert with_context(logged, None) == logged
    assert with_context({}, GIB) == {}


def test_memory_is_compared_by_part():
    parts = [
        {"name": name, "bytes": amount * GIB}
        for name, amount in {
            "weights": 2, "kv_cache": 1, "activations": 2, "cuda_graphs": 1, "cuda_context": 1, "buffer": 1,
        }.items()
    ]  # fmt: skip
    logged = with_context(logged_memory(LOG), 78 * GIB)["tiny-embed"]
    found = compare_memory(memory(planned=parts, measured_bytes=5 * GIB), logged, on_card=True)["parts"]
    assert {name: part["planned"] / GIB for name, part in found.items()} == {
        "weights": 2, "kv_cache": 1, "cuda_graphs": 1, "cuda_context": 1, REST: 3,
    }  # fmt: skip
    assert {name: part["measured"] / GIB for name, part in found.items()} == {
        "weights": 2, "kv_cache": 1, "cuda_graphs": 0.25, "cuda_context": 0.5, REST: 1.25,
    }  # fmt: skip
    unknown = compare_memory(memory(planned=parts, measured_bytes=None), logged, on_card=False)["parts"]
    assert unknown[REST]["measured"] is None


def test_where_no_processes_are_listed_the_card_tells_what_both_take():
    health = {"backends": {role: {"memory": memory(measured_bytes=None)} for role in ("embed", "generate")}}
    assert not lists_processes(health)
    compared = memory_by_role(health, {}, on_card=True, by_process=lists_processes(health))
    assert memory_failures(health, compared, on_card=True) == []
    assert compare_card(cards(before=79, after=73, ended=79), compared)["complaints"] == []
    found = compare_card(cards(before=79, after=72, restarted=71, ended=78), compared)
    assert found["taken_bytes"] == 7 * GIB
    assert found["complaints"] == [
        "Both engines take 7.00 GiB of the card, and 6.00 GiB were planned.",
        "1.00 GiB more of the card are in use since an engine was killed and started again.",
        "1.00 GiB of the card are still in use after the end of both engines.",
    ]
    assert compare_card({}, compared)["taken_bytes"] is None


def cards(**free: int) -> dict[str, dict[str, int]]:
    return {when: {"total_bytes": 80 * GIB, "free_bytes": gib * GIB} for when, gib in free.items()}


class Stub:
    """A service that tells its states in turn, and stays with the last."""

    url, log = "http://stub", line(None, "ValueError: of the service")

    def __init__(self, *states: dict[str, str], is_running: bool = True) -> None:
        self.states, self.is_running = list(states), is_running

    def health(self, _url: str) -> object:
        state = self.states[0] if len(self.states) == 1 else self.states.pop(0)
        backends = {role: {"state": word, "reason": f"{word} it is."} for role, word in state.items()}
        return {"status": "ok" if set(state.values()) == {"ready"} else "starting", "backends": backends}


STARTING = {"embed": "starting", "generate": "starting"}


@pytest.mark.parametrize(
    ("stub", "minutes", "said"),
    [
        (Stub(STARTING, {"embed": "ready", "generate": "ready"}), 1, None),
        (
            Stub(STARTING, {"embed": "ready", "generate": "failed"}),
            1,
            "engine has failed. generate: failed it is.",
        ),
        (Stub(STARTING, {"embed": "dead", "generate": "starting"}), 1, "engine has failed. embed: dead it is."),
        (Stub(STARTING, is_running=False), 1, "has ended. It said: ValueError: of the service"),
        (Stub(STARTING), 0, "not ready in time"),
    ],
)
def test_a_start_that_fails_ends_at_once_and_says_why(monkeypatch, stub, minutes, said):
    monkeypatch.setattr(service, "get_json", stub.health)
    monkeypatch.setattr(service, "POLL_S", 0.001)
    if said is None:
        assert service.wait_until_ready(stub, Clock(minutes)) >= 0
        return
    with pytest.raises(service.StartError, match=said):
        service.wait_until_ready(stub, Clock(minutes))


def test_the_last_words_of_a_log_are_its_errors():
    log = "\n".join([line("embed", "torch.OutOfMemoryError: CUDA out of memory"), "all is well", "bye"])
    assert service.last_words(log) == "torch.OutOfMemoryError: CUDA out of memory"
    assert service.last_words("one\ntwo") == "one two"


class Said:
    returncode, stderr = 0, ""
    stdout = (
        "MODEL_EMBED_NAME=e\nVLLM_EMBED_ARGS=--gpu-memory-utilization 0.2 --kv-cache-memory-bytes 7\n"
        "VLLM_GEN_ARGS=--gpu-memory-utilization 0.7614 --load-format dummy\n"
    )


def test_a_plan_for_a_smaller_card_takes_its_share_of_this_one(monkeypatch):
    asked: list[list[str]] = []
    monkeypatch.setattr(steps, "memoria", lambda words, settings, clock: asked.append(words) or Said)
    base = steps.model_settings("qwen3", {Role.EMBED: Path("e"), Role.GENERATE: Path("g")}, "--enforce-eager")
    assert base["VLLM_GEN_ARGS"] == "--load-format dummy --enforce-eager"
    settings = steps.setting_of(steps.SETTINGS["24GiB"], base, card_bytes=96 * GIB, clock=Clock(1))
    assert asked == [["plan", "--gpu-memory", "24.00GiB", "--env"]]
    assert settings["VLLM_EMBED_ARGS"] == "--gpu-memory-utilization 0.0500 --kv-cache-memory-bytes 7"
    assert settings["VLLM_GEN_ARGS"] == "--gpu-memory-utilization 0.1903 --load-format dummy"
    fp8 = steps.setting_of(steps.SETTINGS["fp8"], base, card_bytes=96 * GIB, clock=Clock(1))
    assert fp8["VLLM_GEN_ARGS"] == "--load-format dummy --enforce-eager --kv-cache-dtype fp8"
    assert fp8["MODEL_GEN_NAME"] == "g"


def test_a_bare_checkout_gets_the_metadata_of_an_install(monkeypatch, tmp_path):
    def missing(_name: str) -> str:
        raise importlib.metadata.PackageNotFoundError

    monkeypatch.setattr(importlib.metadata, "version", missing)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setenv("PYTHONPATH", "/elsewhere")
    checkout.prepare(tmp_path)
    assert checkout.os.environ["PYTHONPATH"] == f"{ROOT}:{tmp_path}:/elsewhere"
    (found,) = importlib.metadata.distributions(path=[str(tmp_path)])
    assert found.metadata["Name"] == "memoria-vllm"
    assert found.version
    assert any(needed.startswith("litestar") for needed in found.requires)
    (owner,) = found.entry_points.select(group="vllm.general_plugins")
    assert owner.value == "adapters.vllm.inprocess.owner:bind_to_owner"


def report(**changes):
    machine = {"processor": "CPU", "cores": 2, "versions": {"vllm": "0.32.0", "torch": "2"}}
    card = {"name": "H100", "driver": "580", "total_bytes": 80 * GIB, "free_bytes": 79 * GIB}
    known = {
        "began": "now", "command": "gpu_proof.py", "shape": "qwen3", "machine": machine, "card": card,
        "failures": [], "left_out": [], "steps": [],
    }  # fmt: skip
    return known | changes


def measurement(**changes):
    known = {
        "workload": "embeddings, 1 client", "side": "memoria", "requests_per_s": 10.0, "tokens_per_s": 0.0,
        "failed": 0, "latency_ms": {"p50": 1.25, "p95": None}, "first_token_ms": None,
    }  # fmt: skip
    return known | changes


def test_the_report_tells_memory_and_speed():
    compared = {"generate": compare_memory(memory(), {}, on_card=True)}
    step = {
        "name": "whole",
        "ready_after_s": 61.5,
        "cards": cards(before=79, ready=10),
        "card": compare_card(cards(before=79, after=76), compared),
        "memory": compared,
        "measurements": [measurement()],
        "restart": {"killed": "embed", "ready_after_s": 20.0, "asked": 7, "failed": 0},
    }
    text = report_text(report(steps=[step], left_out=["fp8"]))
    assert "# Proof on H100, 80.00 GiB, driver 580" in text
    assert "**Passed.**" in text
    assert "Left out for want of time: fp8." in text
    assert "In use of the whole card: 1.00 GiB before, 70.00 GiB ready." in text
    assert "| generate | all | 3.00 GiB | 3.00 GiB |" in text
    assert "| generate | kv_cache | 1.00 GiB | 1.00 GiB |" in text
    assert "| both | of the card | 3.00 GiB | 3.00 GiB |" in text
    assert "The engine of embed was killed and served again after 20 s" in text
    assert "| embeddings, 1 client | 10.0 |  | 1.2 ms |  |  |  | 0 |" in text


def test_the_report_compares_sides_by_the_median_of_their_rounds():
    rounds = [
        *(measurement(requests_per_s=rate) for rate in (30.0, 20.0, 10.0)),
        *(measurement(side="vLLM's own server", requests_per_s=rate) for rate in (8.0, 10.0, 12.0)),
    ]
    ready = {"memoria, in process": 60.0, "vLLM's own server": 70.5}
    step = {"name": "compare", "ready_after_s": ready, "flags": {"embed": "--a"}, "measurements": rounds}
    text = report_text(report(steps=[step]))
    assert "Both models were ready after memoria, in process 60 s, vLLM's own server 70.5 s." in text
    assert "- embed: `--a`" in text
    assert "| embeddings, 1 client | memoria | 20.0 |  | 1.2 ms |  |  |  | 0 | 2.00 × |" in text
    assert "| embeddings, 1 client | vLLM's own server | 10.0 |  | 1.2 ms |  |  |  | 0 |  |" in text


def test_the_report_of_a_start_that_failed():
    text = report_text(report(card=None, failures=["The engines were not ready in time."]))
    assert "# Proof on a CPU" in text
    assert "**Failed:**\n\n- The engines were not ready in time." in text


def test_without_a_gpu_the_script_says_what_to_do(tmp_path):
    answer = subprocess.run(
        [sys.executable, str(ROOT / "deploy" / "gpu_proof.py"), "--output", str(tmp_path / "out")],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env={"PATH": str(tmp_path), "PYTHONPATH": str(ROOT)},
    )
    assert answer.returncode == 2
    assert "--shape tiny" in answer.stderr
    assert "Traceback" not in answer.stderr
    assert not (tmp_path / "out").exists()
