"""Prints a plan as text: a table, a bar and a few sentences. All sizes are in GiB."""

from rich.console import Console
from rich.table import Table

from domain.memory_plan import EnginePlan, MemoryPlan
from domain.units import GIB, KIB

BAR = 72
"""Width of the whole card in characters."""
WIDTH = 100
NAMES = {
    "weights": "weights",
    "kv_cache": "KV cache",
    "activations": "activations, peak",
    "cuda_graphs": "CUDA graphs",
    "cuda_context": "CUDA context and libraries",
    "buffer": "vLLM's own buffer",
    "processes": "processes and their libraries",
}
MARKS = {"weights": "█", "kv_cache": "▒"}
OTHER_MARK = "▓"
LEGEND = f"{MARKS['weights']} weights  {MARKS['kv_cache']} KV cache  {OTHER_MARK} other  ░ not used by engines"


def print_plan(plan: MemoryPlan, console: Console) -> None:
    """Print a plan."""
    console.print(_headline(plan), markup=False)
    console.print(_table(plan))
    console.print("\n".join(_bars(plan)), markup=False)
    console.print(f"\nStart: {plan.start}", markup=False)
    if plan.changes:
        console.print("\nSuggested changes, least costly first:", markup=False)
        for number, change in enumerate(plan.changes, 1):
            then = ", and it fits" if change.fits_then else ""
            console.print(f"{number}. {change.what} Saves {_gib(change.saves_bytes)} GiB{then}.", markup=False)


def _headline(plan: MemoryPlan) -> str:
    card = plan.card
    used = f", {_gib(card.used_bytes)} GiB of it in use" if card.used_bytes else ""
    verdict = "It fits." if plan.fits else f"It does not fit: {_gib(plan.missing_bytes)} GiB are missing."
    return f"{card.name}: {_gib(card.total_bytes)} GiB{used}. {verdict}"


def _table(plan: MemoryPlan) -> Table:
    table = Table("GiB")
    for engine in plan.engines:
        table.add_column(f"{engine.role}: {engine.model}", justify="right", overflow="fold")
    for name, description in NAMES.items():
        if any(part.name == name for engine in plan.engines for part in engine.parts):
            table.add_row(description, *(_part(engine, name) for engine in plan.engines))
    table.add_section()
    table.add_row("total", *(_gib(engine.total_bytes) for engine in plan.engines))
    table.add_section()
    for name, values in _settings(plan.engines).items():
        table.add_row(name, *values)
    table.add_section()
    for length in sorted({fitting.context for engine in plan.engines for fitting in engine.fitting}):
        table.add_row(f"requests of {length} tokens", *(_fitting(engine, length) for engine in plan.engines))
    return table


def _settings(engines: list[EnginePlan]) -> dict[str, list[str]]:
    rows = {
        "max_model_len": [str(engine.max_model_len) for engine in engines],
        "max_num_batched_tokens": [str(engine.max_num_batched_tokens) for engine in engines],
        "max_num_seqs": [str(engine.max_num_seqs) for engine in engines],
        "kv_cache_dtype": [engine.kv_cache_dtype for engine in engines],
        "kv_cache_memory_bytes": [str(engine.kv_cache_memory_bytes) for engine in engines],
    }
    if any(engine.gpu_memory_utilization is not None for engine in engines):
        rows["gpu_memory_utilization"] = [str(engine.gpu_memory_utilization) for engine in engines]
    rows["KV cache per token, KiB"] = [f"{engine.kv_bytes_per_token / KIB:g}" for engine in engines]
    return rows


def _fitting(engine: EnginePlan, length: int) -> str:
    found = next((str(fitting.requests) for fitting in engine.fitting if fitting.context == length), None)
    return found or "–"


def _part(engine: EnginePlan, name: str) -> str:
    return next((_gib(part.bytes) for part in engine.parts if part.name == name), "–")


def _bars(plan: MemoryPlan) -> list[str]:
    """One line per owner; each begins where the one above ends."""
    whole = max(plan.card.total_bytes, plan.card.total_bytes + plan.missing_bytes)
    # Each owner's segments: their mark and their bytes.
    owners: list[tuple[str, list[tuple[str, int]]]] = []
    if plan.card.used_bytes:
        owners.append(("in use", [("░", plan.card.used_bytes)]))
    owners += [
        (str(engine.role), [(MARKS.get(part.name, OTHER_MARK), part.bytes) for part in engine.parts])
        for engine in plan.engines
    ]
    owners += [("reserve", [("░", plan.reserve_bytes)]), ("free", [("░", plan.free_bytes)])]
    lines, begin = [], 0
    for owner, segments in owners:
        total = sum(amount for _mark, amount in segments)
        if not total:
            continue
        drawn = ""
        for mark, amount in segments:
            # Both ends are rounded, so that rounding errors don't add up.
            end = begin + amount
            drawn += mark * (round(end / whole * BAR) - round(begin / whole * BAR))
            begin = end
        offset = round((begin - total) / whole * BAR)
        lines.append(f"{owner:<9}{' ' * offset}{drawn} {_gib(total)}")
    return [*lines, f"{'':9}{LEGEND}"]


def _gib(amount: int) -> str:
    return f"{amount / GIB:.2f}"
