"""A proof's report for a person, in Markdown."""

import statistics
from collections.abc import Sequence
from typing import Any

from app.commands.bench.comparison import VLLM
from tools.gpu_proof.memory import gib, used


def report_text(report: dict[str, Any]) -> str:
    """The whole report."""
    card, machine = report["card"], report["machine"]
    where = "a CPU" if card is None else f"{card['name']}, {gib(card['total_bytes'])}, driver {card['driver']}"
    versions = ", ".join(
        f"{name} {version}" for name, version in machine["versions"].items() if name == "torch" or "vllm" in name
    )
    processor = f"{machine['processor']}, {machine['cores']} cores"
    lines = [
        f"# Proof on {where}",
        "",
        f"{report['began']}, shape `{report['shape']}`, {processor}, {versions}.",
        "",
        f"`{report['command']}`",
        "",
        "**Passed.**" if not report["failures"] else "**Failed:**",
        "",
        *(f"- {failure}" for failure in report["failures"]),
        *([""] if report["failures"] else []),
    ]
    if report["left_out"]:
        lines += [f"Left out for want of time: {', '.join(report['left_out'])}.", ""]
    for step in report["steps"]:
        lines += [f"## {step['name']}", "", *_step_lines(step)]
    return "\n".join(lines)


def _step_lines(step: dict[str, Any]) -> list[str]:
    lines: list[str] = []
    if "ready_after_s" in step:
        ready = step["ready_after_s"]
        by_side = (
            ", ".join(f"{side} {took:g} s" for side, took in ready.items()) if isinstance(ready, dict) else ""
        )
        lines += [f"Both models were ready after {by_side or f'{ready:g} s'}.", ""]
    if "refusal" in step:
        lines += [f"The service refused to start: {step['refusal']}", ""]
    lines += _memory_lines(step) + _restart_lines(step) + _flag_lines(step)
    measurements = step.get("measurements") or []
    return lines + (_speed_lines(measurements) if step["name"] == "compare" else _load_lines(measurements))


def _memory_lines(step: dict[str, Any]) -> list[str]:
    memory = step.get("memory")
    if memory is None:
        return []
    if not memory:
        return ["The service reported no memory plan, so the measured memory is not compared with one.", ""]
    rows = []
    for role, one in memory.items():
        rows.append([role, "all", gib(one["planned_bytes"]), gib(one["measured_bytes"])])
        rows += [[role, name, gib(part["planned"]), gib(part["measured"])] for name, part in one["parts"].items()]
    whole = step["card"]
    if whole["taken_bytes"] is not None:
        rows.append(["both", "of the card", gib(whole["planned_bytes"]), gib(whole["taken_bytes"])])
    cards = {name: gib(amount) for name, card in step["cards"].items() if (amount := used(card)) is not None}
    told = ", ".join(f"{amount} {name}" for name, amount in cards.items())
    return [
        *_table(["engine", "part", "planned", "measured"], rows),
        *([f"In use of the whole card: {told}.", ""] if told else []),
    ]


def _restart_lines(step: dict[str, Any]) -> list[str]:
    found = step.get("restart")
    if found is None:
        return []
    return [
        f"The engine of {found['killed']} was killed and served again after {found['ready_after_s']:g} s; "
        f"meanwhile the other was asked {found['asked']} times and failed {found['failed']} times.",
        "",
    ]


def _flag_lines(step: dict[str, Any]) -> list[str]:
    flags = step.get("flags", {})
    return [*(f"- {role}: `{words}`" for role, words in flags.items()), ""] if flags else []


def _load_lines(measurements: list[dict[str, Any]]) -> list[str]:
    rows = [[each["workload"], *_figures([each])] for each in measurements]
    return _table(["load", *FIGURES], rows)


FIGURES = ("requests/s", "tokens/s", "p50", "p95", "first token p50", "between tokens p50", "failed")


def _speed_lines(measurements: list[dict[str, Any]]) -> list[str]:
    """The median of the rounds, by load and side, and how many times the requests of vLLM's own servers."""
    rows = []
    for load in dict.fromkeys(each["workload"] for each in measurements):
        sides: dict[str, list[dict[str, Any]]] = {}
        for each in measurements:
            if each["workload"] == load:
                sides.setdefault(each["side"], []).append(each)
        base = _median(sides.get(VLLM, []), "requests_per_s")
        for name, rounds in sides.items():
            mine = _median(rounds, "requests_per_s")
            against = f"{mine / base:.2f} ×" if mine and base and name != VLLM else ""
            rows.append([load, name, *_figures(rounds), against])
    return _table(["load", "side", *FIGURES, "beside vLLM's own"], rows)


def _figures(rounds: Sequence[dict[str, Any]]) -> list[str]:
    times = (("latency_ms", "p50"), ("latency_ms", "p95"), ("first_token_ms", "p50"), ("between_tokens_ms", "p50"))
    tokens = _median(rounds, "tokens_per_s")
    return [
        f"{_median(rounds, 'requests_per_s') or 0:.1f}",
        f"{tokens:.0f}" if tokens else "",
        *("" if (found := _median(rounds, *path)) is None else f"{found:.1f} ms" for path in times),
        str(sum(each["failed"] for each in rounds)),
    ]


def _median(rounds: Sequence[dict[str, Any]], name: str, inner: str | None = None) -> float | None:
    values = [each.get(name) if inner is None else (each.get(name) or {}).get(inner) for each in rounds]
    known = [value for value in values if value is not None]
    return statistics.median(known) if known else None


def _table(names: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    if not rows:
        return []
    return [
        f"| {' | '.join(names)} |",
        "|" + "---|" * len(names),
        *(f"| {' | '.join(row)} |" for row in rows),
        "",
    ]
