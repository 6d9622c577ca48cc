"""The script that verifies the memory plan on a GPU, as far as it runs on a CPU."""

import json
import signal
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path

import psutil
import pytest

from adapters.vllm.inprocess.engine_args import default_flags, engine_setup, prepare_environment
from app.commands.bench.comparison import MEMORIA, OVER_HTTP, VLLM
from domain.roles import Role
from tests.processes import ROOT, inherited_environment
from tools.real_shapes import CONFIGS, make_real_shapes

pytestmark = pytest.mark.integration
SCRIPT = [sys.executable, str(ROOT / "deploy" / "gpu_proof.py"), "--shape", "tiny"]


def start(output: Path, *arguments: str, temporary: Path | None = None) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [*SCRIPT, "--output", str(output), *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=inherited_environment() | ({"TMPDIR": str(temporary)} if temporary else {}),
    )


def test_all_steps_with_tiny_models(tmp_path: Path) -> None:
    short = ("--seconds", "0.3", "--rounds", "1", "--clients", "1,8", "--minutes", "9")
    process = start(tmp_path, *short, "--steps", "whole,refusal,compare")
    output_text, errors = process.communicate(timeout=600)
    assert process.returncode == 0, output_text + errors
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["passed"]
    assert report["doctor"]["findings"]
    whole, refusal, compared = report["steps"]
    assert whole["ready_after_s"] > 0
    assert whole["health"]["status"] == "ok"
    assert whole["plan"]["fits"]
    assert whole["restart"]["asked"] > 0
    assert "do not fit" in refusal["refusal"]
    assert set(compared["ready_after_s"]) == {MEMORIA, VLLM}
    assert {each["side"] for each in compared["measurements"]} == {MEMORIA, VLLM, OVER_HTTP}
    assert {each["failed"] for step in (whole, compared) for each in step["measurements"]} == {0}
    assert whole["settings"]["MODEL_GEN_NAME"] == "MODELS/tiny-gen"
    assert "**Passed.**" in (tmp_path / "report.md").read_text()
    assert {path.name for path in tmp_path.iterdir()} == {"report.json", "report.md"}, "only reports"


def test_the_log_lines_that_the_proof_parses_are_vllms() -> None:
    spec = find_spec("vllm")
    assert spec is not None
    assert spec.submodule_search_locations
    worker = Path(spec.submodule_search_locations[0]) / "v1" / "worker"
    for name in ("gpu_model_runner.py", "gpu/model_runner.py"):
        source = (worker / name).read_text()
        assert '"Model loading took %s GiB memory and ' in source
        assert '"Graph capturing finished in %.0f secs, took %.2f GiB"' in source
    source = (worker / "gpu_worker.py").read_text()
    assert 'f"Initial free memory {format_gib(self.init_snapshot.free_memory)} "' in source
    assert 'f"GiB, reserved {format_gib(kv_cache_memory_bytes)} GiB memory for "' in source


def test_a_proof_that_times_out_ends_and_leaves_nothing_behind(tmp_path: Path) -> None:
    process = start(tmp_path, "--minutes", "0.1")
    output_text, errors = process.communicate(timeout=120)
    assert process.returncode == 1, output_text + errors
    assert "not ready in time" in (tmp_path / "report.md").read_text()


def test_ending_the_script_ends_its_engines(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    # A short name: vLLM creates sockets in it, whose paths are limited to 107 characters.
    temporary = tmp_path_factory.mktemp("t")
    process = start(tmp_path, temporary=temporary)
    children: list[psutil.Process] = []
    deadline = time.monotonic() + 120
    # The service, both engines and their workers.
    while len(children) < 3 and time.monotonic() < deadline:
        children = psutil.Process(process.pid).children(recursive=True)
        time.sleep(0.2)
    assert len(children) >= 3
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=120)
    assert process.returncode == 128 + signal.SIGTERM
    assert psutil.wait_procs(children, timeout=10)[1] == []
    assert not list(temporary.glob("gpu-proof-*"))


def test_vllm_reads_the_real_shapes_correctly(tmp_path: Path) -> None:
    prepare_environment(log_level="error", offline=True)
    for role, folder in make_real_shapes(tmp_path).items():
        config = engine_setup(
            role=role,
            model=str(folder),
            served_name=folder.name,
            defaults=default_flags(on_gpu=False),
            # vLLM does not support FP8 with float32, the service's default on the CPU.
            flags="--load-format dummy --dtype bfloat16",
            setting="ARGS",
        ).config
        assert config.model_config.max_model_len == CONFIGS[role]["max_position_embeddings"]
        assert config.model_config.get_vocab_size() == CONFIGS[role]["vocab_size"]
        assert config.model_config.quantization == ("fp8" if role is Role.GENERATE else None)
        on_disk = sum(path.stat().st_blocks * 512 for path in folder.iterdir())
        assert on_disk < 20 * 2**20, "weights are sparse files"
