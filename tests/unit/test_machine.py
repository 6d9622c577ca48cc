"""Reading the machine's hardware, and the environment that is set for vLLM before it is imported."""

import asyncio
import ctypes
import os
import subprocess
import sys
from pathlib import Path

import pytest

from adapters.models.hardware import gpu_memory
from adapters.models.known_shapes import KNOWN_SHAPES
from adapters.models.locate import GPU_DEFAULTS_GIB
from adapters.vllm.inprocess.engine_args import default_flags, prepare_environment
from adapters.vllm.inprocess.owner import NICENESS, OWNER, bind_to_owner, lower_priority
from domain.health import GpuMemory
from domain.memory_plan import Card, EngineRequirements, MemoryPlan, make_plan
from domain.roles import DEFAULT_ROLES, ROLES, Role
from domain.units import GIB
from tests.unit.serving import Api, serving

PR_GET_PDEATHSIG = 2


@pytest.fixture
def nvidia_smi(tmp_path, monkeypatch):
    """Creates a fake nvidia-smi; nothing else is on the path."""
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)

    def say(text: str, *, status: int = 0) -> None:
        script: Path = tmp_path / "nvidia-smi"
        script.write_text(f"#!/bin/sh\necho '{text}'\nexit {status}\n")
        script.chmod(0o755)

    return say


@pytest.fixture
def environment(monkeypatch) -> dict[str, str]:
    environ: dict[str, str] = {}
    monkeypatch.setattr(os, "environ", environ)
    return environ


def test_without_nvidia_smi_there_is_no_gpu(nvidia_smi):
    assert gpu_memory() is None


@pytest.mark.parametrize(
    ("said", "gib"),
    [("512, 24576", 24.0), ("512, 24576\n0, 8192", 24.0), ("24576", None), ("", None)],
)
def test_the_first_gpus_memory_is_in_gib(nvidia_smi, said, gib):
    nvidia_smi(said)
    memory = gpu_memory()
    assert (memory and memory.total_gib) == gib


def test_used_memory_is_reported(nvidia_smi):
    nvidia_smi("1536, 24576")
    assert gpu_memory() == GpuMemory(used_gib=1.5, total_gib=24.0)


async def test_health_reports_gpu_memory(nvidia_smi, monkeypatch):
    nvidia_smi("1536, 24576")
    monkeypatch.setattr("app.bootstrap.usable_gpu", gpu_memory)
    api = Api()
    async with serving(api):
        while api.service.health().gpu_memory is None:
            await asyncio.sleep(0.01)
        assert (await api.http.get("/health")).json()["gpu_memory"] == {"used_gib": 1.5, "total_gib": 24.0}


def test_a_failing_nvidia_smi_means_no_gpu(nvidia_smi):
    nvidia_smi("512, 24576", status=9)
    assert gpu_memory() is None


def test_engine_sockets_are_in_a_private_folder(environment):
    prepare_environment(log_level="error", offline=False)
    folder = Path(environment["VLLM_RPC_BASE_PATH"])
    assert folder.stat().st_mode & 0o777 == 0o700
    prepare_environment(log_level="error", offline=False)
    assert environment["VLLM_RPC_BASE_PATH"] == str(folder), "both engines use the same folder"


def test_the_folder_for_sockets_can_be_set(environment):
    environment["VLLM_RPC_BASE_PATH"] = "/somewhere"
    prepare_environment(log_level="error", offline=False)
    assert environment["VLLM_RPC_BASE_PATH"] == "/somewhere"


def test_vllm_is_quiet_and_its_engines_are_owned(environment):
    prepare_environment(log_level="error", offline=False)
    assert environment[OWNER] == str(os.getpid())
    assert environment["VLLM_LOGGING_LEVEL"] == "ERROR"
    assert environment["VLLM_NO_USAGE_STATS"] == "1"
    assert environment["VLLM_WORKER_MULTIPROC_METHOD"] == "spawn"
    assert environment["TQDM_DISABLE"] == "1"
    assert "HF_HUB_OFFLINE" not in environment


def test_engines_listen_only_on_loopback(environment):
    prepare_environment(log_level="error", offline=False)
    assert environment["GLOO_SOCKET_IFNAME"] == "lo"


