"""What a check has to say."""

import enum
from collections.abc import Sequence

import msgspec


class Verdict(enum.StrEnum):
    """How bad it is."""

    OK = "ok"
    WARNING = "warning"
    """The service starts, and something will not be as expected."""
    FAILURE = "failure"
    """The service does not start, or a model will not answer."""


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """One line of the report."""

    check: str
    """What was looked at, in a word or two."""
    verdict: Verdict
    found: str
    """What there is, in one sentence."""
    advice: str | None = None
    """What to do; None if all is well."""


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """All lines, and the worst of their verdicts."""

    verdict: Verdict
    findings: list[Finding]


def report(findings: Sequence[Finding]) -> Report:
    """The sum of all findings."""
    verdicts = {finding.verdict for finding in findings}
    worst = next((verdict for verdict in (Verdict.FAILURE, Verdict.WARNING) if verdict in verdicts), Verdict.OK)
    return Report(verdict=worst, findings=list(findings))


def ok(check: str, found: str) -> Finding:
    """All is well."""
    return Finding(check=check, verdict=Verdict.OK, found=found)


def warning(check: str, found: str, advice: str) -> Finding:
    """Something to look at."""
    return Finding(check=check, verdict=Verdict.WARNING, found=found, advice=advice)


def failure(check: str, found: str, advice: str | None = None) -> Finding:
    """Something that has to be mended; without advice where what was found says it already."""
    return Finding(check=check, verdict=Verdict.FAILURE, found=found, advice=advice)
