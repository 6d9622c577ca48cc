"""The script that proves the memory plan on a GPU, as far as a CPU allows."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from adapters.vllm.inprocess.engine_args import default_flags, engine_setup, prepare_environment
from domain.roles import Role
from tests.processes import ROOT
from tools.real_shapes import CONFIGS, make_real_shapes

pytestmark = pytest.mark.integration
SCRIPT = [sys.executable, str(ROOT / "deploy" / "gpu_proof.py"), "--shape", "tiny"]


def start(output: Path, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [*SCRIPT, "--output", str(output), *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )


def test_the_whole_way_with_tiny_models(tmp_path: Path) -> None:
    process = start(tmp_path, "--seconds", "0.3")
    said, complained = process.communicate(timeout=300)
    assert process.returncode == 0, said + complained
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["passed"]
    assert report["ready_after_s"] > 0
    assert report["health"]["after"]["status"] == "ok"
    assert report["doctor"]["findings"]
    assert {each["failed"] for each in report["bench"]} == {0}
    assert str(tmp_path) not in json.dumps(report["settings"])
    assert "**Passed.**" in (tmp_path / "report.md").read_text()
    assert not list(tmp_path.glob("models-*")), "the models go with the script"


def test_a_proof_that_takes_too_long_ends_by_itself_and_leaves_nothing_behind(tmp_path: Path) -> None:
    process = start(tmp_path, "--minutes", "0.1")
    said, complained = process.communicate(timeout=120)
    assert process.returncode == 1, said + complained
    assert "not ready in time" in (tmp_path / "report.md").read_text()


def test_who_ends_the_script_ends_its_engines(tmp_path: Path) -> None:
    process = start(tmp_path)
    below: list[psutil.Process] = []
    deadline = time.monotonic() + 120
    # The service, both engines and their workers.
    while len(below) < 3 and time.monotonic() < deadline:
        below = psutil.Process(process.pid).children(recursive=True)
        time.sleep(0.2)
    assert len(below) >= 3
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=120)
    assert process.returncode == 128 + signal.SIGTERM
    assert psutil.wait_procs(below, timeout=10)[1] == []
    assert not list(tmp_path.glob("models-*"))


def test_vllm_takes_the_real_shapes_for_what_they_are(tmp_path: Path) -> None:
    prepare_environment(log_level="error", offline=True)
    for role, folder in make_real_shapes(tmp_path).items():
        config = engine_setup(
            role=role,
            model=str(folder),
            served_name=folder.name,
            defaults=default_flags(on_gpu=False),
            # In float32, the service's own default on the CPU, vLLM has no FP8.
            flags="--load-format dummy --dtype bfloat16",
            setting="ARGS",
        ).config
        assert config.model_config.max_model_len == CONFIGS[role]["max_position_embeddings"]
        assert config.model_config.get_vocab_size() == CONFIGS[role]["vocab_size"]
        assert config.model_config.quantization == ("fp8" if role is Role.GENERATE else None)
        on_disk = sum(path.stat().st_blocks * 512 for path in folder.iterdir())
        assert on_disk < 20 * 2**20, "weights are holes"
