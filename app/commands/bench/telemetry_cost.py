"""What telemetry costs: the same service with none of it, with what it has by itself, and with traces.

Once with engines in process, tiny models so that the front end weighs as much as it can, and once as a gateway in
front of answers that cost nothing. The telemetry collector answers at once, on the same cores.
"""

from app.commands.bench import workloads
from app.commands.bench.processes import Models, Server, Servers, alone, gateway_settings, inprocess_settings, side
from app.commands.bench.results import Ratio, Report
from app.commands.bench.rounds import (
    Found,
    first_token,
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

OFF, USUAL, SAMPLED, ALL = "none", "metrics and log", "and 1 trace of 20", "and all traces"
NONE = {"METRICS": "false", "ENGINE_METRICS": "false", "REQUEST_LOG": "false", "HISTORY": "false"}
GOALS = {USUAL: 0.95, SAMPLED: 0.9, ALL: 0.8}
"""Of throughput; latency may grow by as much."""


async def compare_telemetry(
    report: Report, servers: Servers, models: Models, *, rounds: int, seconds: float, progress: Progress
) -> None:
    """Fill a report with what each kind of telemetry costs.

    Args:
        report: gets measurements and ratios.
        servers: starts what is compared.
        models: folders of both models.
        rounds: for each figure.
        seconds: length of a round.
        progress: told what is being done.
    """
    collector = servers.canned()
    await ready(collector, path="/health")
    report.notes.append("The telemetry collector answers at once and runs on the same cores.")
    await in_process_cost(report, servers, models, collector, rounds=rounds, seconds=seconds, progress=progress)
    await gateway_cost(report, servers, collector, rounds=rounds, seconds=seconds, progress=progress)
    servers.end(collector)


def _settings(collector: Server) -> dict[str, dict[str, str]]:
    """What each side has on top of what all have."""
    traces = {"OTEL_EXPORTER_OTLP_ENDPOINT": collector.url}
    sampled = {"OTEL_TRACES_SAMPLER": "parentbased_traceidratio", "OTEL_TRACES_SAMPLER_ARG": "0.05"}
    return {OFF: NONE, USUAL: {}, SAMPLED: traces | sampled, ALL: traces}


async def in_process_cost(
    report: Report,
    servers: Servers,
    models: Models,
    collector: Server,
    *,
    rounds: int,
    seconds: float,
    progress: Progress,
) -> None:
    """Of the service with both engines in process."""
    progress("starting engines", None)
    base, names = inprocess_settings(models), (models[Role.EMBED].name, models[Role.GENERATE].name)
    started = {name: servers.memoria({**base, **extra}) for name, extra in _settings(collector).items()}
    await ready(*started.values(), path="/health/ready")
    sides = [side(name, server, server, *names) for name, server in started.items()]
    found = await measured_rounds(report, sides, workloads.ALL, rounds, seconds, progress)
    report.ratios += [found_ratio for name in GOALS for found_ratio in _engine_ratios(found, name)]
    servers.end(*started.values())


async def gateway_cost(
    report: Report, servers: Servers, collector: Server, *, rounds: int, seconds: float, progress: Progress
) -> None:
    """Of a gateway in front of answers that cost nothing."""
    progress("starting gateways", None)
    canned = servers.canned()
    await ready(canned, path="/health")
    base = gateway_settings(canned.url, canned.url)
    started = {name: servers.memoria({**base, **extra}) for name, extra in _settings(collector).items()}
    await ready(*started.values(), path="/health/ready")
    sides = [alone(name, server) for name, server in started.items()]
    found = await measured_rounds(report, sides, [CANNED, CANNED_1], rounds, seconds, progress)
    report.ratios += [found_ratio for name in GOALS for found_ratio in _gateway_ratios(found, name)]
    servers.end(canned, *started.values())


def _engine_ratios(found: Found, name: str) -> list[Ratio]:
    goal, load = GOALS[name], workloads
    return [
        ratio_of(found, load.EMBEDDINGS, "requests/s", rate, name, OFF, goal, "at least"),
        ratio_of(found, load.COMPLETIONS, "requests/s", rate, name, OFF, goal, "at least"),
        ratio_of(found, load.STREAMS, "tokens/s", tokens, name, OFF, goal, "at least"),
        ratio_of(found, load.STREAMS, "first token p50, ms", first_token, name, OFF, 1 / goal, "at most"),
        ratio_of(found, load.EMBEDDINGS_1, "latency p50, ms", latency, name, OFF, 1 / goal, "at most"),
        ratio_of(found, load.COMPLETIONS_1, "latency p50, ms", latency, name, OFF, 1 / goal, "at most"),
    ]


def _gateway_ratios(found: Found, name: str) -> list[Ratio]:
    goal = GOALS[name]
    return [
        ratio_of(found, CANNED, "requests/s", rate, name, OFF, goal, "at least"),
        ratio_of(found, CANNED_1, "latency p50, ms", latency, name, OFF, 1 / goal, "at most"),
        ratio_of(found, CANNED, "resident memory, MiB", memory, name, OFF, 1.3, "at most"),
    ]
