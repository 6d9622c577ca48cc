"""The service beside two of vLLM's own servers on one card: same shapes, same flags, in turn."""

from collections.abc import Sequence
from typing import Any

import msgspec

from app.commands.bench.comparison import MEMORIA, OVER_HTTP, VLLM
from app.commands.bench.processes import PLAIN_FLAGS, Models, Servers, gateway_settings, side
from app.commands.bench.results import Report, new_report
from app.commands.bench.rounds import measured_rounds
from app.commands.bench.workloads import Side
from domain.errors import ConfigurationError
from domain.roles import Role
from tools.gpu_proof.clock import Clock
from tools.gpu_proof.service import loads, run_within, wait_until_ready
from tools.gpu_proof.steps import ARGUMENTS, planned_flags

HALF = 0.48
"""Of the card for each side; the rest is for what is in use already."""
SILENT = {"METRICS": "false", "ENGINE_METRICS": "false", "REQUEST_LOG": "false"}
SILENT_FLAGS = "--disable-log-stats --disable-uvicorn-access-log"


def compare_speed(
    running: Servers,
    models: Models,
    base: dict[str, str],
    *,
    card_bytes: int | None,
    clients: Sequence[int],
    rounds: int,
    seconds: float,
    has_statistics: bool,
    clock: Clock,
) -> dict[str, Any]:
    """Start both sides, one after the other, and measure them in turn.

    Each side gets the plan for half of the card. The service is started first, so that what it compiles is there
    when vLLM's servers start. Once those are ready, a gateway in front of them is the third side.

    Args:
        running: starts the servers.
        models: folders of both models.
        base: settings of a service on them.
        card_bytes: size of the card; None on a CPU.
        clients: numbers of clients.
        rounds: of each workload.
        seconds: length of a round.
        has_statistics: whether all sides count and log their requests, or none does.
        clock: the time that is left.

    Returns:
        The `flags` of the engines by role, `ready_after_s` by side, `measurements`, and `failures` in words.

    Raises:
        ProofError: no plan can be made, or a side does not start.
        ConfigurationError: one of vLLM's servers does not start.
    """
    found: dict[str, Any] = {"flags": {}, "ready_after_s": {}, "measurements": [], "failures": []}
    settings = {**base, "ENGINE_LOG_LEVEL": "error"}
    if card_bytes is not None:
        settings |= planned_flags(settings, int(HALF * card_bytes), card_bytes=card_bytes, clock=clock)
    telemetry = {} if has_statistics else SILENT
    found["flags"] = {role: settings[name] for role, name in ARGUMENTS.items()}
    names = models[Role.EMBED].name, models[Role.GENERATE].name

    clock.say(f"starting {MEMORIA}")
    service = running.memoria({**settings, **telemetry})
    found["ready_after_s"][MEMORIA] = round(wait_until_ready(service, clock), 1)
    clock.say(f"starting {VLLM}")
    # On a CPU the service's engines have these by themselves.
    own = " ".join(filter(None, ["" if card_bytes else PLAIN_FLAGS, "" if has_statistics else SILENT_FLAGS]))
    pair = [running.vllm(models[role], role, f"{settings[name]} {own}") for role, name in ARGUMENTS.items()]
    found["ready_after_s"][VLLM] = round(max(each.wait_until("/health", clock.left_s) for each in pair), 1)
    gateway = running.memoria({**gateway_settings(*(each.url for each in pair)), **telemetry})
    wait_until_ready(gateway, clock)

    sides = [
        side(MEMORIA, service, service, *names),
        side(VLLM, pair[0], pair[1], *names),
        side(OVER_HTTP, gateway, gateway, *names),
    ]
    report = new_report("comparison", "gpu_proof")
    try:
        _measure(report, sides, clients, rounds, seconds, clock)
    except (TimeoutError, OSError, ConfigurationError) as error:
        found["failures"].append(f"The comparison broke off: {error or 'it did not end in time'}.")
    found["measurements"] = msgspec.to_builtins(report.measurements)
    failed = sum(each.failed for each in report.measurements)
    found["failures"] += [f"{failed} requests of the comparison failed."] if failed else []
    return found


def _measure(
    report: Report, sides: Sequence[Side], clients: Sequence[int], rounds: int, seconds: float, clock: Clock
) -> None:
    clock.say(f"measuring {', '.join(each.name for each in sides)}")

    def say(_step: str, _share: float | None) -> None:
        """The measurements themselves are in the report."""

    run_within(measured_rounds(report, sides, loads(clients), rounds, seconds, say), clock)
