"""What is proved, step by step: model shapes, and the settings with which the service is started on them."""

import os
import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import msgspec

from app.commands.bench.processes import Models
from app.commands.bench.tiny_models import make_tiny_models
from domain.roles import DEFAULT_ROLES, ROLES, Role
from domain.units import GIB
from tools.gpu_proof.clock import Clock
from tools.real_shapes import make_real_shapes

# Two engines that are small enough for two cores and compute what the large ones compute.
TINY_FLAGS = "--kv-cache-memory-bytes 67108864 --max-num-seqs 64"
SHAPES = ("qwen3", "small", "tiny")
REFUSAL, COMPARE = "refusal", "compare"
_SHARE = re.compile(r"(?<=--gpu-memory-utilization )[\d.]+")


class ProofError(Exception):
    """A proof, or a step of it, is not possible here; the message says why."""


class Setting(msgspec.Struct, frozen=True, kw_only=True):
    """One way to share the card that is planned, started and measured."""

    card_gib: int | None = None
    """Size of the card to plan for; None for all of this one."""
    flags: str = ""
    """More flags for both engines."""
    is_killed: bool = False
    """Whether an engine is killed at the end, to see it come back."""


SETTINGS = {
    "whole": Setting(is_killed=True),
    "24GiB": Setting(card_gib=24),
    "fp8": Setting(flags="--kv-cache-dtype fp8"),
}
STEPS = (*SETTINGS, REFUSAL, COMPARE)
ARGUMENTS = {role: f"VLLM_{ROLES[role].prefix}_ARGS" for role in DEFAULT_ROLES}
"""The setting with an engine's flags."""


def make_models(shape: str, folder: Path) -> Models:
    """Folders of both models. Their weights are holes, so they need no room even on a disk in memory.

    Args:
        shape: qwen3; small, a generator of the embedding model's size; or tiny, for a CPU.
        folder: for the models.
    """
    if shape == "tiny":
        tiny = make_tiny_models(folder)
        return {Role.EMBED: tiny["tiny-embed"], Role.GENERATE: tiny["tiny-gen"]}
    return make_real_shapes(folder, small=shape == "small")


def model_settings(shape: str, models: Models, flags: str) -> dict[str, str]:
    """Settings of a service on these models, with dummy weights; the rest is the service's own choice."""
    words = ["--load-format dummy", TINY_FLAGS if shape == "tiny" else "", flags]
    arguments = " ".join(filter(None, words))
    names = {f"MODEL_{ROLES[role].prefix}_NAME": str(model) for role, model in models.items()}
    # The log tells the memory of weights and CUDA graphs, in a form that is easy to read.
    return {
        **names,
        **dict.fromkeys(ARGUMENTS.values(), arguments),
        "ENGINE_LOG_LEVEL": "info",
        "LOG_FORMAT": "json",
    }


def setting_of(
    setting: Setting, base: Mapping[str, str], *, card_bytes: int | None, clock: Clock
) -> dict[str, str]:
    """Settings of the service for one step.

    Raises:
        ProofError: no plan can be made for it.
    """
    settings = {**base, **{name: f"{base[name]} {setting.flags}".strip() for name in ARGUMENTS.values()}}
    if setting.card_gib is None:
        return settings
    return {**settings, **planned_flags(settings, setting.card_gib * GIB, card_bytes=card_bytes, clock=clock)}


def planned_flags(
    settings: Mapping[str, str], plan_bytes: int, *, card_bytes: int | None, clock: Clock
) -> dict[str, str]:
    """Flags that fix the plan for a card of some size on the card that is here, by setting (`VLLM_EMBED_ARGS` …).

    Args:
        settings: of the service.
        plan_bytes: size of the card to plan for.
        card_bytes: size of this card, of which vLLM takes its share; None on a CPU.
        clock: the time that is left.

    Raises:
        ProofError: the models do not fit, or can't be planned.
    """
    said = memoria(["plan", "--gpu-memory", f"{plan_bytes / GIB:.2f}GiB", "--env"], settings, clock)
    if said.returncode != 0:
        raise ProofError(f"No plan for {plan_bytes / GIB:.0f} GiB: {(said.stderr or said.stdout).strip()[-400:]}")
    lines = dict(line.split("=", 1) for line in said.stdout.splitlines() if "=" in line)
    part = plan_bytes / (card_bytes or plan_bytes)
    return {
        name: _SHARE.sub(lambda found: f"{float(found[0]) * part:.4f}", lines[name]) for name in ARGUMENTS.values()
    }


def memoria(words: list[str], settings: Mapping[str, str], clock: Clock) -> subprocess.CompletedProcess[str]:
    """Run one of the service's commands to its end.

    Raises:
        ProofError: it takes longer than the time that is left.
    """
    try:
        return subprocess.run(
            [sys.executable, "-m", "app.cli", *words],
            capture_output=True, text=True, env={**os.environ, **settings}, timeout=clock.left_s, check=False,
        )  # fmt: skip
    except subprocess.TimeoutExpired as error:
        raise ProofError(f"memoria {words[0]} did not end in time.") from error
