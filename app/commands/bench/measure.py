"""One round of a workload against one side, and what it came to."""

import statistics
from collections.abc import Callable, Sequence

import msgspec
import psutil

from app.commands.bench.arrivals import Run, closed_loop, open_loop
from app.commands.bench.http_client import Target
from app.commands.bench.workloads import Side, Workload

WARM_UP_REQUESTS = 2
"""For each client, before anything counts."""


class Percentiles(msgspec.Struct, frozen=True, kw_only=True):
    """Milliseconds."""

    p50: float
    p95: float
    p99: float

    @classmethod
    def of(cls, seconds: Sequence[float]) -> "Percentiles | None":
        """Of some durations; None of none."""
        if not seconds:
            return None
        ordered = sorted(seconds)
        values = [1000 * ordered[min(len(ordered) - 1, int(len(ordered) * share))] for share in (0.5, 0.95, 0.99)]
        return cls(p50=values[0], p95=values[1], p99=values[2])


class Measurement(msgspec.Struct, frozen=True, kw_only=True):
    """One round."""

    side: str
    workload: str
    clients: int
    requests: int
    """Answered rightly."""
    failed: int
    """No answer, an error, or not what was asked for."""
    duration_s: float
    requests_per_s: float
    tokens_per_s: float
    latency_ms: Percentiles | None
    first_token_ms: Percentiles | None = None
    between_tokens_ms: Percentiles | None = None
    cpu_ms_per_request: float | None = None
    """Of all processes of the side, where they run here."""
    resident_mib: float | None = None
    rate: float | None = None
    """Requests in a second that arrived, if they did not wait for one another."""


async def measure(
    workload: Workload,
    side: Side,
    *,
    seconds: float,
    rate: float | None = None,
    ticked: Callable[[], None] = lambda: None,
) -> Measurement:
    """Warm up, run one round, and sum it up.

    Args:
        workload: what to ask.
        side: whom to ask.
        seconds: length of the round, where the workload has no number of requests.
        rate: requests in a second that arrive without waiting (open loop); None for the workload's clients.
        ticked: called after each answer.
    """
    target, bodies = Target.of(side.url(workload.role)), workload.bodies(side)
    await closed_loop(target, bodies, clients=workload.clients, count=WARM_UP_REQUESTS * workload.clients)
    cpu_before = _cpu_s(side)
    if rate is not None:
        run = await open_loop(target, bodies, rate=rate, seconds=seconds, ticked=ticked)
    else:
        run = await closed_loop(
            target,
            bodies,
            clients=workload.clients,
            seconds=None if workload.requests else seconds,
            count=workload.requests,
            ticked=ticked,
        )
    return _summed_up(run, workload, side, _cpu_s(side) - cpu_before, rate)


def _summed_up(run: Run, workload: Workload, side: Side, cpu_s: float, rate: float | None) -> Measurement:
    right = [answer for answer in run.answers if workload.is_right(answer)]
    count = len(right)
    streams = [answer for answer in right if workload.stream and len(answer.part_times) > 1]
    return Measurement(
        side=side.name,
        workload=workload.name,
        clients=workload.clients,
        requests=count,
        failed=len(run.answers) - count + len(run.failures),
        duration_s=run.duration_s,
        requests_per_s=count / run.duration_s,
        tokens_per_s=count * workload.tokens / run.duration_s,
        latency_ms=Percentiles.of([answer.ended_at - answer.sent_at for answer in right]),
        first_token_ms=Percentiles.of([answer.part_times[0] - answer.sent_at for answer in streams]),
        between_tokens_ms=Percentiles.of(
            [(answer.part_times[-1] - answer.part_times[0]) / max(1, workload.tokens - 1) for answer in streams]
        ),
        cpu_ms_per_request=1000 * cpu_s / count if side.processes and count else None,
        resident_mib=_resident_mib(side),
        rate=rate,
    )


def median_of(values: Sequence[float | None]) -> float | None:
    """The median of what is known; None of nothing."""
    known = [value for value in values if value is not None]
    return statistics.median(known) if known else None


def _cpu_s(side: Side) -> float:
    total = 0.0
    for process in _processes(side):
        times = process.cpu_times()
        total += times.user + times.system
    return total


def _resident_mib(side: Side) -> float | None:
    if not side.processes:
        return None
    return float(sum(process.memory_info().rss for process in _processes(side))) / 2**20


def _processes(side: Side) -> list[psutil.Process]:
    found: dict[int, psutil.Process] = {}
    for pid in side.processes:
        try:
            process = psutil.Process(pid)
            for each in (process, *process.children(recursive=True)):
                found[each.pid] = each
        except psutil.Error:
            continue
    return list(found.values())
