"""Prove on a GPU that both engines fit as planned: one script that needs no model hub.

Makes the Qwen3 pair in its real shapes without weights, starts the service on them with vLLM's dummy weights,
compares the memory that was planned with the memory that is used, measures with `memoria bench`, and writes
report.json and report.md. Ends what it started, and ends by itself.

    .venv/bin/python deploy/gpu_proof.py --output docs/gpu-proof
    .venv/bin/python deploy/gpu_proof.py --shape tiny      the same on a CPU, with two tiny models, to try it

Ends with 0 if all fits and every request was answered, 1 if not, and 2 if there is nothing to prove it on.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
from gpu_proof_report import memory_by_role, memory_failures, report_text

from adapters.models.hardware import gpu_card, gpu_driver, usable_gpu
from app.commands.bench.processes import Server, servers
from app.commands.bench.results import this_machine
from app.commands.bench.tiny_models import make_tiny_models
from app.settings import VARIABLES
from domain.roles import ROLES, Role
from tools.real_shapes import make_real_shapes

POLL_S = 0.5
SAY_EVERY_S = 15.0
# Two engines that are small enough for two cores and compute what the large ones compute.
TINY_FLAGS = "--kv-cache-memory-bytes 67108864 --max-num-seqs 64"


class ProofError(Exception):
    """It can't be proved here; the message says why."""


class Clock:
    """The time that is left, and lines that say how far it has come."""

    def __init__(self, minutes: float) -> None:
        self._began = time.monotonic()
        self._end = self._began + 60 * minutes

    @property
    def left_s(self) -> float:
        """Never less than a second, so that what is started with it ends in good order."""
        return max(1.0, self._end - time.monotonic())

    @property
    def is_over(self) -> bool:
        """Whether the time is up."""
        return time.monotonic() >= self._end

    def say(self, text: str) -> None:
        """One line of progress."""
        print(f"{time.monotonic() - self._began:6.0f} s  {text}", flush=True)


