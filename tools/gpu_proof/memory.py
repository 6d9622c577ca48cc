"""Planned against measured memory: of each engine, by part, and of the whole card."""

import json
import re
from collections.abc import Mapping
from typing import Any

import msgspec

from adapters.models.hardware import gpu_card, gpu_driver
from domain.units import GIB, MIB

# vLLM allocates whole blocks, so the KV cache may differ from the planned size by this share.
CACHE_TOLERANCE = 0.02
# What an ended engine may leave behind on a card, in bytes: the driver's own figures move by some MiB.
LEFT_BEHIND = 256 * MIB

LOGGED = {
    "weights": re.compile(r"Model loading took (-?[\d.]+) GiB"),
    "cuda_graphs": re.compile(r"Graph capturing finished in \d+ secs, took (-?[\d.]+) GiB"),
    "free_at_start": re.compile(r"Initial free memory ([\d.]+) GiB, reserved"),
}
"""What vLLM logs of an engine's memory.

Source: load_model and capture_model in `vllm.v1.worker.gpu_model_runner` and `vllm.v1.worker.gpu.model_runner`;
determine_available_memory in `vllm.v1.worker.gpu_worker`.
"""
NO_HEALTH: dict[str, Any] = {"backends": {}}
ALONE = ("weights", "kv_cache", "cuda_graphs", "cuda_context")
"""The parts that can be told by themselves."""
REST = "activations and the rest"
"""What an engine holds beside those."""


def logged_memory(log: str) -> dict[str, dict[str, int]]:
    """Bytes that vLLM logged, by model and by the names of `LOGGED`; of several starts, the first's.

    Args:
        log: of the service, in lines of JSON.
    """
    found: dict[str, dict[str, int]] = {}
    for line in log.splitlines():
        record = _record(line)
        for name, pattern in LOGGED.items():
            if "engine" in record and (number := pattern.search(str(record.get("message")))):
                found.setdefault(record["engine"], {}).setdefault(name, round(float(number[1]) * GIB))
    return found


def with_context(logged: dict[str, dict[str, int]], free_before: int | None) -> dict[str, dict[str, int]]:
    """The same with `cuda_context`: what was gone when the first engine looked, before it loaded anything.

    Args:
        logged: what `logged_memory` found.
        free_before: bytes of the card that were free before the start; None without a card.
    """
    starts = [one["free_at_start"] for one in logged.values() if "free_at_start" in one]
    if free_before is None or not starts:
        return logged
    # The engines start one after the other, so only the first one's context can be measured.
    context = max(0, free_before - max(starts))
    return {model: {**one, "cuda_context": context} for model, one in logged.items()}


def _record(line: str) -> dict[str, Any]:
    try:
        record = json.loads(line)
    except ValueError:
        return {}
    return record if isinstance(record, dict) else {}


def memory_by_role(
    health: dict[str, Any] | None,
    logged: Mapping[str, Mapping[str, int]],
    *,
    on_card: bool,
    by_process: bool = True,
) -> dict[str, Any]:
    """By role: what was planned, what is used, and what is wrong with that. Leaves out roles without a plan.

    Args:
        health: an answer of /health.
        logged: by model, what `logged_memory` found.
        on_card: whether the engines compute on a card.
        by_process: whether the driver tells the memory of processes; otherwise only the card's sum is compared.
    """
    models = {role: backend.get("model") for role, backend in (health or NO_HEALTH)["backends"].items()}
    return {
        role: compare_memory(memory, logged.get(models[role], {}), on_card=on_card, by_process=by_process)
        for role, memory in _told(health).items()
        if memory is not None
    }


def memory_failures(health: dict[str, Any] | None, compared: dict[str, Any], *, on_card: bool) -> list[str]:
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


def lists_processes(health: dict[str, Any] | None) -> bool:
    """Whether the driver tells the memory of each engine's processes; in a container it may know none of them."""
    return any(memory and memory.get("measured_bytes") is not None for memory in _told(health).values())


def _told(health: dict[str, Any] | None) -> dict[str, Any]:
    return {role: backend.get("memory") for role, backend in (health or NO_HEALTH)["backends"].items()}


