"""This service beside plain vLLM servers and beside other gateways: same machine, models and flags, in turn.

Each figure is a ratio: in every round the sides are measured one after the other, every other round in the
opposite order, and the median of the rounds' ratios counts. So what the machine does besides hits both.
"""

import asyncio
from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple, TypeVar

from app.bench import workloads
from app.bench.measure import Measurement, measure
from app.bench.processes import (
    ENGINE_FLAGS,
    PLAIN_FLAGS,
    Models,
    Server,
    Servers,
    gateway_settings,
    inprocess_settings,
    rival,
    side,
    version_of,
)
from app.bench.results import Ratio, Report, ratio
from app.bench.workloads import Side, Workload
from domain.backend import Role

Progress = Callable[[str, float | None], None]
T = TypeVar("T")
Figure = Callable[[Measurement], float | None]
MEMORIA, OVER_HTTP, VLLM = "memoria, in process", "memoria, over HTTP", "vLLM's own server"
GATEWAY, TWO_GATEWAYS = "memoria, gateway only", "memoria, gateway of 2 processes"
LITELLM, ROUTER = "LiteLLM", "vllm-router"
CANNED = Workload(name="canned answers, 64 clients", role=Role.GENERATE, clients=64, tokens=1)
CANNED_1 = CANNED.with_clients(1)
START_ROUNDS = 5


async def compare(
    report: Report,
    servers: Servers,
    models: Models,
    *,
    rounds: int,
    seconds: float,
    vllm_flags: str,
    progress: Progress,
) -> None:
    """Fill a report with all comparisons that can be made on this machine.

    Args:
        report: gets measurements, ratios and notes.
        servers: starts what is compared.
        models: folders of both models.
        rounds: for each figure.
        seconds: length of a round.
        vllm_flags: more flags for vLLM's own servers.
        progress: told what is being done.
    """
    report.flags = f"{PLAIN_FLAGS} {ENGINE_FLAGS}"
    if vllm_flags:
        report.notes.append(f"vLLM's own servers have {vllm_flags} besides.")
    plain = Plain(servers, models, vllm_flags)
    await _compare_engines(report, servers, plain, rounds=rounds, seconds=seconds, progress=progress)
    await _compare_gateways(report, servers, rounds=rounds, seconds=seconds, progress=progress)
    await _compare_starts(report, servers, plain, rounds=min(rounds, START_ROUNDS), progress=progress)


class Plain(NamedTuple):
    """vLLM's own servers, to be started."""

    servers: Servers
    models: Models
    flags: str

    def start(self) -> list[Server]:
        """One for each role, at the same moment."""
        return [self.servers.vllm(self.models[role], role, self.flags) for role in Role]


async def _compare_engines(
    report: Report, servers: Servers, pair: Plain, *, rounds: int, seconds: float, progress: Progress
) -> None:
    progress("starting engines", None)
    models = pair.models
    names = models[Role.EMBED].name, models[Role.GENERATE].name
    embed, generate = pair.start()
    await _ready(embed, generate, path="/health")
    service = servers.memoria(inprocess_settings(models))
    gateway = servers.memoria(gateway_settings(embed.url, generate.url))
    await _ready(service, gateway, path="/health/ready")
    plain = side(VLLM, embed, generate, *names)
    inprocess, http = side(MEMORIA, service, service, *names), side(OVER_HTTP, gateway, gateway, *names)
    found = await _rounds(report, [inprocess, plain], workloads.ALL, rounds, seconds, progress)
    over = await _rounds(report, [http, plain], workloads.ALL[:3], rounds, seconds, progress)
    report.ratios += _engine_ratios(found) + _http_ratios(over)
    for base in (workloads.EMBEDDINGS, workloads.COMPLETIONS):
        sweep = [base.with_clients(clients) for clients in workloads.SWEEP]
        await _rounds(report, [inprocess, http, plain], sweep, 1, seconds, progress)
    servers.end(service, gateway, embed, generate)


async def _compare_gateways(
    report: Report, servers: Servers, *, rounds: int, seconds: float, progress: Progress
) -> None:
    progress("starting gateways", None)
    canned = servers.canned("canned")
    await _ready(canned, path="/health")
    gateway = servers.memoria(gateway_settings(canned.url, canned.url))
    two = servers.memoria({**gateway_settings(canned.url, canned.url), "API_PROCESSES": "2"})
    await _ready(gateway, two, path="/health/ready")
    sides = [_alone(GATEWAY, gateway), _alone(TWO_GATEWAYS, two)]
    started = [canned, gateway, two]
    direct = _alone("no gateway", canned)
    if program := rival("litellm"):
        started.append(servers.litellm(program, canned, "canned"))
        sides.append(_alone(LITELLM, started[-1]))
        report.machine.versions["litellm"] = version_of(program)
    if program := rival("vllm-router"):
        started.append(servers.vllm_router(program, canned))
        sides.append(_alone(ROUTER, started[-1]))
        report.machine.versions["vllm-router"] = version_of(program)
    await _ready(*started[3:], path="/health")
    found = await _rounds(report, [*sides, direct], [CANNED, CANNED_1], rounds, seconds, progress)
    for rival_name in (LITELLM, ROUTER):
        if rival_name not in {each.name for each in sides}:
            report.notes.append(f"{rival_name} is not installed: nothing is compared with it.")
    report.ratios += _gateway_ratios(found)
    servers.end(*started)


