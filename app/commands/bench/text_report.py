"""A report as tables in a terminal."""

from rich.console import Console
from rich.table import Table

from app.commands.bench.measure import Measurement, Percentiles
from app.commands.bench.results import Ratio, Report


def print_report(report: Report, console: Console) -> None:
    """Print all that a report has."""
    machine = report.machine
    console.print(f"[bold]{report.title}[/bold], {report.began}")
    console.print(f"{machine.processor}, {machine.cores} cores, {machine.memory_gib} GiB, {machine.system}")
    console.print(", ".join(f"{name} {version}" for name, version in machine.versions.items()))
    if report.flags:
        console.print(f"engine flags: {report.flags}")
    for table in (_rows(report), _ratios(report.ratios), _measurements(report.measurements)):
        if table is not None:
            console.print(table)
    for note in report.notes:
        console.print(f"note: {note}")


def _rows(report: Report) -> Table | None:
    if not report.rows:
        return None
    table = Table("what", "found", "wanted", "")
    for row in report.rows:
        table.add_row(row.what, row.found, row.wanted, "met" if row.is_met else "[red]not met[/red]")
    return table


def _ratios(ratios: list[Ratio]) -> Table | None:
    if not ratios:
        return None
    table = Table("workload", "figure", "side", "against", "ratio", "lowest–highest", "goal", "")
    for each in ratios:
        found = "–" if each.ratio is None else f"{each.ratio:.3g}"
        spread = "–" if each.lowest is None or each.highest is None else f"{each.lowest:.3g}–{each.highest:.3g}"
        table.add_row(
            each.workload,
            each.figure,
            f"{each.side}: {_number(each.value)}",
            f"{each.against}: {_number(each.other)}",
            found,
            spread,
            f"{each.direction} {each.goal:.3g}",
            "reached" if each.is_reached else "[red]not reached[/red]",
        )
    return table


def _measurements(measurements: list[Measurement]) -> Table | None:
    if not measurements:
        return None
    table = Table(
        "workload", "side", "requests/s", "tokens/s", "p50/p95/p99 ms", "first token", "between tokens", "failed"
    )
    for each in measurements:
        table.add_row(
            each.workload if each.rate is None else f"{each.workload} at {each.rate:g}/s",
            each.side,
            f"{each.requests_per_s:.1f}",
            f"{each.tokens_per_s:.0f}" if each.tokens_per_s else "",
            _percentiles(each.latency_ms),
            _percentiles(each.first_token_ms),
            _percentiles(each.between_tokens_ms),
            str(each.failed),
        )
    return table


def _percentiles(found: Percentiles | None) -> str:
    return "" if found is None else f"{found.p50:.1f}/{found.p95:.1f}/{found.p99:.1f}"


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:,.4g}"