def compare_memory(
    memory: dict[str, Any], logged: Mapping[str, int], *, on_card: bool, by_process: bool = True
) -> dict[str, Any]:
    """The plan of one engine against what it holds, from its part of /health and its log.

    On a card every number has to be there, or nothing would be proved.
    """
    planned = sum(part["bytes"] for part in memory["planned"])
    measured, cache = memory.get("measured_bytes"), memory.get("kv_cache_bytes")
    planned_cache = memory["kv_cache_planned_bytes"]
    complaints = []
    if on_card and by_process and measured is None:
        complaints.append("could not be measured.")
    if on_card and planned_cache and cache is None:
        complaints.append("does not tell the size of its KV cache.")
    if measured is not None and measured > planned:
        complaints.append(f"uses {gib(measured)}, and {gib(planned)} were planned.")
    if cache is not None and abs(cache - planned_cache) > CACHE_TOLERANCE * planned_cache:
        complaints.append(f"has a KV cache of {gib(cache)}, and {gib(planned_cache)} were planned.")
    return {
        "planned": memory["planned"],
        "planned_bytes": planned,
        "measured_bytes": measured,
        "kv_cache_planned_bytes": planned_cache,
        "kv_cache_bytes": cache,
        "parts": _parts(memory["planned"], {**logged, "kv_cache": cache}, measured),
        "complaints": complaints,
    }


def _parts(
    planned: list[dict[str, Any]], known: Mapping[str, int | None], measured: int | None
) -> dict[str, dict[str, int | None]]:
    """Planned and measured bytes by part; None for what is not known."""
    by_name = {part["name"]: part["bytes"] for part in planned}
    parts: dict[str, dict[str, int | None]] = {
        name: {"planned": by_name.get(name, 0), "measured": known.get(name)}
        for name in ALONE
        if name in by_name or known.get(name)
    }
    held = [part["measured"] for part in parts.values()]
    rest = None if measured is None or None in held else measured - sum(filter(None, held))
    unsaid = sum(amount for name, amount in by_name.items() if name not in ALONE)
    parts[REST] = {"planned": unsaid, "measured": rest}
    return parts


def card_now() -> dict[str, Any] | None:
    """The card with what is in use of it, and its driver; None without one."""
    card = gpu_card()
    if card is None:
        return None
    return {**msgspec.to_builtins(card), "free_bytes": card.free_bytes, "driver": gpu_driver()}


def used(card: dict[str, Any] | None) -> int | None:
    """Bytes of a card that are in use; None without one."""
    return None if card is None else card["total_bytes"] - card["free_bytes"]


def compare_card(cards: Mapping[str, dict[str, Any] | None], compared: dict[str, Any]) -> dict[str, Any]:
    """What both engines take of the card together, by what it has more in use than before they started.

    Args:
        cards: the card `before` the start, `after` the load, `restarted` if an engine was, and `ended`, when the
            service has ended.
        compared: planned and measured memory by role.
    """
    planned = sum(one["planned_bytes"] for one in compared.values())
    taken = _grown(cards, "before", "after")
    complaints = []
    if taken is not None and planned and taken > planned:
        complaints.append(f"Both engines take {gib(taken)} of the card, and {gib(planned)} were planned.")
    if (more := _grown(cards, "after", "restarted") or 0) > LEFT_BEHIND:
        complaints.append(f"{gib(more)} more of the card are in use since an engine was killed and started again.")
    if (left := _grown(cards, "before", "ended") or 0) > LEFT_BEHIND:
        complaints.append(f"{gib(left)} of the card are still in use after the end of both engines.")
    return {"planned_bytes": planned, "taken_bytes": taken, "complaints": complaints}


def _grown(cards: Mapping[str, dict[str, Any] | None], earlier: str, later: str) -> int | None:
    before, after = used(cards.get(earlier)), used(cards.get(later))
    return None if before is None or after is None else after - before


def gib(amount: int | None) -> str:
    """A size in words; nothing for one that is not known."""
    return "" if amount is None else f"{amount / GIB:.2f} GiB"
