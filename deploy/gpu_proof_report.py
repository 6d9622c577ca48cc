"""What `gpu_proof.py` found, compared and told."""

from typing import Any

from domain.units import GIB

# The cache of a plan is what vLLM is told to make, less what does not fill a block.
CACHE_TOLERANCE = 0.02


def memory_by_role(health: dict[str, Any], *, on_card: bool) -> dict[str, Any]:
    """By role: what was planned, what is used, and what is wrong with that. Empty where nothing was planned.

    Args:
        health: answers of /health, by when they were given; the last one that is there counts.
        on_card: whether the engines compute on a card.
    """
    told = _told(health)
    return {role: compare_memory(memory, on_card=on_card) for role, memory in told.items() if memory is not None}


def memory_failures(health: dict[str, Any], compared: dict[str, Any], *, on_card: bool) -> list[str]:
    """What is wrong with the memory of all engines; on a card also that nothing was planned for one.

    Args:
        health: as for `memory_by_role`.
        compared: what that returned.
        on_card: whether the engines compute on a card.
    """
    unplanned = [role for role, memory in _told(health).items() if memory is None and on_card]
    return [
        *(f"{role}: nothing was planned." for role in unplanned),
        *(f"{role}: {complaint}" for role, one in compared.items() for complaint in one["complaints"]),
    ]


def _told(health: dict[str, Any]) -> dict[str, Any]:
    last = health.get("after") or health.get("ready") or {"backends": {}}
    return {role: backend.get("memory") for role, backend in last["backends"].items()}


def compare_memory(memory: dict[str, Any], *, on_card: bool) -> dict[str, Any]:
    """The plan of one engine against what it holds, from its part of /health.

    On a card every number has to be there, or nothing would be proved.
    """
    planned = sum(part["bytes"] for part in memory["planned"])
    measured, cache = memory.get("measured_bytes"), memory.get("kv_cache_bytes")
    planned_cache = memory["kv_cache_planned_bytes"]
    complaints = []
    if on_card and measured is None:
        complaints.append("could not be measured. In a container the driver may not know its processes.")
    if on_card and planned_cache and cache is None:
        complaints.append("does not tell the size of its KV cache.")
    if measured is not None and measured > planned:
        complaints.append(f"uses {_gib(measured)}, and {_gib(planned)} were planned.")
    if cache is not None and abs(cache - planned_cache) > CACHE_TOLERANCE * planned_cache:
        complaints.append(f"has a KV cache of {_gib(cache)}, and {_gib(planned_cache)} were planned.")
    return {
        "planned": memory["planned"],
        "planned_bytes": planned,
        "measured_bytes": measured,
        "kv_cache_planned_bytes": planned_cache,
        "kv_cache_bytes": cache,
        "complaints": complaints,
    }


def report_text(report: dict[str, Any]) -> str:
    """The report for a person, in Markdown."""
    card, machine = report["card"], report["machine"]
    where = "a CPU" if card is None else f"{card['name']}, {_gib(card['total_bytes'])}, driver {card['driver']}"
    versions = ", ".join(f"{name} {version}" for name, version in machine["versions"].items() if "vllm" in name)
    processor = f"{machine['processor']}, {machine['cores']} cores"
    lines = [
        f"# Proof on {where}",
        "",
        f"{report['began']}, shape `{report['shape']}`, {processor}, {versions}.",
        "",
        "**Passed.**" if not report["failures"] else "**Failed:**",
        "",
        *(f"- {failure}" for failure in report["failures"]),
        *([""] if report["failures"] else []),
    ]
    if "ready_after_s" in report:
        lines += [f"Both models were ready after {report['ready_after_s']:g} s.", ""]
    cards = {"before": card, "ready": report.get("card_ready"), "after load": report.get("card_after")}
    used = [f"{_gib(one['total_bytes'] - one['free_bytes'])} {when}" for when, one in cards.items() if one]
    if used:
        lines += [f"Used of the whole card: {', '.join(used)}.", ""]
    lines += _memory_lines(report.get("memory", {})) + _bench_lines(report.get("bench"))
    return "\n".join(lines)


def _memory_lines(memory: dict[str, Any]) -> list[str]:
    if not memory:
        return ["The service told of no plan, so nothing can be compared with one.", ""]
    lines = ["| engine | planned | of it | used | KV cache planned | KV cache |", "|---|---|---|---|---|---|"]
    for role, one in memory.items():
        parts = ", ".join(f"{part['name']} {_gib(part['bytes'])}" for part in one["planned"])
        keys = ("measured_bytes", "kv_cache_planned_bytes", "kv_cache_bytes")
        amounts = " | ".join(_gib(one[key]) for key in keys)
        lines.append(f"| {role} | {_gib(one['planned_bytes'])} | {parts} | {amounts} |")
    return [*lines, ""]


def _bench_lines(measurements: list[dict[str, Any]] | None) -> list[str]:
    if not measurements:
        return []
    lines = ["| load | requests/s | tokens/s | p50 | p95 | failed |", "|---|---|---|---|---|---|"]
    for each in measurements:
        latency = each.get("latency_ms") or {}
        times = [f"{latency[name]:.1f} ms" if latency.get(name) is not None else "" for name in ("p50", "p95")]
        tokens = f"{each['tokens_per_s']:.0f}" if each.get("tokens_per_s") else ""
        figures = (f"{each['requests_per_s']:.1f}", tokens, *times, each["failed"])
        lines.append(f"| {each['workload']} | {' | '.join(map(str, figures))} |")
    return [*lines, ""]


def _gib(amount: int | None) -> str:
    return "" if amount is None else f"{amount / GIB:.2f} GiB"
