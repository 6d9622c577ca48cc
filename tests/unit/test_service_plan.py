"""The plan that the service makes before it starts its engines, with a fake nvidia-smi."""

import json
from pathlib import Path

import psutil
import pytest

from adapters.models import hardware
from adapters.models import nvidia_smi as nvidia_smi_module
from adapters.models.hardware import gpu_bytes_of, gpu_card, gpu_memory, ram, ram_bytes_of
from adapters.models.locate import LocatedModel
from adapters.vllm.inprocess.provider import InProcessProvider
from app.bootstrap import build_service
from app.engines import inprocess_provider
from app.http.codec import encode
from app.settings import load_settings
from domain.errors import ConfigurationError
from domain.health import EngineMemory, GpuMemory, MemoryMeter, MemoryPart
from domain.memory_plan import Card, MemoryPlan
from domain.roles import DEFAULT_ROLES, ROLES, Role
from domain.units import GIB, MIB
from tests.fakes import FakeBackend
from tests.unit.waiting import eventually

PAIR = {
    role: LocatedModel(name=ROLES[role].gpu_default_model, source=ROLES[role].gpu_default_model, is_local=False)
    for role in DEFAULT_ROLES
}
NAMES = "'Qwen/Qwen3-Embedding-0.6B' and 'Qwen/Qwen3-8B-FP8'"


@pytest.fixture
def nvidia_smi(tmp_path, monkeypatch):
    """Puts a fake nvidia-smi on the path, which reports one GPU and its processes."""
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)

    def say(
        *, total_mib: int = 24 * 1024, used_mib: int = 0, processes: str = "", card: str | None = None
    ) -> None:
        card = f"NVIDIA L4, {used_mib}, {total_mib}, 8.9" if card is None else card
        script: Path = tmp_path / "nvidia-smi"
        script.write_text(
            f'#!/bin/sh\ncase "$1" in *compute-apps*) echo "{processes}";; *) echo "{card}";; esac\n'
        )
        script.chmod(0o755)

    return say


def provider(models, *, on_gpu: bool = True, **environ: str) -> InProcessProvider:
    made = inprocess_provider(load_settings(environ), models)
    # Independent of the installed vLLM.
    made.card = gpu_card() if on_gpu else hardware.ram()
    return made


def plan(models=PAIR, *, on_gpu: bool = True, **environ: str) -> MemoryPlan | None:
    return provider(models, on_gpu=on_gpu, **environ).fitting_plan(models)


def mistake(models=PAIR, *, on_gpu: bool = True, **environ: str) -> str:
    with pytest.raises(ConfigurationError) as caught:
        plan(models, on_gpu=on_gpu, **environ)
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_a_card(nvidia_smi):
    nvidia_smi(used_mib=512)
    assert gpu_card() == Card(name="NVIDIA L4", capability="8.9", used_bytes=512 * MIB, total_bytes=24 * GIB)


def test_a_gpu_without_own_memory_uses_the_hosts(nvidia_smi, monkeypatch):
    nvidia_smi(card="NVIDIA GB10, [N/A], [N/A], 12.1")
    machine = Card(name="this machine", total_bytes=128 * GIB, used_bytes=8 * GIB, is_gpu=False)
    monkeypatch.setattr("adapters.models.hardware.ram", lambda: machine)
    assert gpu_card() == Card(
        name="NVIDIA GB10", capability="12.1", used_bytes=8 * GIB, total_bytes=128 * GIB, is_gpu=True
    )
    nvidia_smi(card="[N/A], [N/A]")
    assert gpu_memory() == GpuMemory(used_gib=8, total_gib=128)


@pytest.mark.parametrize(
    ("visible", "card"),
    [(None, None), ("3", "3"), ("GPU-12ab,1", "GPU-12ab"), (" 2 , 0", "2"), ("MIG-12ab", None)],
)
def test_the_visible_gpu_is_queried(tmp_path, nvidia_smi, monkeypatch, visible, card):
    nvidia_smi()
    (tmp_path / "nvidia-smi").write_text('#!/bin/sh\necho "asked: $3, 0, 24576, 8.9"\n')
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert gpu_card().name == ("asked:" if card is None else f"asked: --id={card}")


@pytest.mark.parametrize("visible", ["", "-1", " "])
def test_a_hidden_gpu_is_not_used(nvidia_smi, monkeypatch, visible):
    nvidia_smi()
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert (gpu_card(), gpu_memory()) == (None, None)


