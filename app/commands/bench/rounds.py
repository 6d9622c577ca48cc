"""Rounds of several sides in turn, and the ratios of what they came to.

In every round the sides are measured one after the other, every other round in the opposite order, and the
median of the rounds' ratios counts. So what the machine does besides hits all of them.
"""

import asyncio
from collections.abc import Callable, Sequence
from typing import Literal, TypeVar

from app.commands.bench.measure import Measurement, measure
from app.commands.bench.processes import Server
from app.commands.bench.results import Ratio, Report, ratio
from app.commands.bench.workloads import Side, Workload
from domain.progress import Progress

T = TypeVar("T")
Figure = Callable[[Measurement], float | None]
Found = dict[str, dict[str, list[Measurement]]]
"""Measurements by workload and side, in the order of the rounds."""


async def measured_rounds(
    report: Report,
    sides: Sequence[Side],
    loads: Sequence[Workload],
    rounds: int,
    seconds: float,
    progress: Progress,
) -> Found:
    """Measurements by workload and side, in the order of the rounds."""
    found: Found = {}
    for load in loads:
        by_side = found.setdefault(load.name, {each.name: [] for each in sides})
        step = f"{load.name}: {sides[0].name}"
        for number in range(rounds):
            for position, each in enumerate(in_turn(sides, number)):
                progress(step, (number + position / len(sides)) / rounds)
                measurement = await measure(load, each, seconds=seconds)
                by_side[each.name].append(measurement)
                report.measurements.append(measurement)
    return found


def ratio_of(
    found: Found,
    load: Workload,
    figure: str,
    of: Figure,
    mine: str,
    other: str,
    goal: float,
    direction: Literal["at least", "at most"],
) -> Ratio:
    """The ratio of two sides of the rounds in one figure."""
    by_side = found[load.name]
    return ratio(
        [of(measurement) for measurement in by_side[mine]],
        [of(measurement) for measurement in by_side[other]],
        workload=load.name,
        figure=figure,
        side=mine,
        against=other,
        goal=goal,
        direction=direction,
    )


def rate(measurement: Measurement) -> float | None:
    """Requests in a second."""
    return measurement.requests_per_s


def tokens(measurement: Measurement) -> float | None:
    """Tokens in a second."""
    return measurement.tokens_per_s


def latency(measurement: Measurement) -> float | None:
    """Median, in milliseconds."""
    return measurement.latency_ms.p50 if measurement.latency_ms else None


def p95(measurement: Measurement) -> float | None:
    """95th percentile of the latency, in milliseconds."""
    return measurement.latency_ms.p95 if measurement.latency_ms else None


def first_token(measurement: Measurement) -> float | None:
    """Median time to the first token, in milliseconds."""
    return measurement.first_token_ms.p50 if measurement.first_token_ms else None


def memory(measurement: Measurement) -> float | None:
    """Resident memory in MiB."""
    return measurement.resident_mib


def in_turn(items: Sequence[T], number: int) -> list[T]:
    """The order of a round: every other one is reversed."""
    return list(items) if number % 2 == 0 else list(reversed(items))


async def ready(*servers: Server, path: str) -> float:
    """Seconds until the last of them was ready."""
    waits = [asyncio.to_thread(server.wait_until, path) for server in servers]
    return max(await asyncio.gather(*waits), default=0.0)
