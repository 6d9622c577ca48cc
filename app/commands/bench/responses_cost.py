"""Measures the overhead of the Responses API over chat completions.

Tiny models, so that the front end weighs as much as it can. Responses are measured stored, as they are by default,
and with `store` false.
"""

import msgspec

from app.commands.bench import workloads
from app.commands.bench.processes import Models, Servers, inprocess_settings, side
from app.commands.bench.results import Report
from app.commands.bench.rounds import first_token, latency, measured_rounds, rate, ratio_of, ready, tokens
from app.commands.bench.workloads import Api
from domain.progress import Progress
from domain.roles import Role

CHAT: Api = "chat"
COSTS: dict[Api, float] = {"responses": 1.1, "stored responses": 1.25}
"""How much more a request may cost than the same chat."""


async def compare_responses(
    report: Report, servers: Servers, models: Models, *, rounds: int, seconds: float, progress: Progress
) -> None:
    """Fill a report with what responses cost.

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
    one = side(CHAT, service, service, models[Role.EMBED].name, models[Role.GENERATE].name)
    sides = [msgspec.structs.replace(one, name=api, api=api) for api in (CHAT, *COSTS)]
    answers_1 = workloads.ANSWERS.with_clients(1)
    loads = [workloads.ANSWERS, workloads.STREAMS, answers_1]
    found = await measured_rounds(report, sides, loads, rounds, seconds, progress)
    for api, cost in COSTS.items():
        report.ratios += [
            ratio_of(found, workloads.ANSWERS, "requests/s", rate, api, CHAT, 1 / cost, "at least"),
            ratio_of(found, workloads.STREAMS, "tokens/s", tokens, api, CHAT, 1 / cost, "at least"),
            ratio_of(found, workloads.STREAMS, "first token p50, ms", first_token, api, CHAT, 1.0, "at most"),
            ratio_of(found, answers_1, "latency p50, ms", latency, api, CHAT, cost, "at most"),
        ]
    servers.end(service)
