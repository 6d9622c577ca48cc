"""The benchmark's own requirements and soak, run against real engines. Speed is told, not asserted."""

import asyncio
from pathlib import Path

import pytest

from app.commands.bench import soak as soaking
from app.commands.bench.command import running_service
from app.commands.bench.processes import servers
from app.commands.bench.requirements import CROWD, LONG, check_requirements
from app.commands.bench.results import new_report
from app.commands.bench.soak import soak
from app.commands.bench.telemetry_cost import GOALS, OFF, gateway_cost
from app.commands.bench.text_report import print_report
from tests.processes import ServiceProcess

pytestmark = pytest.mark.integration


def silent(_step: str, _share: float | None) -> None:
    pass


def test_the_table_of_requirements(real_service: ServiceProcess, capsys: pytest.CaptureFixture[str]) -> None:
    from rich.console import Console

    report = new_report("requirements", "pytest")
    side = running_service(real_service.url)
    assert side.processes == (real_service.pid,)
    rows = asyncio.run(check_requirements(report, side, silent))
    with capsys.disabled():
        print_report(report, Console(width=150))
    answered = {measurement.workload: measurement.requests for measurement in report.measurements}
    assert answered[CROWD.name] == CROWD.requests
    assert answered[LONG.name] == LONG.requests
    assert sum(measurement.failed for measurement in report.measurements) == 0
    assert {row.what: row.is_met for row in rows}["50 users at once"]
    assert all(measurement.cpu_ms_per_request for measurement in report.measurements)


def test_mixed_load_fails_nobody_and_leaves_nothing_behind(
    real_service: ServiceProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(soaking, "SAMPLE_EVERY_S", 1.0)
    report = new_report("soak", "pytest")
    rows = asyncio.run(soak(report, running_service(real_service.url), seconds=10, progress=silent))
    verdicts = {row.what: row.is_met for row in rows}
    # Memory grows in the first seconds of any process; `memoria bench --soak` is for that.
    assert {what for what, is_met in verdicts.items() if not is_met} <= {"resident memory"}, rows
    assert len(report.memory) > 5


def test_what_telemetry_costs_a_gateway(tmp_path: Path) -> None:
    report = new_report("telemetry", "pytest")

    async def measured() -> None:
        with servers(tmp_path) as running:
            collector = running.canned()
            await gateway_cost(report, running, collector, rounds=1, seconds=0.5, progress=silent)

    asyncio.run(measured())
    assert {measurement.side for measurement in report.measurements} == {OFF, *GOALS}
    assert all(measurement.requests and not measurement.failed for measurement in report.measurements)
    # Throughput, latency and memory of each side against the one without.
    assert [bool(ratio.ratio) for ratio in report.ratios] == [True] * 3 * len(GOALS)
