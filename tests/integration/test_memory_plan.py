"""The memory plan compared with real engines: their own measurements, and the service's report."""

import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import httpx
import psutil
import pytest

from adapters.memory_planning import EngineOptions, plan_engines
from adapters.models.hardware import ram
from adapters.models.locate import LocatedModel
from adapters.models.packaged import PACKAGED_MODELS, prepare
from app.settings import load_settings
from domain.memory_plan import EnginePlan
from domain.roles import ROLES, Role
from tests.processes import ROOT, ServiceProcess, engine_environment

pytestmark = pytest.mark.integration

CACHE_BYTES = 512 * 2**20
FLAGS = f"--dtype float32 --enforce-eager --kv-cache-memory-bytes {CACHE_BYTES}"
TOLERANCE = 0.02


def planned(role: Role, folder: Path) -> EnginePlan:
    model = LocatedModel(name=folder.name, source=str(folder), is_local=True)
    return plan_engines(ram(), {role: model}, {role: EngineOptions(flags=FLAGS)}).engines[0]


def measured(role: Role, folder: Path) -> dict[str, int]:
    """vLLM's measurements of an engine with this model."""
    command = [
        sys.executable,
        "-m",
        "tests.integration.weigh_engine",
        str(folder),
        ROLES[role].runner,
        *FLAGS.split(),
    ]
    done = subprocess.run(
        command, cwd=ROOT, env=engine_environment(), capture_output=True, text=True, timeout=300, check=False
    )
    line = next((line for line in done.stdout.splitlines() if line.startswith("WEIGHED ")), None)
    assert line is not None, done.stdout[-2000:] + done.stderr[-3000:]
    return json.loads(line.removeprefix("WEIGHED "))


@pytest.fixture(scope="module", params=["all-MiniLM-L6-v2", "SmolLM2-135M-Instruct", "tiny-embed", "tiny-gen"])
def engine(request, tiny_models) -> tuple[EnginePlan, dict[str, int]]:
    name = request.param
    if name in PACKAGED_MODELS:
        model = PACKAGED_MODELS[name]
        folder = prepare(model, load_settings({}).cache_dir / "models", lambda _step, _share: None)
        role = model.role
    else:
        folder, role = tiny_models[name], Role.EMBED if name == "tiny-embed" else Role.GENERATE
    return planned(role, folder), measured(role, folder)


def part(plan: EnginePlan, name: str) -> int:
    return next((part.bytes for part in plan.parts if part.name == name), 0)


def test_planned_weights_match_vllm(engine):
    plan, found = engine
    assert part(plan, "weights") == pytest.approx(found["weights"], rel=TOLERANCE)


def test_the_planned_cache_matches_vllm(engine):
    plan, found = engine
    assert part(plan, "kv_cache") == pytest.approx(found["kv_cache"], rel=TOLERANCE)
    # BERT has none, whatever size is set.
    assert bool(plan.kv_block_bytes) == bool(found["kv_cache"])


def test_the_planned_block_size_matches_vllm(engine):
    plan, found = engine
    if plan.kv_block_bytes:
        assert found["blocks"] * plan.kv_block_bytes == pytest.approx(CACHE_BYTES, rel=TOLERANCE)
        assert found["block_tokens"] * plan.kv_bytes_per_token == plan.kv_block_bytes


def test_the_planned_context_matches_vllm(engine):
    plan, found = engine
    assert plan.max_model_len == found["context"]


def test_health_reports_planned_and_measured_memory(real_service: ServiceProcess):
    def memory() -> dict[str, dict]:
        health = httpx.get(f"{real_service.url}/health", trust_env=False).json()["backends"]
        return {role: health[role]["memory"] for role in ("embed", "generate")}

    def is_measured(role: dict) -> bool:
        return role["measured_bytes"] is not None and role["kv_cache_bytes"] is not None

    # Measured every few seconds: the last measurement may be from before the engines started.
    until(lambda: all(map(is_measured, memory().values())))
    for role in memory().values():
        planned_bytes = {part["name"]: part["bytes"] for part in role["planned"]}
        assert {"weights", "activations", "processes"} <= planned_bytes.keys()
        assert planned_bytes["weights"] < role["measured_bytes"] < sum(planned_bytes.values())
        assert role["kv_cache_planned_bytes"] == planned_bytes.get("kv_cache", 0)
        assert role["kv_cache_bytes"] == pytest.approx(role["kv_cache_planned_bytes"], rel=TOLERANCE)
    held = sum(process.memory_info().rss for process in real_service.engine_processes())
    assert sum(role["measured_bytes"] for role in memory().values()) < held < psutil.virtual_memory().total


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline, "the condition was not met in time"
        time.sleep(0.25)