def test_a_hanging_driver_does_not_block(tmp_path, nvidia_smi, monkeypatch):
    nvidia_smi()
    (tmp_path / "nvidia-smi").write_text("#!/bin/sh\nwhile :; do :; done\n")
    monkeypatch.setattr(nvidia_smi_module, "TIMEOUT_S", 0.1)
    assert gpu_card() is None


@pytest.mark.parametrize("card", ["", "NVIDIA L4", "No devices were found"])
def test_a_gpu_without_data_is_ignored(nvidia_smi, card):
    nvidia_smi(card=card)
    assert gpu_card() is None


def test_a_driver_that_does_not_know_the_capability(nvidia_smi):
    nvidia_smi(card="Tesla V100, 0, 16384, [N/A]")
    assert gpu_card().capability is None


def test_memory_of_an_engines_processes_on_the_card(nvidia_smi):
    nvidia_smi(processes="11, 100\n12, 2000\n13, 5000\n14, [N/A]")
    assert gpu_bytes_of({11, 12, 14}) == 2100 * MIB
    assert gpu_bytes_of({99}) is None
    assert gpu_bytes_of({14}) is None


def test_memory_of_processes_on_the_cpu():
    assert MIB < ram_bytes_of([psutil.Process()]) < psutil.virtual_memory().total
    assert ram_bytes_of([]) is None


def test_the_memory_of_a_container_is_its_limit_less_what_it_holds(tmp_path, monkeypatch):
    monkeypatch.setattr(hardware, "CGROUP", tmp_path)
    monkeypatch.setattr(hardware, "OWN_GROUP", tmp_path / "none")
    machine = psutil.virtual_memory().total
    assert ram().total_bytes == machine
    (tmp_path / "memory.max").write_text("max\n")
    assert ram().total_bytes == machine
    (tmp_path / "memory.max").write_text(f"{GIB}\n")
    (tmp_path / "memory.current").write_text(f"{300 * MIB}\n")
    (tmp_path / "memory.stat").write_text(f"anon 5\ninactive_file {100 * MIB}\n")
    assert (ram().total_bytes, ram().used_bytes) == (GIB, 200 * MIB)
    assert not ram().is_gpu


@pytest.mark.parametrize(
    ("own", "limited", "counts"),
    [
        ("/system.slice/memoria.service", "system.slice/memoria.service", True),
        ("/system.slice/memoria.service", "system.slice", True),
        ("/system.slice/memoria.service", "", True),
        ("/system.slice/memoria.service", "system.slice/other.service", False),
        # A container's own view, and a group outside of it.
        ("/", "", True),
        ("/../other", "../other", False),
    ],
)
def test_the_nearest_limit_of_the_own_group_counts(tmp_path, monkeypatch, own, limited, counts):
    tree = tmp_path / "tree"
    (tree / limited).mkdir(parents=True)
    tree.mkdir(exist_ok=True)
    (tree / limited / "memory.max").write_text(f"{GIB}\n")
    (tree / limited / "memory.current").write_text(f"{300 * MIB}\n")
    (tree / limited / "memory.stat").write_text("inactive_file 0\n")
    (tmp_path / "cgroup").write_text(f"1:memory:/old\n0::{own}\n")
    monkeypatch.setattr(hardware, "CGROUP", tree)
    monkeypatch.setattr(hardware, "OWN_GROUP", tmp_path / "cgroup")
    here = ram()
    assert ((here.total_bytes, here.used_bytes) == (GIB, 300 * MIB)) is counts


def test_a_unit_without_a_limit_has_the_one_of_its_slice(tmp_path, monkeypatch):
    unit = tmp_path / "system.slice" / "memoria.service"
    unit.mkdir(parents=True)
    (tmp_path / "cgroup").write_text("0::/system.slice/memoria.service\n")
    (unit / "memory.max").write_text("max\n")
    (unit.parent / "memory.max").write_text(f"{GIB}\n")
    monkeypatch.setattr(hardware, "CGROUP", tmp_path)
    monkeypatch.setattr(hardware, "OWN_GROUP", tmp_path / "cgroup")
    assert ram().total_bytes == GIB


def test_the_default_pair_is_planned_for_the_card(nvidia_smi):
    nvidia_smi()
    found = plan()
    assert found.fits
    assert [engine.max_model_len for engine in found.engines] == [8192, 16384]