def test_debug_level_keeps_all_output(environment):
    prepare_environment(log_level="debug", offline=False)
    assert environment["VLLM_LOGGING_LEVEL"] == "DEBUG"
    assert "PYTHONWARNINGS" not in environment


def test_local_models_disable_the_hub(environment):
    prepare_environment(log_level="error", offline=True)
    assert environment["HF_HUB_OFFLINE"] == "1"


def test_variables_set_by_the_user_are_kept(environment):
    environment.update(VLLM_LOGGING_LEVEL="INFO", HF_HUB_OFFLINE="0")
    prepare_environment(log_level="error", offline=True)
    assert environment["VLLM_LOGGING_LEVEL"] == "INFO"
    assert environment["HF_HUB_OFFLINE"] == "0"


def test_without_a_plan_a_gpu_engine_gets_its_share():
    assert default_flags(on_gpu=True, plan=None, gpu_share=0.25) == ["--gpu-memory-utilization", "0.25"]
    assert default_flags(on_gpu=True, plan=None) == []
    flags = default_flags(on_gpu=True, plan=None, gpu_share=0.5, context=8192)
    assert flags[2:] == ["--max-model-len", "8192"]


def test_with_a_plan_a_gpu_engine_gets_its_bytes():
    plan = the_pair_on(24 * GIB).engine(Role.GENERATE)
    flags = default_flags(on_gpu=True, plan=plan)
    assert dict(zip(flags[::2], flags[1::2], strict=True)) == {
        "--gpu-memory-utilization": str(plan.gpu_memory_utilization),
        "--kv-cache-memory-bytes": str(plan.kv_cache_memory_bytes),
        "--max-model-len": "16384",
        "--max-num-batched-tokens": "2048",
        "--max-num-seqs": "256",
    }


def test_the_default_models_fit_the_smallest_gpu_for_them():
    assert the_pair_on(int(GPU_DEFAULTS_GIB * GIB)).fits


def the_pair_on(total_bytes: int) -> MemoryPlan:
    engines = [
        EngineRequirements(role=role, shape=KNOWN_SHAPES[ROLES[role].gpu_default_model]) for role in DEFAULT_ROLES
    ]
    return make_plan(Card(name="a card", total_bytes=total_bytes), engines)


def test_an_engine_on_the_cpu_does_not_take_all_memory():
    flags = default_flags(on_gpu=False, plan=None)
    assert flags[flags.index("--kv-cache-memory-bytes") + 1] == str(2**30)
    assert flags[flags.index("--dtype") + 1] == "float32"
    assert "--enforce-eager" in flags


def test_only_cpu_engines_have_a_lower_priority(environment):
    own = os.getpriority(os.PRIO_PROCESS, 0)
    prepare_environment(log_level="error", offline=False, on_gpu=True)
    assert NICENESS not in environment
    prepare_environment(log_level="error", offline=False)
    assert int(environment[NICENESS]) == min(own + 5, 19)
    lower = "from adapters.vllm.inprocess.owner import lower_priority as lower"
    code = f"import os; {lower}; lower(); lower(); print(os.nice(0))"
    engine = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    assert int(engine.stdout) == min(own + 5, 19)


def test_niceness_is_never_decreased(environment, monkeypatch):
    taken: list[int] = []
    monkeypatch.setattr(os, "getpriority", lambda _which, _who: 12)
    monkeypatch.setattr(os, "setpriority", lambda _which, _who, niceness: taken.append(niceness))
    environment[NICENESS] = "5"
    lower_priority()
    environment[NICENESS] = "15"
    lower_priority()
    assert taken == [12, 15]


@pytest.mark.parametrize("owner", [None, str(os.getpid())], ids=["no service", "the service itself"])
def test_only_engine_processes_are_bound_to_their_parent(environment, owner):
    if owner is not None:
        environment[OWNER] = owner
    bind_to_owner()
    signal_at_parents_end = ctypes.c_int(-1)
    ctypes.CDLL(None).prctl(PR_GET_PDEATHSIG, ctypes.byref(signal_at_parents_end))
    assert signal_at_parents_end.value == 0
