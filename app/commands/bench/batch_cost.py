"""Measures batches: what a running one costs interactive clients, and how fast it is if there are none.

Tiny models, so that batches and clients compete as much as they can. All figures come from one service; in each
round every situation is measured in turn.
"""

import asyncio
import tempfile
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec

from app.commands.batch.client import BatchClient, RemoteBatch
from app.commands.bench import workloads
from app.commands.bench.measure import Measurement, measure
from app.commands.bench.processes import Models, Servers, inprocess_settings, side
from app.commands.bench.results import Report, ratio
from app.commands.bench.rounds import in_turn, p95, rate, ratio_of, ready
from app.commands.bench.workloads import Side, Workload
from domain.progress import Progress
from domain.roles import Role

ALONE, BESIDE, BATCH = "clients alone", "clients beside a batch", "batch alone"
CHATS = Workload(name="answers of 32 tokens, 64 clients", role=Role.GENERATE, clients=64, tokens=32)
CLIENTS = (
    (workloads.EMBEDDINGS.with_clients(8), workloads.EMBEDDINGS),
    (workloads.EMBEDDINGS, workloads.EMBEDDINGS),
    (CHATS.with_clients(8), CHATS),
    (CHATS.with_clients(32), CHATS),
    (CHATS.with_clients(8), workloads.EMBEDDINGS),
)
"""Interactive clients, and the kind of a batch's lines."""
LINES = 40_000
"""Lines of each batch, more than are answered while it is measured."""
SETTLE_S = 2.0
"""How long a batch runs before its clients come, and how long they run before they count: the figures are those of
a batch that runs for minutes."""
POLL_S = 0.05
KEPT_THROUGHPUT, P95, FILL = 0.9, 1.2, 0.9


async def compare_batches(
    report: Report, servers: Servers, models: Models, *, rounds: int, seconds: float, progress: Progress
) -> None:
    """Fill a report with what batches cost and reach.

    Args:
        report: gets measurements and ratios.
        servers: starts the service.
        models: folders of both models.
        rounds: for each figure.
        seconds: length of a round.
        progress: called with each step.
    """
    progress("starting engines", None)
    service = servers.memoria(inprocess_settings(models))
    await ready(service, path="/health/ready")
    own = side("memoria", service, service, models[Role.EMBED].name, models[Role.GENERATE].name)
    own = msgspec.structs.replace(own, api="chat")
    with tempfile.TemporaryDirectory(prefix="memoria-bench-") as folder:
        batches = Batches(service.url, own, Path(folder))
        for clients, lines in CLIENTS:
            await _cost(report, own, batches, clients, lines, rounds, seconds, progress)
        for lines in (workloads.EMBEDDINGS, CHATS):
            await _speed(report, own, batches, lines, rounds, seconds, progress)
    servers.end(service)


async def _cost(
    report: Report,
    own: Side,
    batches: "Batches",
    clients: Workload,
    lines: Workload,
    rounds: int,
    seconds: float,
    progress: Progress,
) -> None:
    """What a batch costs clients."""
    found: dict[str, list[Measurement]] = {ALONE: [], BESIDE: []}
    name = f"{clients.name}; batch of {lines.name.rsplit(',', 1)[0]}"
    for number in range(rounds):
        for position, situation in enumerate(in_turn((ALONE, BESIDE), number)):
            progress(f"{name}: {situation}", (number + position / 2) / rounds)
            if situation == BESIDE:
                async with batches.running(lines):
                    # Their first seconds, in which lines that have begun end, are the warm-up.
                    await measure(clients, own, seconds=SETTLE_S)
                    measurement = await measure(clients, own, seconds=seconds)
            else:
                measurement = await measure(clients, own, seconds=seconds)
            measurement = msgspec.structs.replace(measurement, side=situation, workload=name)
            found[situation].append(measurement)
            report.measurements.append(measurement)
    by_situation = {name: found}
    load = msgspec.structs.replace(clients, name=name)
    report.ratios += [
        ratio_of(by_situation, load, "requests/s", rate, BESIDE, ALONE, KEPT_THROUGHPUT, "at least"),
        ratio_of(by_situation, load, "latency p95, ms", p95, BESIDE, ALONE, P95, "at most"),
    ]