@pytest.mark.parametrize("role", DEFAULT_ROLES)
def test_a_single_engine_in_process_leaves_memory_for_the_other(nvidia_smi, role):
    nvidia_smi(total_mib=80 * 1024)
    found = plan({role: PAIR[role]})
    assert found.engines[0].gpu_memory_utilization <= {Role.EMBED: 0.25, Role.GENERATE: 0.65}[role]


def test_a_single_engine_has_the_whole_gpu_if_the_other_is_off(nvidia_smi):
    nvidia_smi()
    alone = {Role.GENERATE: PAIR[Role.GENERATE]}
    (beside,), (only,) = plan(alone).engines, plan(alone, EMBED_BACKEND="off").engines
    assert only.total_bytes > beside.total_bytes
    nvidia_smi(total_mib=13 * 1024)
    assert plan(alone, EMBED_BACKEND="off").fits


def test_settings_and_flags_override_the_plan(nvidia_smi):
    nvidia_smi(total_mib=80 * 1024)
    found = plan(
        VLLM_EMBED_GPU_MEMORY="0.1",
        VLLM_EMBED_MAX_MODEL_LEN="2048",
        VLLM_GEN_GPU_MEMORY="20GiB",
        VLLM_GEN_MAX_MODEL_LEN="8192",
        VLLM_GEN_ARGS="--max-model-len 4096 --max-num-seqs 32 --kv-cache-dtype fp8",
    )
    embed, generate = found.engines
    assert embed.max_model_len == 2048
    assert embed.total_bytes == pytest.approx(8 * GIB, abs=embed.kv_block_bytes)
    assert generate.total_bytes == pytest.approx(20 * GIB, abs=generate.kv_block_bytes)
    # A flag has precedence over a setting.
    assert (generate.max_model_len, generate.max_num_seqs, generate.kv_cache_dtype) == (4096, 32, "fp8")


def test_a_share_in_a_flag_is_a_budget(nvidia_smi):
    nvidia_smi()
    found = plan(VLLM_EMBED_ARGS="--gpu-memory-utilization 0.25")
    assert found.engine(Role.EMBED).total_bytes == pytest.approx(6 * GIB, abs=2 * MIB)


@pytest.mark.parametrize(
    ("environ", "message"),
    [
        (
            {"VLLM_GEN_GPU_MEMORY": "30GiB"},
            "VLLM_GEN_GPU_MEMORY asks for 30.0 GiB, and the card has 24.0 GiB, of which 22.0 GiB are free.",
        ),
        (
            {"VLLM_GEN_GPU_MEMORY": "18GiB", "VLLM_EMBED_GPU_MEMORY": "0.25"},
            "VLLM_EMBED_GPU_MEMORY and VLLM_GEN_GPU_MEMORY together ask for 24.0 GiB, and the card has 24.0 GiB, "
            "of which 22.0 GiB are free.",
        ),
        (
            {"VLLM_GEN_GPU_MEMORY": "9GiB"},
            "'Qwen/Qwen3-8B-FP8' needs 1.5 GiB more than it was given, for its weights and one request of full "
            "context on NVIDIA L4. Let the plan choose the memory of the generation engine. See "
            "`memoria plan` for details.",
        ),
        (
            {"VLLM_GEN_ARGS": "--kv-cache-memory-bytes 1000"},
            "'Qwen/Qwen3-8B-FP8' needs 578 MiB more than it was given, for its weights and one request of full "
            "context on NVIDIA L4. Let the plan choose the memory of the generation engine. See "
            "`memoria plan` for details.",
        ),
    ],
)
def test_a_shortage_is_reported_before_anything_starts(nvidia_smi, environ, message):
    nvidia_smi(used_mib=2048)
    assert mistake(**environ) == message


def test_an_engine_alone_can_be_given_more_than_its_usual_share(nvidia_smi):
    nvidia_smi(total_mib=13 * 1024)
    alone = {Role.GENERATE: PAIR[Role.GENERATE]}
    assert mistake(alone).endswith(
        "on NVIDIA L4. Give it more with VLLM_GEN_GPU_MEMORY. See `memoria plan` for details."
    )
    assert plan(alone, VLLM_GEN_GPU_MEMORY="0.95").fits
    for decided in ({"VLLM_GEN_GPU_MEMORY": "0.7"}, {"VLLM_GEN_ARGS": "--gpu-memory-utilization 0.7"}):
        assert "Let the plan choose the memory of the generation engine." in mistake(alone, **decided)


