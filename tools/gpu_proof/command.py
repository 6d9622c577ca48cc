"""What `deploy/gpu_proof.py` does, from its options to its report."""

import argparse
import os
import shlex
import signal
import sys
import tempfile
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec

from adapters.models.hardware import usable_gpu
from app.commands.bench.results import this_machine
from app.settings import VARIABLES
from tools.gpu_proof import checkout
from tools.gpu_proof.clock import Clock
from tools.gpu_proof.memory import card_now
from tools.gpu_proof.proof import Proof
from tools.gpu_proof.report import report_text
from tools.gpu_proof.steps import COMPARE, SHAPES, STEPS, ProofError, make_models

MODELS = "MODELS"
"""What stands in the report for the temporary folder."""


def main() -> int:
    """Prove it, and return the exit status."""
    options = _options()
    # SIGTERM must also stop the processes that this script has started.
    signal.signal(signal.SIGTERM, lambda number, _frame: sys.exit(128 + number))
    try:
        report = prove(options)
    except ProofError as error:
        print(f"gpu_proof: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    print(f"\n{report_text(report)}\nWritten to {options.output}/report.json and {options.output}/report.md")
    return 0 if report["passed"] else 1


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Prove on a GPU that both engines fit as planned, and how fast.")
    add = parser.add_argument
    add("--shape", choices=SHAPES, default="qwen3", help="of the models; tiny runs on a CPU")
    add("--steps", type=_steps, help=f"of {','.join(STEPS)}, with commas (all; with --shape tiny: whole,compare)")
    add("--output", type=Path, default=Path("gpu-proof"), help="folder of the report")
    add("--minutes", type=float, default=8.0, help="the longest that all of it may take")
    add("--flags", default="", help="more flags for all engines, such as --flags=--enforce-eager")
    add("--clients", type=_numbers, default=[1, 64], help="numbers of clients of each load, with commas")
    add("--rounds", type=int, default=2, help="of each load of the comparison")
    add("--seconds", type=float, default=2.0, help="of a round of a load")
    add("--statistics", choices=["on", "off"], default="on", help="of all sides of the comparison")
    options = parser.parse_args()
    options.output = options.output.resolve()
    options.steps = options.steps or (["whole", COMPARE] if options.shape == "tiny" else list(STEPS))
    return options


def _steps(text: str) -> list[str]:
    names = text.split(",")
    if unknown := set(names) - set(STEPS):
        raise argparse.ArgumentTypeError(f"no such step: {', '.join(sorted(unknown))}")
    return names


def _numbers(text: str) -> list[int]:
    return [int(number) for number in text.split(",")]


def prove(options: argparse.Namespace) -> dict[str, Any]:
    """Do all steps, and write the report after each.

    Raises:
        ProofError: there is no GPU, or no room for the report.
    """
    clock, card, on_card = Clock(options.minutes), card_now(), usable_gpu() is not None
    if options.shape != "tiny" and (card is None or not on_card):
        why = "there is no NVIDIA GPU here" if card is None else "this install computes on the CPU (INSTALL=gpu)"
        raise ProofError(f"{why}. To try the script itself on a CPU: --shape tiny")
    try:
        options.output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ProofError(f"{options.output} can't be made ({error.strerror}). Choose another: --output") from error
    report: dict[str, Any] = {
        "began": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": shlex.join(["gpu_proof.py", *sys.argv[1:]]),
        "shape": options.shape,
        "machine": msgspec.to_builtins(this_machine()),
        "card": card,
        "steps": [],
        "left_out": [],
        "failures": [],
        "passed": False,
    }
    with tempfile.TemporaryDirectory(prefix="gpu-proof-") as name:
        folder = Path(name)
        _leave_out_own_settings(folder)
        checkout.prepare(folder)
        clock.say(f"making the models ({options.shape}), without weights")
        models = make_models(options.shape, folder / MODELS)
        card_bytes = card["total_bytes"] if card and on_card else None
        Proof(options, clock, folder, models, report, card_bytes=card_bytes).run()
    return report


def _leave_out_own_settings(folder: Path) -> None:
    """Ignore the user's settings and .env file, so that results are comparable between machines."""
    for variable in VARIABLES:
        os.environ.pop(variable.name, None)
    os.environ["HF_HUB_OFFLINE"] = "1"
    os.chdir(folder)
