"""Look for known vulnerabilities in the pinned dependencies: `make audit`, and a part of `make test`.

Asks OSV (https://osv.dev), the database that pip-audit reads too, in one request and with what the project has
installed anyway. Where it can't be reached the audit is skipped, and says so: a test run without a network is no
failure of the dependencies.

Ends with 1 if something is found that IGNORED does not name, else with 0.
"""

import re
import sys
from collections.abc import Iterable
from pathlib import Path

import httpx

OSV = "https://api.osv.dev/v1/querybatch"
REQUIREMENTS = Path(__file__).parent / "requirements"
TIMEOUT_S = 20.0
# Of OSV's own: so many queries in one request.
MOST_QUERIES = 1000

IGNORED: dict[str, str] = {}
"""Findings that can't be mended: id → why it does no harm here. Each is told on every run."""

_PIN = re.compile(r"^([A-Za-z0-9][\w.-]*)(?:\[[^\]]*\])?==([^\s;#\\]+)", re.MULTILINE)

Pin = tuple[str, str]


def pins(files: Iterable[Path]) -> list[Pin]:
    """Every (name, version) that is pinned in any of the files, once, by name."""
    return sorted({(name.lower(), version) for file in files for name, version in _PIN.findall(file.read_text())})


def findings(client: httpx.Client, pinned: list[Pin]) -> dict[Pin, list[str]]:
    """The ids of what is known about each.

    Raises:
        httpx.HTTPError: the database can't be reached, or does not answer as it should.
    """
    found: dict[Pin, list[str]] = {}
    for start in range(0, len(pinned), MOST_QUERIES):
        part = pinned[start : start + MOST_QUERIES]
        # A version of a local build (2.0+cpu) is known by what it was built from.
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
    """Audit, tell, and return the exit status."""
    files = sorted(REQUIREMENTS.glob("*.txt"))
    pinned = pins(files)
    try:
        with client or httpx.Client(timeout=TIMEOUT_S) as asking:
            found = findings(asking, pinned)
    except (httpx.HTTPError, ValueError, KeyError) as error:
        print(
            f"AUDIT SKIPPED: {OSV} can't be reached or read ({type(error).__name__}); {len(pinned)} pins are not "
            "looked at."
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
