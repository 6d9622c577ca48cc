"""Looks for known vulnerabilities in the pinned dependencies: `make audit`, a part of `make test`.

Queries OSV (https://osv.dev), the database that pip-audit uses too, in one request and with the packages that the
project has installed anyway. If OSV can't be reached the audit is skipped with a message: a test run without a
network does not fail for it.

Exits with 1 if it finds vulnerabilities that IGNORED does not list, else with 0.
"""

import re
import sys
from collections.abc import Iterable
from pathlib import Path

import httpx

OSV = "https://api.osv.dev/v1/querybatch"
REQUIREMENTS = Path(__file__).parent / "requirements"
TIMEOUT_S = 20.0
# OSV's limit of queries in one request.
MOST_QUERIES = 1000

IGNORED: dict[str, str] = {}
"""Vulnerabilities that can't be fixed: id → why it does no harm here. Each is printed on every run."""

_PIN = re.compile(r"^([A-Za-z0-9][\w.-]*)(?:\[[^\]]*\])?==([^\s;#\\]+)", re.MULTILINE)

Pin = tuple[str, str]


def pins(files: Iterable[Path]) -> list[Pin]:
    """Every (name, version) that any of the files pins, once, sorted by name."""
    return sorted({(name.lower(), version) for file in files for name, version in _PIN.findall(file.read_text())})


def findings(client: httpx.Client, pinned: list[Pin]) -> dict[Pin, list[str]]:
    """The ids of the known vulnerabilities of each pin that has any.

    Raises:
        httpx.HTTPError: the database can't be reached, or answers with an error.
    """
    found: dict[Pin, list[str]] = {}
    for start in range(0, len(pinned), MOST_QUERIES):
        part = pinned[start : start + MOST_QUERIES]
        # A local version (2.0+cpu) is listed under its public version.
        queries = [
            {"package": {"name": name, "ecosystem": "PyPI"}, "version": version.partition("+")[0]}
            for name, version in part
        ]
        answer = client.post(OSV, json={"queries": queries}).raise_for_status().json()
        for pin, result in zip(part, answer["results"], strict=True):
            if ids := [vulnerability["id"] for vulnerability in result.get("vulns", [])]:
                found[pin] = ids
    return found


def main(client: httpx.Client | None = None) -> int:
    """Audit, print the result, and return the exit status."""
    files = sorted(REQUIREMENTS.glob("*.txt"))
    pinned = pins(files)
    try:
        with client or httpx.Client(timeout=TIMEOUT_S) as osv:
            found = findings(osv, pinned)
    except (httpx.HTTPError, ValueError, KeyError) as error:
        print(
            f"AUDIT SKIPPED: {OSV} can't be reached or read ({type(error).__name__}); {len(pinned)} pins have not "
            "been checked."
        )
        return 0
    bad = 0
    for (name, version), ids in found.items():
        for each in ids:
            reason = IGNORED.get(each)
            bad += reason is None
            print(f"{name}=={version}: https://osv.dev/{each}" + (f" (ignored: {reason})" if reason else ""))
    print(f"Audited {len(pinned)} pins of {len(files)} lists: {bad} known vulnerabilities.")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
