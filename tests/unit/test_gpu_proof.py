"""The proof's shapes and report; the script itself runs in tests/integration."""

import importlib.util
import subprocess
import sys
from math import prod
from pathlib import Path
from types import ModuleType

import pytest

from domain.roles import Role
from domain.units import GIB
from tools.real_shapes import BYTES, CONFIGS, tensors

ROOT = Path(__file__).parents[2]


def load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, ROOT / "deploy" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


proof_report = load("gpu_proof_report")


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
    compared = proof_report.compare_memory(memory(**changes), on_card=False)
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
    complaints = proof_report.compare_memory(memory(**changes), on_card=True)["complaints"]
    assert len(complaints) == bool(complaint)
    assert all(complaint in each for each in complaints)


def test_on_a_card_nothing_is_proved_without_a_plan():
    told = {"embed": None, "generate": memory(measured_bytes=None)}
    health = {"after": {"backends": {role: {"memory": memory} for role, memory in told.items()}}}
    failed = {
        on_card: proof_report.memory_failures(
            health, proof_report.memory_by_role(health, on_card=on_card), on_card=on_card
        )
        for on_card in (True, False)
    }
    assert failed[False] == []
    assert failed[True][0] == "embed: nothing was planned."
    assert failed[True][1].startswith("generate: could not be measured.")
    assert proof_report.memory_failures({"last": None}, {}, on_card=True) == []


def test_the_last_health_counts_and_what_has_no_plan_is_left_out():
    after = {"backends": {"embed": {"memory": None}, "generate": {"memory": memory()}}}
    health = {"ready": {"backends": {}}, "after": after}
    assert list(proof_report.memory_by_role(health, on_card=False)) == ["generate"]
    assert proof_report.memory_by_role({"last": None}, on_card=True) == {}


def report(**changes):
    machine = {"processor": "CPU", "cores": 2, "versions": {"vllm": "0.32.0", "torch": "2"}}
    card = {"name": "H100", "driver": "580", "total_bytes": 80 * GIB, "free_bytes": 79 * GIB}
    known = {"began": "now", "shape": "qwen3", "machine": machine, "card": card, "failures": []}
    return known | changes


def test_the_report_tells_memory_and_speed():
    load = {
        "workload": "embeddings, 1 client", "requests_per_s": 10.0, "tokens_per_s": 0.0, "failed": 0,
        "latency_ms": {"p50": 1.25, "p95": None},
    }  # fmt: skip
    text = proof_report.report_text(
        report(
            ready_after_s=61.5,
            card_ready={"total_bytes": 80 * GIB, "free_bytes": 10 * GIB},
            memory={"generate": proof_report.compare_memory(memory(), on_card=True)},
            bench=[load],
        )
    )
    assert "# Proof on H100, 80.00 GiB, driver 580" in text
    assert "**Passed.**" in text
    assert "Used of the whole card: 1.00 GiB before, 70.00 GiB ready." in text
    assert "| generate | 3.00 GiB | weights 2.00 GiB, kv_cache 1.00 GiB | 3.00 GiB | 1.00 GiB | 1.00 GiB |" in text
    assert "| embeddings, 1 client | 10.0 |  | 1.2 ms |  | 0 |" in text


def test_the_report_of_a_start_that_failed():
    text = proof_report.report_text(report(card=None, failures=["The engines were not ready in time."]))
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
