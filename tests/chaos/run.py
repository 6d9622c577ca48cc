"""Faults in turn under load, and the table of what became of everybody's requests."""

import asyncio
import contextlib
import time
from collections import Counter
from collections.abc import AsyncGenerator, Callable
from pathlib import Path

import msgspec

from tests.chaos.faults import GATEWAY, IN_PROCESS, LONG, Fault, Stage, inprocess_stage
from tests.chaos.load import Load, Tally
from tests.conftest import free_port
from tests.processes import ServiceProcess, VLLMServerProcess

Say = Callable[[str], None]
SETTLE_S = 2.0


class Row(msgspec.Struct, kw_only=True):
    """One fault, and what became of the requests from then until all was well."""

    fault: str
    under_way: int
    """Requests under way at the moment of the fault."""
    hit: Tally
    """Of the roles that the fault concerns, or of all."""
    refusals: Counter[str]
    """By role, status and code."""
    recovery_s: float
    notes: list[str]


async def run_faults(
    stage: Stage, faults: dict[str, Fault], *, until: float | None, clients: int, say: Say
) -> list[Row]:
    """Each fault once, and then again for as long as there is time.

    Args:
        stage: a service that is ready.
        faults: by name.
        until: moment of `time.monotonic` after which no further fault begins; None for one of each.
        clients: of each kind of request.
        say: told what is done.
    """
    rows: list[Row] = []
    await stage.load.learn()
    if not stage.servers:
        await stage.find_engines()
    async with stage.load.running(clients):
        is_first = True
        while is_first or (until is not None and time.monotonic() < until):
            for name, fault in faults.items():
                if not is_first and until is not None and time.monotonic() >= until:
                    break
                await asyncio.sleep(SETTLE_S)
                rows.append(await _run_one(stage, name, fault))
                say(_line(rows[-1]))
            is_first = False
    return rows


def _line(row: Row) -> str:
    hit = row.hit
    return (
        f"{row.fault}: {hit.right} right, {hit.refused} refused ({_told(row.refusals)}), {hit.wrong} wrong, "
        f"{hit.lost} lost, well again after {row.recovery_s:.1f} s"
    )


async def _run_one(stage: Stage, name: str, fault: Fault) -> Row:
    before = {role: msgspec.structs.replace(tally) for role, tally in stage.load.tallies.items()}
    noted = {role: len(tally.notes) for role, tally in stage.load.tallies.items()}
    under_way = sum(stage.load.under_way.values())
    stage.load.health.meanwhile = name
    statuses = stage.load.statuses.copy()
    began = time.monotonic()
    await fault(stage)
    recovery_s = time.monotonic() - began
    hit = [stage.load.tallies[role] - before[role] for role in before]
    return Row(
        fault=name,
        under_way=under_way,
        hit=Tally(
            right=sum(tally.right for tally in hit),
            refused=sum(tally.refused for tally in hit),
            wrong=sum(tally.wrong for tally in hit),
            lost=sum(tally.lost for tally in hit),
        ),
        refusals=stage.load.statuses - statuses,
        recovery_s=recovery_s,
        notes=[note for role, count in noted.items() for note in stage.load.tallies[role].notes[count:]],
    )


@contextlib.asynccontextmanager
async def inprocess(models: dict[str, Path]) -> AsyncGenerator[Stage, None]:
    """A service with all engines inside."""
    start = inprocess_stage(models)
    service = await asyncio.to_thread(start)
    load = Load(service.url, {"embed": "tiny-embed", "generate": "tiny-gen", "rerank": "tiny-rerank"})
    stage = Stage(service=service, load=load, start_service=start)
    try:
        yield stage
    finally:
        await load.close()
        await asyncio.to_thread(stage.service.end)


@contextlib.asynccontextmanager
async def gateway(models: dict[str, Path]) -> AsyncGenerator[Stage, None]:
    """A service in front of two vLLM servers."""
    names = {"embed": "tiny-embed", "generate": "tiny-gen"}
    ports = {role: free_port() for role in names}

    def start_server(role: str) -> VLLMServerProcess:
        runner = "pooling" if role == "embed" else "generate"
        server = VLLMServerProcess(models[names[role]], port=ports[role], runner=runner)
        server.wait_until_ready()
        return server

    def start_service() -> ServiceProcess:
        environment = {
            "EMBED_BACKEND": "vllm-http",
            "GEN_BACKEND": "vllm-http",
            "VLLM_EMBED_URL": f"http://127.0.0.1:{ports['embed']}",
            "VLLM_GEN_URL": f"http://127.0.0.1:{ports['generate']}",
        }
        service = ServiceProcess(environment)
        service.wait_until_ready()
        return service

    started = await asyncio.gather(*(asyncio.to_thread(start_server, role) for role in names))
    service = await asyncio.to_thread(start_service)
    load = Load(service.url, names)
    stage = Stage(
        service=service,
        load=load,
        start_service=start_service,
        servers=dict(zip(names, started, strict=True)),
        start_server=start_server,
    )
    try:
        yield stage
    finally:
        await load.close()
        await asyncio.to_thread(stage.service.end)
        for server in stage.servers.values():
            await asyncio.to_thread(server.end)


async def run(models: dict[str, Path], *, minutes: float, clients: int, say: Say) -> tuple[list[Row], list[str]]:
    """All faults, inside and behind a gateway, for so long; and how health answered in each of both."""
    began = time.monotonic()
    rows: list[Row] = []
    health: list[str] = []
    # The gateway's few faults get a quarter of the time.
    stages = (("Engines in process", inprocess, IN_PROCESS | LONG, 0.75), ("Gateway", gateway, GATEWAY, 1.0))
    for name, stage_of, faults, share in stages:
        async with stage_of(models) as stage:
            until = began + share * minutes * 60
            rows += await run_faults(stage, faults, until=until, clients=clients, say=say)
            health.append(f"{name}: {stage.load.health.summary()}")
    return rows, health


def table(rows: list[Row]) -> str:
    """Rows of the same fault together, as a table in Markdown."""
    lines = [
        "| fault | times | requests in flight | correct | refused or aborted, with an error "
        "| wrong | lost | recovery, s |",
        "|---|---|---|---|---|---|---|---|",
    ]
    by_fault: dict[str, list[Row]] = {}
    for row in rows:
        by_fault.setdefault(row.fault, []).append(row)
    for fault, same in by_fault.items():
        times = sorted(row.recovery_s for row in same)
        took = f"{times[0]:.1f}" if len(times) == 1 else f"{times[0]:.1f} to {times[-1]:.1f}"
        counts: list[object] = [
            sum(getattr(row.hit, name) for row in same) for name in ("right", "refused", "wrong", "lost")
        ]
        refusals = sum((row.refusals for row in same), Counter[str]())
        counts[1] = f"{counts[1]} ({_told(refusals)})" if refusals else counts[1]
        under_way = sum(row.under_way for row in same)
        lines.append(f"| {fault} | {len(same)} | {under_way} | {' | '.join(map(str, counts))} | {took} |")
    return "\n".join(lines) + "\n"


def _told(refusals: Counter[str]) -> str:
    """What clients were told, whichever model said it."""
    by_code: Counter[str] = Counter()
    for said, count in refusals.items():
        by_code[said.partition(" ")[2]] += count
    return ", ".join(f"{count} × {said}" for said, count in by_code.most_common())
