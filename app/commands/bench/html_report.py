"""A report as one HTML page with its charts inside: no script, nothing to load."""

import html
import re
import sys
from collections.abc import Callable, Sequence

import pygal
from pygal.style import Style

from app.commands.bench.measure import Measurement, Percentiles, median_of
from app.commands.bench.results import MemorySample, Report

# For plugins, which are not used here, pygal leaves an import hook of a kind that Python no longer knows.
sys.meta_path[:] = [hook for hook in sys.meta_path if type(hook).__module__ != "pygal"]

STYLE = Style(
    background="transparent",
    plot_background="transparent",
    colors=("#1f6feb", "#d4760a", "#2da44e", "#8250df", "#cf222e", "#57606a"),
    font_family="system-ui, sans-serif",
)
CSS = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 70rem; margin: 2rem auto; padding: 0 1rem; }
body { color: #1f2328; }
table { border-collapse: collapse; margin: 1rem 0; font-size: .9rem; }
th, td { border: 1px solid #d0d7de; padding: .3rem .6rem; text-align: left; }
th { background: #f6f8fa; } .yes { color: #1a7f37; } .no { color: #cf222e; }
.charts { display: grid; grid-template-columns: repeat(auto-fit, minmax(28rem, 1fr)); gap: 1rem; }
figure { margin: 0; } code { background: #f6f8fa; padding: 0 .3em; }
"""
_SCRIPT = re.compile(r"<script.*?</script>", re.DOTALL)
Figure = Callable[[Measurement], float | None]


def html_report(report: Report) -> str:
    """The whole page."""
    machine = report.machine
    versions = ", ".join(f"{name} {version}" for name, version in machine.versions.items())
    facts = [
        ("when", report.began),
        ("command", report.command),
        ("machine", f"{machine.processor}, {machine.cores} cores, {machine.memory_gib} GiB, {machine.system}"),
        ("versions", f"Python {machine.python}, {versions}"),
        ("engine flags", report.flags),
    ]
    parts = [
        f"<h1>{html.escape(report.title)}</h1>",
        _table(["", ""], [[name, value] for name, value in facts if value]),
        *[f"<p>{html.escape(note)}</p>" for note in report.notes],
        _rows(report),
        _ratios(report),
        _charts(report),
        _measurements(report.measurements),
    ]
    title = html.escape(report.title)
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{title}</title><style>{CSS}</style>'
        + "\n".join(parts)
        + "</html>\n"
    )


def _rows(report: Report) -> str:
    if not report.rows:
        return ""
    rows = [[row.what, row.found, row.wanted, _verdict("met" if row.is_met else "not met")] for row in report.rows]
    return "<h2>Requirements</h2>" + _table(["what", "found", "wanted", ""], rows)


def _ratios(report: Report) -> str:
    if not report.ratios:
        return ""
    rows = [
        [
            each.workload,
            each.figure,
            f"{each.side}: {_number(each.value)}",
            f"{each.against}: {_number(each.other)}",
            _number(each.ratio),
            f"{_number(each.lowest)} to {_number(each.highest)}",
            f"{each.direction} {each.goal:.3g}",
            _verdict("reached" if each.is_reached else "not reached"),
        ]
        for each in report.ratios
    ]
    names = ["workload", "figure", "side", "against", "ratio (median)", "rounds", "goal", ""]
    return "<h2>Ratios</h2>" + _table(names, rows)


def _charts(report: Report) -> str:
    charts: list[str] = []
    for kind in ("embeddings", "completions", "streams"):
        found = [each for each in report.measurements if each.workload.startswith(kind) and each.rate is None]
        if len({each.clients for each in found}) > 1:
            charts.append(
                _over_clients(f"{kind}: requests/s over clients", found, lambda each: each.requests_per_s)
            )
            charts.append(_over_clients(f"{kind}: p95 latency, ms, over clients", found, _p95))
    streams = [each for each in report.measurements if each.first_token_ms is not None]
    if streams:
        charts.append(_percentile_bars("time to first token, ms", streams, lambda each: each.first_token_ms))
        charts.append(_percentile_bars("time between tokens, ms", streams, lambda each: each.between_tokens_ms))
    if report.memory:
        charts += _memory(report.memory)
    if not charts:
        return ""
    figures = "".join(f"<figure>{chart}</figure>" for chart in charts)
    return f'<h2>Charts</h2><div class="charts">{figures}</div>'


def _over_clients(title: str, found: Sequence[Measurement], of: Figure) -> str:
    clients = sorted({each.clients for each in found})
    chart = pygal.Line(title=title, style=STYLE, legend_at_bottom=True, include_x_axis=True, js=[], height=380)
    chart.x_labels = [str(number) for number in clients]
    for side in dict.fromkeys(each.side for each in found):
        own = [each for each in found if each.side == side]
        chart.add(side, [median_of([of(each) for each in own if each.clients == number]) for number in clients])
    return _svg(chart)


def _percentile_bars(
    title: str, found: Sequence[Measurement], of: Callable[[Measurement], Percentiles | None]
) -> str:
    chart = pygal.Bar(title=title, style=STYLE, legend_at_bottom=True, js=[], height=380)
    chart.x_labels = ["p50", "p95", "p99"]
    for side in dict.fromkeys(each.side for each in found):
        own = [percentiles for each in found if each.side == side if (percentiles := of(each)) is not None]
        chart.add(
            side,
            [median_of([getattr(percentiles, name) for percentiles in own]) for name in ("p50", "p95", "p99")],
        )
    return _svg(chart)


def _memory(samples: Sequence[MemorySample]) -> list[str]:
    charts: list[str] = []
    figures: tuple[tuple[str, Callable[[MemorySample], float | None]], ...] = (
        ("resident memory, MiB", lambda each: each.resident_mib),
        ("open files", lambda each: each.open_files),
        ("tasks", lambda each: each.tasks),
    )
    for title, of in figures:
        points = [(each.at_s / 60, value) for each in samples if (value := of(each)) is not None]
        if not points:
            continue
        chart = pygal.XY(title=f"{title}, over minutes", style=STYLE, show_legend=False, js=[], height=320)
        chart.dots_size = 1
        # From zero, so that a wiggle does not look like a mountain.
        chart.range = (0, 1.1 * max(value for _, value in points))
        chart.add(title, points)
        charts.append(_svg(chart))
    return charts


def _measurements(measurements: Sequence[Measurement]) -> str:
    if not measurements:
        return ""
    names = [
        "workload", "side", "requests/s", "tokens/s", "latency p50/p95/p99 ms", "first token", "between tokens",
        "CPU ms/request", "MiB", "failed",
    ]  # fmt: skip
    rows = [
        [
            each.workload if each.rate is None else f"{each.workload} at {each.rate:g}/s",
            each.side,
            f"{each.requests_per_s:.1f}",
            f"{each.tokens_per_s:.0f}" if each.tokens_per_s else "",
            _percentiles(each.latency_ms),
            _percentiles(each.first_token_ms),
            _percentiles(each.between_tokens_ms),
            _number(each.cpu_ms_per_request),
            _number(each.resident_mib),
            str(each.failed),
        ]
        for each in measurements
    ]
    return f"<h2>All rounds</h2><details><summary>{len(rows)} rounds</summary>{_table(names, rows)}</details>"


def _table(names: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    head = "".join(f"<th>{html.escape(name)}</th>" for name in names)
    body = "".join("<tr>" + "".join(_cell(cell) for cell in row) + "</tr>" for row in rows)
    return f"<table><tr>{head}</tr>{body}</table>"


def _cell(text: str) -> str:
    return f"<td>{text}</td>" if text.startswith("<span") else f"<td>{html.escape(text)}</td>"


def _verdict(word: str) -> str:
    return f'<span class="{"no" if word.startswith("not") else "yes"}">{word}</span>'


def _percentiles(found: Percentiles | None) -> str:
    return "" if found is None else f"{found.p50:.1f} / {found.p95:.1f} / {found.p99:.1f}"


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:,.3g}" if abs(value) < 1000 else f"{value:,.0f}"


def _p95(measurement: Measurement) -> float | None:
    return measurement.latency_ms.p95 if measurement.latency_ms else None


def _svg(chart: pygal.graph.graph.Graph) -> str:
    # The script would only show values under the mouse; titles in the SVG do that too.
    return _SCRIPT.sub("", str(chart.render(is_unicode=True, disable_xml_declaration=True)))