async def _speed(
    report: Report, own: Side, batches: "Batches", lines: Workload, rounds: int, seconds: float, progress: Progress
) -> None:
    """How fast a batch is alone, against clients that send the same requests."""
    found: dict[str, list[float]] = {ALONE: [], BATCH: []}
    for number in range(rounds):
        for position, situation in enumerate(in_turn((ALONE, BATCH), number)):
            progress(f"{lines.name}: {situation}", (number + position / 2) / rounds)
            if situation == BATCH:
                async with batches.running(lines) as running:
                    found[BATCH].append(await running.rate(seconds))
            else:
                measurement = msgspec.structs.replace(await measure(lines, own, seconds=seconds), side=ALONE)
                report.measurements.append(measurement)
                found[ALONE].append(measurement.requests_per_s)
    report.ratios.append(
        ratio(
            found[BATCH],
            found[ALONE],
            workload=lines.name,
            figure="requests/s",
            side=BATCH,
            against=ALONE,
            goal=FILL,
            direction="at least",
        )
    )


class Batches:
    """Creates batches on a service."""

    def __init__(self, url: str, own: Side, folder: Path) -> None:
        self._url = url
        self._own = own
        self._folder = folder
        self._files: dict[str, str] = {}

    @asynccontextmanager
    async def running(self, lines: Workload) -> "AsyncGenerator[RunningBatch, None]":
        """A batch that has run for a while; it is cancelled at the end of the block."""
        with BatchClient(self._url, None) as client:
            if lines.name not in self._files:
                self._files[lines.name] = await asyncio.to_thread(self._upload, client, lines)
            path = lines.path(self._own)
            created = await asyncio.to_thread(client.create, self._files[lines.name], path, "24h")
            batch = RunningBatch(client, created.id)
            try:
                await batch.settled()
                yield batch
            finally:
                await batch.cancel()

    def _upload(self, client: BatchClient, lines: Workload) -> str:
        bodies = lines.fields(self._own)
        file = self._folder / "lines.jsonl"
        with file.open("wb") as contents:
            for number in range(LINES):
                line = {
                    "custom_id": f"line-{number}",
                    "method": "POST",
                    "url": lines.path(self._own),
                    "body": bodies[number % len(bodies)],
                }
                contents.write(msgspec.json.encode(line) + b"\n")
        return client.upload(file, lambda _bytes: None)


class RunningBatch:
    """One batch."""

    def __init__(self, client: BatchClient, batch_id: str) -> None:
        self._client = client
        self._id = batch_id

    async def settled(self) -> None:
        """Return once it has answered lines for a while."""
        await self._until(lambda batch: batch.request_counts.completed > 0)
        await asyncio.sleep(SETTLE_S)

    async def rate(self, seconds: float) -> float:
        """Lines answered in a second."""
        first, began = await self._answered(), time.perf_counter()
        await asyncio.sleep(seconds)
        last, ended = await self._answered(), time.perf_counter()
        return (last - first) / (ended - began)

    async def cancel(self) -> None:
        """Cancel it, and return once it has ended."""
        await asyncio.to_thread(self._client.cancel, self._id)
        await self._until(lambda batch: batch.status != "cancelling")
        await asyncio.sleep(SETTLE_S)

    async def _until(self, is_so: Callable[[RemoteBatch], bool]) -> None:
        def wait() -> None:
            while not is_so(self._client.retrieve(self._id)):
                time.sleep(POLL_S)

        await asyncio.to_thread(wait)

    async def _answered(self) -> int:
        counts = (await asyncio.to_thread(self._client.retrieve, self._id)).request_counts
        return counts.completed + counts.failed
