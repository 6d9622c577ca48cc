"""Detection of hung engines."""

from types import SimpleNamespace

import psutil
import pytest

from adapters.vllm.inprocess.watchdog import Watchdog

HANG_S = 10.0


class Engine:
    """An engine process with a simulated clock."""

    def __init__(self) -> None:
        self.now = 0.0
        self.cpu_s = 0.0
        self.state = psutil.STATUS_SLEEPING
        self.watchdog = Watchdog(lambda: [self], hang_s=HANG_S, now=lambda: self.now)  # type: ignore[list-item]

    def status(self) -> str:
        return self.state

    def cpu_times(self) -> SimpleNamespace:
        return SimpleNamespace(user=self.cpu_s, system=0.0)

    def watch(
        self, seconds: float, *, has_work: bool = True, works: bool = False, answers: bool = False
    ) -> str | None:
        """Check once per second; returns the first reason for a hang, if any."""
        for _ in range(int(seconds)):
            self.now += 1
            self.cpu_s += 0.5 if works else 0.0
            if answers:
                self.watchdog.progress()
            if reason := self.watchdog.hangs(has_work=has_work):
                return reason
        return None


def test_an_idle_engine_is_not_hung():
    assert Engine().watch(1000, has_work=False) is None


def test_an_engine_with_output_is_not_hung():
    assert Engine().watch(1000, answers=True) is None


def test_an_engine_without_output_or_cpu_time_is_hung():
    engine = Engine()
    assert engine.watch(HANG_S) is None
    assert engine.watch(2) == "it has unfinished requests and has been idle for 11 seconds"


def test_idle_time_does_not_count():
    engine = Engine()
    engine.watch(1000, has_work=False)
    assert engine.watch(HANG_S) is None


def test_a_busy_engine_is_hung_only_after_a_long_time():
    engine = Engine()
    assert engine.watch(9 * HANG_S, works=True) is None
    assert (
        engine.watch(2 * HANG_S, works=True)
        == "it has unfinished requests and has produced no output for 101 seconds"
    )


def test_an_engine_that_stops_computing_is_hung():
    engine = Engine()
    assert engine.watch(3 * HANG_S, works=True) is None
    assert engine.watch(HANG_S) is None
    assert "has been idle" in str(engine.watch(1))


@pytest.mark.parametrize("has_work", [True, False])
def test_a_stopped_process_is_detected_immediately(has_work):
    engine = Engine()
    engine.state = psutil.STATUS_STOPPED
    assert engine.watch(1, has_work=has_work) == "its process has been stopped"


def test_ended_processes_are_not_hung():
    def gone(*_: object) -> None:
        raise psutil.NoSuchProcess(1)

    engine = Engine()
    engine.status = engine.cpu_times = gone  # type: ignore[method-assign,assignment]
    assert engine.watch(1, has_work=False) is None