def main() -> int:
    """Prove it, and return the exit status."""
    options = _options()
    # Whoever ends the script ends what it has started too.
    signal.signal(signal.SIGTERM, lambda number, _frame: sys.exit(128 + number))
    try:
        report = prove(options.shape, options.output, minutes=options.minutes, seconds=options.seconds)
    except ProofError as error:
        print(f"gpu_proof: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    print(f"\n{report_text(report)}\nWritten to {options.output}/report.json and {options.output}/report.md")
    return 0 if report["passed"] else 1


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--shape", choices=["qwen3", "tiny"], default="qwen3")
    parser.add_argument("--output", type=Path, default=Path("gpu-proof"), help="folder of the report")
    parser.add_argument("--minutes", type=float, default=25.0, help="the longest that all of it may take")
    parser.add_argument("--seconds", type=float, default=3.0, help="of each round of the benchmark")
    return parser.parse_args()


def prove(shape: str, output: Path, *, minutes: float, seconds: float) -> dict[str, Any]:
    """Do all of it.

    Args:
        shape: qwen3 on a GPU, or tiny.
        output: folder of the report, made if missing.
        minutes: after so long it gives up.
        seconds: length of a round of the benchmark.

    Raises:
        ProofError: there is no GPU, or no room for the report.
    """
    clock, card, on_card = Clock(minutes), _card_now(), usable_gpu() is not None
    if shape == "qwen3" and (card is None or not on_card):
        why = "there is no NVIDIA GPU here" if card is None else "this install computes on the CPU (INSTALL=gpu)"
        raise ProofError(f"{why}. To try the script itself on a CPU: --shape tiny")
    output = output.resolve()
    try:
        output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ProofError(f"{output} can't be made ({error.strerror}). Name another folder: --output") from error
    report: dict[str, Any] = {
        "began": datetime.now(UTC).isoformat(timespec="seconds"),
        "shape": shape,
        "machine": msgspec.to_builtins(this_machine()),
        "card": card,
        "failures": [],
    }
    # Beside the report, because a temporary folder may be one in memory.
    with tempfile.TemporaryDirectory(prefix="models-", dir=output) as folder:
        clock.say(f"making the models ({shape}), without weights")
        settings = _settings(shape, Path(folder))
        environment = _environment(settings)
        report["settings"] = {name: value.replace(folder, "MODELS") for name, value in settings.items()}
        for command in ("doctor", "plan"):
            clock.say(f"memoria {command}")
            report[command] = _asked(command, environment, output, clock)
        _serve(report, environment, output, clock, seconds=seconds)
    report["memory"] = memory_by_role(report["health"], on_card=on_card)
    report["failures"] += memory_failures(report["health"], report["memory"], on_card=on_card)
    report["passed"] = not report["failures"]
    (output / "report.json").write_text(json.dumps(report, indent=2))
    (output / "report.md").write_text(report_text(report))
    return report


def _settings(shape: str, folder: Path) -> dict[str, str]:
    if shape == "tiny":
        tiny = make_tiny_models(folder)
        models = {Role.EMBED: tiny["tiny-embed"], Role.GENERATE: tiny["tiny-gen"]}
    else:
        models = make_real_shapes(folder)
    flags = "--load-format dummy" + (f" {TINY_FLAGS}" if shape == "tiny" else "")
    found: dict[str, str] = {}
    for role, model in models.items():
        found[f"MODEL_{ROLES[role].prefix}_NAME"] = str(model)
        found[f"VLLM_{ROLES[role].prefix}_ARGS"] = flags
    return found


def _environment(settings: dict[str, str]) -> dict[str, str]:
    """Without the settings of whoever runs it, so that the same is proved everywhere."""
    ours = {variable.name for variable in VARIABLES}
    kept = {name: value for name, value in os.environ.items() if name not in ours}
    return {**kept, "HF_HUB_OFFLINE": "1", **settings}


def _asked(command: str, environment: dict[str, str], output: Path, clock: Clock) -> Any:
    """What one of the commands says as JSON, or None if it can't."""
    try:
        answer = subprocess.run(
            [sys.executable, "-m", "app.cli", command, "--json"],
            capture_output=True, text=True, env=environment, cwd=output, timeout=clock.left_s, check=False,
        )  # fmt: skip
        return json.loads(answer.stdout)
    except (subprocess.TimeoutExpired, ValueError):
        return None


def _serve(
    report: dict[str, Any], environment: dict[str, str], output: Path, clock: Clock, *, seconds: float
) -> None:
    """Start the service, look at it, measure it, look again, end it."""
    with servers(output) as running:
        clock.say("starting both engines")
        service = running.memoria(environment)
        ready_after = _wait(service, clock)
        if ready_after is None:
            said = " ".join(service.log.split())[-1500:]
            report["failures"].append(f"The engines were not ready in time. The service said: {said}")
            report["health"] = {"last": _get(f"{service.url}/health")}
            return
        clock.say(f"both are ready after {ready_after:.0f} s")
        report["ready_after_s"] = round(ready_after, 1)
        report["health"] = {"ready": _settled_health(service, clock)}
        report["card_ready"] = _card_now()
        clock.say("memoria bench")
        report["bench"] = _bench(report, service, environment, output, clock, seconds=seconds)
        report["health"]["after"] = _settled_health(service, clock)
        report["card_after"] = _card_now()
        clock.say("ending the service")


def _wait(service: Server, clock: Clock) -> float | None:
    """Seconds until both models serve, or None if they do not."""
    began = said = time.monotonic()
    while service.is_running and not clock.is_over:
        health = _get(f"{service.url}/health")
        if health is not None and health["status"] == "ok":
            return time.monotonic() - began
        if time.monotonic() - said > SAY_EVERY_S:
            said = time.monotonic()
            backends = (health or {}).get("backends", {})
            states = [f"{role} {one['state']} ({one['reason'] or 'well'})" for role, one in backends.items()]
            clock.say(f"waiting: {', '.join(states) or 'the service does not listen yet'}")
        time.sleep(POLL_S)
    return None


def _settled_health(service: Server, clock: Clock) -> dict[str, Any] | None:
    """The health of the service, a little later than now: what is measured is measured every few seconds."""
    patience = time.monotonic() + min(10.0, clock.left_s)
    while time.monotonic() < patience:
        health = _get(f"{service.url}/health")
        told = [one.get("memory") for one in (health or {"backends": {}})["backends"].values()]
        if told and all(memory is None or memory.get("measured_bytes") for memory in told):
            return health
        time.sleep(POLL_S)
    return _get(f"{service.url}/health")


def _bench(
    report: dict[str, Any],
    service: Server,
    environment: dict[str, str],
    output: Path,
    clock: Clock,
    *,
    seconds: float,
) -> Any:
    """The measurements; failures of theirs are failures of the proof."""
    folder = output / "bench"
    command = [sys.executable, "-m", "app.cli", "bench", "--url", service.url, "--seconds", f"{seconds:g}"]
    try:
        answer = subprocess.run(
            [*command, "--output", str(folder)],
            capture_output=True, text=True, env=environment, cwd=output, timeout=clock.left_s, check=False,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        report["failures"].append("memoria bench did not end in time.")
        return None
    if answer.returncode != 0:
        report["failures"].append(f"memoria bench ended with {answer.returncode}: {answer.stderr.strip()[-500:]}")
        return None
    measurements = json.loads((folder / "report.json").read_text())["measurements"]
    failed = sum(each["failed"] for each in measurements)
    if failed:
        report["failures"].append(f"{failed} requests of memoria bench failed.")
    return measurements


def _get(url: str) -> Any:
    """An answer as JSON, whatever its status; None if none came."""
    try:
        with urllib.request.urlopen(url, timeout=5) as response:
            return json.load(response)
    except urllib.error.HTTPError as error:
        with error:
            return _json_of(error.read)
    except (OSError, ValueError):
        return None


def _json_of(read: Callable[[], bytes]) -> Any:
    try:
        return json.loads(read())
    except (OSError, ValueError):
        return None


def _card_now() -> dict[str, Any] | None:
    card = gpu_card()
    if card is None:
        return None
    return {**msgspec.to_builtins(card), "free_bytes": card.free_bytes, "driver": gpu_driver()}


if __name__ == "__main__":
    sys.exit(main())
