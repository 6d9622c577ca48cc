"""Hours of mixed load, with clients that leave and requests that are wrong, and what is left of it in memory."""

import asyncio
import contextlib
import random
import time
import urllib.request
from collections import Counter

import msgspec
import psutil

from app.commands.bench import workloads
from app.commands.bench.http_client import Answer, Connection, Target
from app.commands.bench.results import MemorySample, Report, Row
from app.commands.bench.workloads import Side, Workload
from domain.progress import Progress

CLIENTS = 16
SAMPLE_EVERY_S = 10.0
SETTLE_S = 5.0
WARM_SHARE = 0.2
"""Of the time, at its beginning: caches fill and allocators grow; memory is compared from then on."""
GROWTH_SHARE = 0.05
LEAVE_AFTER_S = (0.005, 0.3)
KINDS = ("embed", "embed", "complete", "stream", "leave", "wrong")
WRONG = (
    b"{",
    b'{"model":"nobody","input":"x"}',
    b'{"input":1}',
    b'{"model":7}',
    b'{"messages":[{"role":"nobody"}]}',
)
"""Bodies that get a 400 or 404 from either endpoint."""


class _Health(msgspec.Struct):
    tasks: int | None = None


async def soak(report: Report, side: Side, *, seconds: float, progress: Progress) -> list[Row]:
    """Load for so many seconds; the rows say whether anything grew or failed."""
    stop_at = time.monotonic() + seconds
    counts: Counter[str] = Counter()
    clients = [asyncio.create_task(_client(side, stop_at, counts, random.Random(seed))) for seed in range(CLIENTS)]
    began = time.monotonic()
    report.memory.append(await _sample(side, 0.0))
    while (left := stop_at - time.monotonic()) > 0:
        progress("mixed load", 1 - left / seconds)
        await asyncio.sleep(min(SAMPLE_EVERY_S, left))
        report.memory.append(await _sample(side, time.monotonic() - began))
    await asyncio.gather(*clients)
    # What clients left behind has time to end.
    await asyncio.sleep(SETTLE_S)
    report.memory.append(await _sample(side, time.monotonic() - began))
    report.rows += _rows(report.memory, counts)
    return report.rows


async def _client(side: Side, stop_at: float, counts: Counter[str], dice: random.Random) -> None:
    loads = {
        "embed": workloads.EMBEDDINGS,
        "complete": msgspec.structs.replace(workloads.COMPLETIONS, tokens=8),
        "stream": msgspec.structs.replace(workloads.STREAMS, tokens=16),
        "leave": msgspec.structs.replace(workloads.STREAMS, tokens=64),
    }
    bodies = {kind: load.bodies(side) for kind, load in loads.items()}
    while time.monotonic() < stop_at:
        kind = dice.choice(KINDS)
        if kind == "wrong":
            await _send_wrong(side, counts, dice)
        else:
            await _send(side, kind, loads[kind], dice.choice(bodies[kind]), counts, dice)


async def _send(
    side: Side, kind: str, load: Workload, body: bytes, counts: Counter[str], dice: random.Random
) -> None:
    patience = dice.uniform(*LEAVE_AFTER_S) if kind == "leave" else None
    answer = await _ask(Target.of(side.url(load.role)), body, patience)
    if answer is None:
        counts["left" if kind == "leave" else "failed"] += 1
    else:
        counts["right" if load.is_right(answer) else "failed"] += 1


async def _send_wrong(side: Side, counts: Counter[str], dice: random.Random) -> None:
    path = dice.choice(["/v1/embeddings", "/v1/chat/completions", "/v1/completions"])
    target = Target.of(side.gen_url)
    answer = await _ask(target, target.post(path, dice.choice(WRONG), {}), None)
    refused = answer is not None and answer.status in (400, 404) and b'"error":{' in answer.body
    counts["refused" if refused else "failed"] += 1


async def _ask(target: Target, body: bytes, patience_s: float | None) -> Answer | None:
    """An answer on a connection of its own; None if the client left before, or nothing whole came."""
    try:
        connection = await Connection.connect(target)
    except OSError:
        return None
    try:
        async with asyncio.timeout(patience_s):
            return await connection.ask(body)
    except (OSError, TimeoutError):
        return None
    finally:
        connection.close()


async def _sample(side: Side, at_s: float) -> MemorySample:
    processes: dict[int, psutil.Process] = {}
    for pid in side.processes:
        with contextlib.suppress(psutil.Error):
            process = psutil.Process(pid)
            processes |= {each.pid: each for each in (process, *process.children(recursive=True))}
    return MemorySample(
        at_s=at_s,
        resident_mib=sum(process.memory_info().rss for process in processes.values()) / 2**20,
        open_files=sum(process.num_fds() for process in processes.values()),
        tasks=await asyncio.to_thread(_tasks, side.gen_url),
    )


def _tasks(url: str) -> int | None:
    try:
        with urllib.request.urlopen(f"{url}/health", timeout=5) as response:
            return msgspec.json.decode(response.read(), type=_Health).tasks
    except (OSError, msgspec.DecodeError):
        return None


def _rows(memory: list[MemorySample], counts: Counter[str]) -> list[Row]:
    warm = memory[int(len(memory) * WARM_SHARE)]
    last = memory[-1]
    growth = last.resident_mib / warm.resident_mib - 1
    rows = [
        Row(
            what="answers",
            found=f"{counts['right']} right, {counts['refused']} refused as they should be, "
            f"{counts['left']} left by their clients, {counts['failed']} failed",
            wanted="none failed",
            is_met=counts["failed"] == 0 and min(counts["right"], counts["refused"], counts["left"]) > 0,
        ),
        Row(
            what="resident memory",
            found=f"{warm.resident_mib:.0f} MiB warm, {last.resident_mib:.0f} MiB at the end ({growth:+.1%})",
            wanted=f"at most {GROWTH_SHARE:+.0%}",
            is_met=growth <= GROWTH_SHARE,
        ),
        Row(
            what="open files afterwards",
            found=f"{last.open_files} ({memory[0].open_files} before)",
            wanted="no more than before, but for a few of the engines'",
            is_met=last.open_files <= memory[0].open_files + CLIENTS // 2,
        ),
    ]
    if last.tasks is not None and memory[0].tasks is not None:
        rows.append(
            Row(
                what="tasks afterwards",
                found=f"{last.tasks} ({memory[0].tasks} before)",
                wanted="no more than before",
                is_met=last.tasks <= memory[0].tasks,
            )
        )
    return rows
