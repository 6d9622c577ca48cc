"""What a service with the two packaged models must do on two CPU cores, and whether this one does."""

import msgspec

from app.commands.bench import workloads
from app.commands.bench.measure import Measurement, measure
from app.commands.bench.results import Report, Row
from app.commands.bench.workloads import Side, Workload
from domain.progress import Progress
from domain.roles import Role

TEXTS = 100
"""One a request."""
USERS = 50
COMPLETION_TOKENS = 100
ONE_BY_ONE = Workload(name="100 texts, one a request, 8 clients", role=Role.EMBED, clients=8, requests=TEXTS)
ALONE = Workload(name="one embedding at a time", role=Role.EMBED, clients=1, requests=TEXTS)
LONG = Workload(
    name="completions of 100 tokens, one client",
    role=Role.GENERATE,
    clients=1,
    tokens=COMPLETION_TOKENS,
    requests=5,
)
CROWD = Workload(
    name="50 users at once, streams of 20 tokens", role=Role.GENERATE, clients=USERS, tokens=20, stream=True,
    requests=2 * USERS,
)  # fmt: skip
GROWTH_MIB = 50.0
"""What counts as growth: caches fill, and the allocator keeps some."""


async def check_requirements(report: Report, side: Side, progress: Progress) -> list[Row]:
    """The rows of the table; measurements go into the report."""
    loads = (ONE_BY_ONE, ALONE, LONG, CROWD)
    found: dict[str, Measurement] = {}
    for position, load in enumerate(loads):
        progress(load.name, position / (len(loads) + 1))
        found[load.name] = await measure(load, side, seconds=0)
    progress("the same once more, for memory", len(loads) / (len(loads) + 1))
    await measure(CROWD, side, seconds=0)
    again = await measure(ONE_BY_ONE, side, seconds=0)
    report.measurements += [*found.values(), again]
    report.rows += _rows(found, again)
    return report.rows


def _rows(found: dict[str, Measurement], again: Measurement) -> list[Row]:
    many, alone = found[ONE_BY_ONE.name], found[ALONE.name]
    long, crowd = found[LONG.name], found[CROWD.name]
    failed = sum(each.failed for each in found.values())
    rows = [
        _at_least("embeddings, one text a request", many.requests_per_s, 100, "/s"),
        _at_most("one embedding, p95", alone.latency_ms.p95 if alone.latency_ms else None, 500, " ms"),
        _at_least("completions of 100 tokens, one client", long.tokens_per_s, 20, " tokens/s"),
        _at_most("completions of 100 tokens, p95", long.latency_ms.p95 if long.latency_ms else None, 5000, " ms"),
        Row(
            what="50 users at once",
            found=f"{crowd.requests} answered, {crowd.failed} failed",
            wanted="no failure",
            is_met=crowd.failed == 0 and crowd.requests == CROWD.requests,
        ),
        Row(what="failures in all", found=str(failed), wanted="0", is_met=failed == 0),
    ]
    if many.resident_mib is not None and again.resident_mib is not None:
        rows.append(_at_most("growth of memory", again.resident_mib - many.resident_mib, GROWTH_MIB, " MiB"))
    return rows


def _at_least(what: str, value: float, wanted: float, unit: str) -> Row:
    return Row(what=what, found=f"{value:.1f}{unit}", wanted=f"at least {wanted:g}{unit}", is_met=value >= wanted)


def _at_most(what: str, value: float | None, wanted: float, unit: str) -> Row:
    found = "nothing" if value is None else f"{value:.1f}{unit}"
    return Row(
        what=what, found=found, wanted=f"at most {wanted:g}{unit}", is_met=value is not None and value <= wanted
    )


async def sweep(report: Report, side: Side, *, seconds: float, rate: float | None, progress: Progress) -> None:
    """Throughput and latency over the number of clients, or at a rate of arrivals."""
    for base in (workloads.EMBEDDINGS, workloads.COMPLETIONS, workloads.STREAMS):
        if rate is not None:
            progress(f"{base.role}: {rate:g} requests/s", None)
            report.measurements.append(await measure(base.with_clients(1), side, seconds=seconds, rate=rate))
            continue
        for position, clients in enumerate(workloads.SWEEP):
            # By time: so many streams of a real model on a CPU would take minutes.
            load = msgspec.structs.replace(base.with_clients(clients), requests=None)
            progress(load.name, position / len(workloads.SWEEP))
            report.measurements.append(await measure(load, side, seconds=seconds))
