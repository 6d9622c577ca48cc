"""The findings of checks, and the report that contains them."""

import enum
from collections.abc import Sequence

import msgspec


class Verdict(enum.StrEnum):
    """Severity of a finding."""

    OK = "ok"
    WARNING = "warning"
    """The service starts, but something will not work as expected."""
    FAILURE = "failure"
    """The service does not start, or a model will not answer."""


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """One line of the report."""

    check: str
    """What was checked, in a word or two."""
    verdict: Verdict
    found: str
    """The result, in one sentence."""
    advice: str | None = None
    """What to do; None if there is nothing to do."""


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """All findings, and the worst of their verdicts."""

    verdict: Verdict
    findings: list[Finding]


def report(findings: Sequence[Finding]) -> Report:
    """Combine findings into a report."""
    verdicts = {finding.verdict for finding in findings}
    worst = next((verdict for verdict in (Verdict.FAILURE, Verdict.WARNING) if verdict in verdicts), Verdict.OK)
    return Report(verdict=worst, findings=list(findings))


def ok(check: str, found: str) -> Finding:
    """A finding without a problem."""
    return Finding(check=check, verdict=Verdict.OK, found=found)


def warning(check: str, found: str, advice: str) -> Finding:
    """A finding that may need attention."""
    return Finding(check=check, verdict=Verdict.WARNING, found=found, advice=advice)


def failure(check: str, found: str, advice: str | None = None) -> Finding:
    """A finding that must be fixed; without advice if the result already contains it."""
    return Finding(check=check, verdict=Verdict.FAILURE, found=found, advice=advice)