async def _compare_starts(
    report: Report, servers: Servers, pair: Plain, *, rounds: int, progress: Progress
) -> None:
    """Both models ready from a cold start, against both plain servers started at the same moment."""
    mine: list[float | None] = []
    others: list[float | None] = []
    for number in range(rounds):
        for kind in _in_turn([MEMORIA, VLLM], number):
            progress("cold starts", number / rounds)
            if kind == MEMORIA:
                started = [servers.memoria(inprocess_settings(pair.models))]
                mine.append(await _ready(*started, path="/health/ready"))
            else:
                started = pair.start()
                others.append(await _ready(*started, path="/health"))
            await asyncio.to_thread(servers.end, *started)
    report.ratios.append(
        ratio(
            mine,
            others,
            workload="cold start, both models ready",
            figure="seconds",
            side=MEMORIA,
            against=VLLM,
            goal=0.6,
            direction="at most",
        )
    )


async def _rounds(
    report: Report,
    sides: Sequence[Side],
    loads: Sequence[Workload],
    rounds: int,
    seconds: float,
    progress: Progress,
) -> dict[str, dict[str, list[Measurement]]]:
    """Measurements by workload and side, in the order of the rounds."""
    found: dict[str, dict[str, list[Measurement]]] = {}
    for load in loads:
        by_side = found.setdefault(load.name, {each.name: [] for each in sides})
        step = f"{load.name}: {sides[0].name}"
        for number in range(rounds):
            for position, each in enumerate(_in_turn(sides, number)):
                progress(step, (number + position / len(sides)) / rounds)
                measurement = await measure(load, each, seconds=seconds)
                by_side[each.name].append(measurement)
                report.measurements.append(measurement)
    return found


def _engine_ratios(found: dict[str, dict[str, list[Measurement]]]) -> list[Ratio]:
    load = workloads
    return [
        _ratio(found, load.EMBEDDINGS, "requests/s", _rate, MEMORIA, VLLM, 2.0, "at least"),
        _ratio(found, load.COMPLETIONS, "requests/s", _rate, MEMORIA, VLLM, 2.0, "at least"),
        _ratio(found, load.STREAMS, "tokens/s", _tokens, MEMORIA, VLLM, 2.0, "at least"),
        _ratio(found, load.STREAMS, "first token p50, ms", _first_token, MEMORIA, VLLM, 0.4, "at most"),
        _ratio(found, load.EMBEDDINGS_1, "latency p50, ms", _latency, MEMORIA, VLLM, 0.9, "at most"),
        _ratio(found, load.COMPLETIONS_1, "latency p50, ms", _latency, MEMORIA, VLLM, 0.9, "at most"),
    ]


def _http_ratios(found: dict[str, dict[str, list[Measurement]]]) -> list[Ratio]:
    load = workloads
    return [
        _ratio(found, load.EMBEDDINGS, "requests/s", _rate, OVER_HTTP, VLLM, 1.5, "at least"),
        _ratio(found, load.COMPLETIONS, "requests/s", _rate, OVER_HTTP, VLLM, 0.95, "at least"),
        _ratio(found, load.STREAMS, "tokens/s", _tokens, OVER_HTTP, VLLM, 0.95, "at least"),
    ]


def _gateway_ratios(found: dict[str, dict[str, list[Measurement]]]) -> list[Ratio]:
    ratios: list[Ratio] = []
    sides = found[CANNED.name]
    if LITELLM in sides:
        ratios += [
            _ratio(found, CANNED, "requests/s", _rate, GATEWAY, LITELLM, 30, "at least"),
            _added_latency(found, LITELLM, 1 / 20),
            _ratio(found, CANNED, "resident memory, MiB", _memory, GATEWAY, LITELLM, 90 / 364, "at most"),
        ]
    if ROUTER in sides:
        ratios += [
            _ratio(found, CANNED, "requests/s", _rate, mine, ROUTER, 0.25, "at least")
            for mine in (GATEWAY, TWO_GATEWAYS)
        ]
    return ratios


def _added_latency(found: dict[str, dict[str, list[Measurement]]], against: str, goal: float) -> Ratio:
    """What a gateway adds to the latency of the server itself, against what another one adds."""
    by_side = found[CANNED_1.name]
    direct = [_latency(measurement) or 0.0 for measurement in by_side["no gateway"]]

    def added(name: str) -> list[float | None]:
        pairs = zip(by_side[name], direct, strict=True)
        return [None if (p50 := _latency(measurement)) is None else p50 - base for measurement, base in pairs]

    return ratio(
        added(GATEWAY),
        added(against),
        workload=CANNED_1.name,
        figure="added latency p50, ms",
        side=GATEWAY,
        against=against,
        goal=goal,
        direction="at most",
    )


def _ratio(
    found: dict[str, dict[str, list[Measurement]]],
    load: Workload,
    figure: str,
    of: Figure,
    mine: str,
    other: str,
    goal: float,
    direction: Literal["at least", "at most"],
) -> Ratio:
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


def _rate(measurement: Measurement) -> float | None:
    return measurement.requests_per_s


def _tokens(measurement: Measurement) -> float | None:
    return measurement.tokens_per_s


def _latency(measurement: Measurement) -> float | None:
    return measurement.latency_ms.p50 if measurement.latency_ms else None


def _first_token(measurement: Measurement) -> float | None:
    return measurement.first_token_ms.p50 if measurement.first_token_ms else None


def _memory(measurement: Measurement) -> float | None:
    return measurement.resident_mib


def _in_turn(items: Sequence[T], number: int) -> list[T]:
    return list(items) if number % 2 == 0 else list(reversed(items))


def _alone(name: str, server: Server) -> Side:
    return side(name, server, server, "canned", "canned")


async def _ready(*servers: Server, path: str) -> float:
    """Seconds until the last of them was ready."""
    waits = [asyncio.to_thread(server.wait_until, path) for server in servers]
    return max(await asyncio.gather(*waits), default=0.0)
