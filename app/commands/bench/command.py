"""What `memoria bench` does, from its options to its three reports."""

import asyncio
import shlex
import tempfile
import urllib.error
import urllib.request
from collections.abc import Coroutine
from pathlib import Path
from typing import Any, cast
from urllib.parse import urlsplit

import msgspec
import psutil
import uvloop
from rich.console import Console

from app.commands.bench.batch_cost import compare_batches
from app.commands.bench.comparison import compare
from app.commands.bench.html_report import html_report
from app.commands.bench.processes import servers
from app.commands.bench.requirements import check_requirements, sweep
from app.commands.bench.responses_cost import compare_responses
from app.commands.bench.results import Report, new_report
from app.commands.bench.soak import soak
from app.commands.bench.telemetry_cost import compare_telemetry
from app.commands.bench.text_report import print_report
from app.commands.bench.tiny_models import cached_tiny_models
from app.commands.bench.workloads import Side
from domain.errors import ConfigurationError
from domain.progress import Progress

PRINTED_WIDTH = 180
"""Columns of the tables where there is no terminal to ask."""


class BenchOptions(msgspec.Struct, frozen=True, kw_only=True):
    """The options of `memoria bench`."""

    url: str
    """The running service to measure; not used by a comparison."""
    compare: bool
    """Compare with vLLM's own servers and other gateways."""
    telemetry: bool
    """Compare the service with and without telemetry."""
    responses: bool
    """Compare the Responses API with chat completions."""
    batches: bool
    """Measure what a running batch costs clients, and how fast batches are."""
    soak_minutes: float | None
    rate: float | None
    """Requests in a second that arrive without waiting for one another; None for so many clients."""
    vllm_flags: str
    """More flags for vLLM's own servers in a comparison."""
    rounds: int
    seconds: float
    """Length of a round."""
    output: Path
    """Folder for report.json and report.html."""


class _Health(msgspec.Struct):
    class Backend(msgspec.Struct):
        model: str | None = None

    backends: dict[str, Backend]


def run(options: BenchOptions, *, cache: Path, progress: Progress) -> Report:
    """Measure.

    Args:
        options: what to do.
        cache: folder that keeps the tiny models of a comparison.
        progress: told what is being done.

    Raises:
        ConfigurationError: there is nothing to measure, or a server did not start.
    """
    report = new_report(_title(options), _command(options))
    try:
        uvloop.run(_measured(report, options, cache, progress))
    except OSError as error:
        raise ConfigurationError(f"What was being measured is gone: {error}.") from error
    return report


def tell(report: Report, options: BenchOptions) -> None:
    """Print a report, and write it as JSON and as a page."""
    console = Console()
    if not console.is_terminal:
        console = Console(width=PRINTED_WIDTH)
    options.output.mkdir(parents=True, exist_ok=True)
    (options.output / "report.json").write_bytes(msgspec.json.format(msgspec.json.encode(report)))
    (options.output / "report.html").write_text(html_report(report))
    print_report(report, console)
    console.print(f"\nWritten to {options.output}/report.json and {options.output}/report.html")


def _command(options: BenchOptions) -> str:
    """The command that repeats this benchmark, without the output folder."""
    words = ["memoria", "bench"]
    if options.compare:
        words += ["--compare", "--rounds", f"{options.rounds}"]
    if options.telemetry:
        words += ["--telemetry", "--rounds", f"{options.rounds}"]
    if options.responses:
        words += ["--responses", "--rounds", f"{options.rounds}"]
    if options.batches:
        words += ["--batches", "--rounds", f"{options.rounds}"]
    if options.vllm_flags:
        words += ["--vllm-flags", options.vllm_flags]
    if options.soak_minutes:
        return shlex.join([*words, "--soak", f"{options.soak_minutes:g}"])
    if options.rate:
        words += ["--rate", f"{options.rate:g}"]
    return shlex.join([*words, "--seconds", f"{options.seconds:g}"])


def _title(options: BenchOptions) -> str:
    if options.compare:
        return "memoria-vllm beside vLLM's own servers and other gateways"
    if options.telemetry:
        return "memoria-vllm: what its telemetry costs"
    if options.responses:
        return "memoria-vllm: what the Responses API costs"
    if options.batches:
        return "memoria-vllm: what batches cost and reach"
    return "memoria-vllm: soak" if options.soak_minutes else "memoria-vllm: what this service does"


def _measured(report: Report, options: BenchOptions, cache: Path, progress: Progress) -> Coroutine[Any, Any, Any]:
    if options.compare or options.telemetry or options.responses or options.batches:
        return _compared(report, options, cache, progress)
    side = running_service(options.url)
    if options.soak_minutes:
        return soak(report, side, seconds=60 * options.soak_minutes, progress=progress)
    return _looked_at(report, side, options, progress)


async def _compared(report: Report, options: BenchOptions, cache: Path, progress: Progress) -> None:
    progress("making tiny models", None)
    models = await asyncio.to_thread(cached_tiny_models, cache)
    with tempfile.TemporaryDirectory(prefix="memoria-bench-") as folder, servers(Path(folder)) as running:
        rounds, seconds = options.rounds, options.seconds
        if options.telemetry:
            await compare_telemetry(report, running, models, rounds=rounds, seconds=seconds, progress=progress)
            return
        if options.responses:
            await compare_responses(report, running, models, rounds=rounds, seconds=seconds, progress=progress)
            return
        if options.batches:
            await compare_batches(report, running, models, rounds=rounds, seconds=seconds, progress=progress)
            return
        await compare(
            report,
            running,
            models,
            rounds=rounds,
            seconds=seconds,
            vllm_flags=options.vllm_flags,
            progress=progress,
        )


async def _looked_at(report: Report, side: Side, options: BenchOptions, progress: Progress) -> None:
    if options.rate is None:
        await check_requirements(report, side, progress)
    await sweep(report, side, seconds=options.seconds, rate=options.rate, progress=progress)


def running_service(url: str) -> Side:
    """The service at an address, both of whose models must be ready.

    Raises:
        ConfigurationError: it is not there, not ready, or no memoria-vllm.
    """
    url = url.rstrip("/").removesuffix("/v1")
    try:
        with urllib.request.urlopen(f"{url}/health", timeout=10) as response:
            health = msgspec.json.decode(response.read(), type=_Health)
        models = health.backends["embed"].model, health.backends["generate"].model
    except urllib.error.HTTPError as error:
        raise ConfigurationError(f"{url} is not ready (status {error.code}). See {url}/health.") from error
    except (OSError, ValueError, KeyError) as error:
        raise ConfigurationError(
            f"No service answers at {url} ({error}). Start one with `make serve`, or give its address: "
            "memoria bench --url http://HOST:PORT. With --compare the benchmark starts what it needs."
        ) from error
    embed_model, gen_model = (model or "" for model in models)
    pid = _listener(url)
    return Side(
        name="memoria",
        embed_url=url,
        gen_url=url,
        embed_model=embed_model,
        gen_model=gen_model,
        processes=(pid,) if pid else (),
    )


def _listener(url: str) -> int | None:
    """The process that listens at an address, if it runs here and we may know."""
    parts = urlsplit(url)
    if parts.hostname not in ("127.0.0.1", "localhost", "::1"):
        return None
    try:
        connections = psutil.net_connections("tcp")
    except psutil.Error:
        return None
    for connection in connections:
        if connection.status == psutil.CONN_LISTEN and connection.laddr.port == (parts.port or 80):
            return cast(int | None, connection.pid)
    return None
