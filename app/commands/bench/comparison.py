"""This service beside plain vLLM servers and beside other gateways: same machine, models and flags, in turn."""

import asyncio
from typing import NamedTuple

from app.commands.bench import workloads
from app.commands.bench.processes import (
    ENGINE_FLAGS,
    PLAIN_FLAGS,
    Models,
    Server,
    Servers,
    alone,
    gateway_settings,
    inprocess_settings,
    rival,
    side,
    version_of,
)
from app.commands.bench.results import Ratio, Report, ratio
from app.commands.bench.rounds import (
    Found,
    first_token,
    in_turn,
    latency,
    measured_rounds,
    memory,
    rate,
    ratio_of,
    ready,
    tokens,
)
from app.commands.bench.workloads import CANNED, CANNED_1
from domain.progress import Progress
from domain.roles import Role

MEMORIA, OVER_HTTP, VLLM = "memoria, in process", "memoria, over HTTP", "vLLM's own server"
GATEWAY, TWO_GATEWAYS = "memoria, gateway only", "memoria, gateway of 2 processes"
LITELLM, ROUTER = "LiteLLM", "vllm-router"
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
        flags = f"{PLAIN_FLAGS} {ENGINE_FLAGS} {self.flags}"
        return [self.servers.vllm(self.models[role], role, flags) for role in self.models]


async def _compare_engines(
    report: Report, servers: Servers, pair: Plain, *, rounds: int, seconds: float, progress: Progress
) -> None:
    progress("starting engines", None)
    models = pair.models
    names = models[Role.EMBED].name, models[Role.GENERATE].name
    embed, generate = pair.start()
    await ready(embed, generate, path="/health")
    service = servers.memoria(inprocess_settings(models))
    gateway = servers.memoria(gateway_settings(embed.url, generate.url))
    await ready(service, gateway, path="/health/ready")
    plain = side(VLLM, embed, generate, *names)
    inprocess, http = side(MEMORIA, service, service, *names), side(OVER_HTTP, gateway, gateway, *names)
    found = await measured_rounds(report, [inprocess, plain], workloads.ALL, rounds, seconds, progress)
    over = await measured_rounds(report, [http, plain], workloads.ALL[:3], rounds, seconds, progress)
    report.ratios += _engine_ratios(found) + _http_ratios(over)
    for base in (workloads.EMBEDDINGS, workloads.COMPLETIONS):
        sweep = [base.with_clients(clients) for clients in workloads.SWEEP]
        await measured_rounds(report, [inprocess, http, plain], sweep, 1, seconds, progress)
    servers.end(service, gateway, embed, generate)


async def _compare_gateways(
    report: Report, servers: Servers, *, rounds: int, seconds: float, progress: Progress
) -> None:
    progress("starting gateways", None)
    canned = servers.canned()
    await ready(canned, path="/health")
    gateway = servers.memoria(gateway_settings(canned.url, canned.url))
    two = servers.memoria({**gateway_settings(canned.url, canned.url), "API_PROCESSES": "2"})
    await ready(gateway, two, path="/health/ready")
    sides = [alone(GATEWAY, gateway), alone(TWO_GATEWAYS, two)]
    started = [canned, gateway, two]
    direct = alone("no gateway", canned)
    if program := rival("litellm"):
        started.append(servers.litellm(program, canned))
        sides.append(alone(LITELLM, started[-1]))
        report.machine.versions["litellm"] = version_of(program)
    if program := rival("vllm-router"):
        started.append(servers.vllm_router(program, canned))
        sides.append(alone(ROUTER, started[-1]))
        report.machine.versions["vllm-router"] = version_of(program)
    await ready(*started[3:], path="/health")
    found = await measured_rounds(report, [*sides, direct], [CANNED, CANNED_1], rounds, seconds, progress)
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
        for kind in in_turn([MEMORIA, VLLM], number):
            progress("cold starts", number / rounds)
            if kind == MEMORIA:
                started = [servers.memoria(inprocess_settings(pair.models))]
                mine.append(await ready(*started, path="/health/ready"))
            else:
                started = pair.start()
                others.append(await ready(*started, path="/health"))
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


def _engine_ratios(found: Found) -> list[Ratio]:
    load = workloads
    return [
        ratio_of(found, load.EMBEDDINGS, "requests/s", rate, MEMORIA, VLLM, 2.0, "at least"),
        ratio_of(found, load.COMPLETIONS, "requests/s", rate, MEMORIA, VLLM, 2.0, "at least"),
        ratio_of(found, load.STREAMS, "tokens/s", tokens, MEMORIA, VLLM, 2.0, "at least"),
        ratio_of(found, load.STREAMS, "first token p50, ms", first_token, MEMORIA, VLLM, 0.4, "at most"),
        ratio_of(found, load.EMBEDDINGS_1, "latency p50, ms", latency, MEMORIA, VLLM, 0.9, "at most"),
        ratio_of(found, load.COMPLETIONS_1, "latency p50, ms", latency, MEMORIA, VLLM, 0.9, "at most"),
    ]


def _http_ratios(found: Found) -> list[Ratio]:
    load = workloads
    return [
        ratio_of(found, load.EMBEDDINGS, "requests/s", rate, OVER_HTTP, VLLM, 1.5, "at least"),
        ratio_of(found, load.COMPLETIONS, "requests/s", rate, OVER_HTTP, VLLM, 0.95, "at least"),
        ratio_of(found, load.STREAMS, "tokens/s", tokens, OVER_HTTP, VLLM, 0.95, "at least"),
    ]


def _gateway_ratios(found: Found) -> list[Ratio]:
    ratios: list[Ratio] = []
    sides = found[CANNED.name]
    if LITELLM in sides:
        ratios += [
            ratio_of(found, CANNED, "requests/s", rate, GATEWAY, LITELLM, 30, "at least"),
            _added_latency(found, LITELLM, 1 / 20),
            ratio_of(found, CANNED, "resident memory, MiB", memory, GATEWAY, LITELLM, 90 / 364, "at most"),
        ]
    if ROUTER in sides:
        ratios += [
            ratio_of(found, CANNED, "requests/s", rate, mine, ROUTER, 0.25, "at least")
            for mine in (GATEWAY, TWO_GATEWAYS)
        ]
    return ratios


def _added_latency(found: Found, against: str, goal: float) -> Ratio:
    """What a gateway adds to the latency of the server itself, against what another one adds."""
    by_side = found[CANNED_1.name]
    direct = [latency(measurement) or 0.0 for measurement in by_side["no gateway"]]

    def added(name: str) -> list[float | None]:
        pairs = zip(by_side[name], direct, strict=True)
        return [None if (p50 := latency(measurement)) is None else p50 - base for measurement, base in pairs]

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
