"""Prints the report, as text or JSON."""

import contextlib
from collections.abc import Callable, Generator

import msgspec
from rich.console import Console
from rich.text import Text

from app.commands.doctor.finding import Finding, Report, Verdict

STYLE = {Verdict.OK: "green", Verdict.WARNING: "yellow", Verdict.FAILURE: "bold red"}
SUMMARY = {
    Verdict.OK: "No problems found. Start with: memoria serve",
    Verdict.WARNING: "The service can start: memoria serve",
    Verdict.FAILURE: "Fix the failures first.",
}
VERDICT_WIDTH, CHECK_WIDTH = 9, 15


@contextlib.contextmanager
def spinner() -> Generator[Callable[[str], None], None, None]:
    """Show the running check on a terminal, and nothing elsewhere."""
    console = Console(stderr=True)
    with console.status("checking") as status:
        yield lambda step: status.update(step)


def print_report(report: Report, *, as_json: bool) -> None:
    """Write a report to standard output."""
    if as_json:
        print(msgspec.json.format(msgspec.json.encode(report)).decode())
        return
    console = Console(highlight=False, soft_wrap=True)
    for finding in report.findings:
        console.print(_line(finding))
    counted = ", ".join(
        _counted(sum(finding.verdict is verdict for finding in report.findings), verdict) for verdict in Verdict
    )
    console.print(f"\n{counted}. {SUMMARY[report.verdict]}", style=STYLE[report.verdict], markup=False)


def _line(finding: Finding) -> Text:
    line = Text()
    line.append(f"{finding.verdict:<{VERDICT_WIDTH}}", style=STYLE[finding.verdict])
    line.append(f"{finding.check:<{CHECK_WIDTH}} {finding.found}")
    if finding.advice is not None:
        line.append(f"\n{'':<{VERDICT_WIDTH + CHECK_WIDTH}} → {finding.advice}", style="bold")
    return line


def _counted(count: int, verdict: Verdict) -> str:
    plural = "s" if verdict is not Verdict.OK and count != 1 else ""
    return f"{count} {verdict}{plural}"