def test_a_card_with_too_little_memory(nvidia_smi):
    nvidia_smi(total_mib=10 * 1024)
    assert mistake().startswith(f"{NAMES} do not fit on NVIDIA L4, which has 10.0 of 10.0 GiB free")


def test_an_unsupported_model_gets_the_default_shares(nvidia_smi, tmp_path, caplog):
    nvidia_smi()
    (tmp_path / "config.json").write_text(json.dumps({"mamba_d_state": 16}))
    odd = PAIR | {Role.GENERATE: LocatedModel(name="odd", source=str(tmp_path), is_local=True)}
    assert plan(odd) is None
    assert "No memory plan: 'odd' has state-space layers" in caplog.text


def test_an_unsupported_flag_gets_the_default_shares(nvidia_smi, caplog):
    nvidia_smi()
    assert plan(VLLM_GEN_ARGS="--tensor-parallel-size 2") is None
    assert "does not support the flag --tensor-parallel-size" in caplog.text


def test_an_unsupported_cache_type_gets_the_default_shares(nvidia_smi, caplog):
    nvidia_smi()
    assert plan(VLLM_GEN_ARGS="--kv-cache-dtype turboquant_k8v4") is None
    assert "does not support the KV cache type 'turboquant_k8v4'" in caplog.text


@pytest.mark.parametrize("word", ["1", "True"])
def test_a_longer_context_than_the_models_if_vllm_allows_it(nvidia_smi, monkeypatch, word):
    nvidia_smi(total_mib=80 * 1024)
    assert "A context of 50000 tokens exceeds" in mistake(VLLM_GEN_MAX_MODEL_LEN="50000")
    monkeypatch.setenv("VLLM_ALLOW_LONG_MAX_MODEL_LEN", word)
    assert plan(VLLM_GEN_MAX_MODEL_LEN="50000").engine(Role.GENERATE).max_model_len == 50000


def test_on_the_cpu_an_unsupported_model_needs_some_memory(tmp_path, monkeypatch):
    (tmp_path / "config.json").write_text(json.dumps({"mamba_d_state": 16}))
    odd = {Role.GENERATE: LocatedModel(name="odd", source=str(tmp_path), is_local=True)}
    assert plan(odd, on_gpu=False) is None
    here = provider(odd, on_gpu=False)
    assert here.shares_without_plan() == {}
    monkeypatch.setattr("adapters.vllm.inprocess.provider.CPU_ENGINE_GIB", 10**6)
    with pytest.raises(ConfigurationError, match=r"on the CPU need at least 1000000 GiB"):
        here.shares_without_plan()


def test_a_machine_without_memory_is_reported(monkeypatch):
    monkeypatch.setattr(
        "adapters.models.hardware.ram", lambda: Card(name="this machine", total_bytes=4 * GIB, is_gpu=False)
    )
    assert "do not fit on this machine, which has 4.0 of 4.0 GiB free" in mistake(on_gpu=False)


class Metered(FakeBackend, MemoryMeter):
    def memory(self) -> EngineMemory | None:
        return EngineMemory(
            planned=[MemoryPart(name="weights", bytes=10), MemoryPart(name="kv_cache", bytes=5)],
            measured_bytes=14,
            kv_cache_planned_bytes=5,
            kv_cache_bytes=4,
        )


async def test_health_has_planned_and_measured_memory():
    backends = {Role.EMBED: ("e", Metered(Role.EMBED)), Role.GENERATE: ("g", FakeBackend(Role.GENERATE))}
    service = build_service(load_settings({"EMBED_JOIN": "true", "EMBED_CACHE": "1MiB"}), backends=backends)
    service.start()
    await eventually(lambda: service.health().backends[Role.EMBED].memory is not None)
    result = json.loads(encode(service.health()))["backends"]
    await service.stop()
    assert result["generate"]["memory"] is None
    assert result["embed"]["memory"] == {
        "planned": [{"name": "weights", "bytes": 10}, {"name": "kv_cache", "bytes": 5}],
        "measured_bytes": 14,
        "kv_cache_planned_bytes": 5,
        "kv_cache_bytes": 4,
    }
