"""Busy engines and hung ones."""

from types import SimpleNamespace

import psutil
import pytest

from adapters.vllm.inprocess.watchdog import Watchdog

HANG_S = 10.0


class Engine:
    """An engine process, and a clock that stands still until it is told to go on."""

    def __init__(self) -> None:
        self.now = 0.0
        self.cpu_s = 0.0
        self.state = psutil.STATUS_SLEEPING
        self.watchdog = Watchdog(lambda: [self], hang_s=HANG_S, now=lambda: self.now)  # type: ignore[list-item]

    def status(self) -> str:
        return self.state

    def cpu_times(self) -> SimpleNamespace:
        return SimpleNamespace(user=self.cpu_s, system=0.0)

    def look(
        self, seconds: float, *, has_work: bool = True, works: bool = False, answers: bool = False
    ) -> str | None:
        """The verdict after some seconds of looking once a second; the first that is not well ends it."""
        for _ in range(int(seconds)):
            self.now += 1
            self.cpu_s += 0.5 if works else 0.0
            if answers:
                self.watchdog.progress()
            if verdict := self.watchdog.hangs(has_work=has_work):
                return verdict
        return None


def test_an_engine_without_work_may_do_nothing():
    assert Engine().look(1000, has_work=False) is None


def test_an_engine_that_answers_is_well():
    assert Engine().look(1000, answers=True) is None


def test_an_engine_with_work_that_does_nothing_hangs():
    engine = Engine()
    assert engine.look(HANG_S) is None
    assert engine.look(2) == "it has unfinished requests and has been idle for 11 seconds"


def test_time_without_work_does_not_count():
    engine = Engine()
    engine.look(1000, has_work=False)
    assert engine.look(HANG_S) is None


def test_an_engine_that_computes_is_left_alone_but_not_for_ever():
    engine = Engine()
    assert engine.look(9 * HANG_S, works=True) is None
    assert (
        engine.look(2 * HANG_S, works=True)
        == "it has unfinished requests and has produced no output for 101 seconds"
    )


def test_an_engine_that_stops_computing_in_the_middle_hangs():
    engine = Engine()
    assert engine.look(3 * HANG_S, works=True) is None
    assert engine.look(HANG_S) is None
    assert "has been idle" in str(engine.look(1))


@pytest.mark.parametrize("has_work", [True, False])
def test_a_stopped_process_is_noticed_at_once(has_work):
    engine = Engine()
    engine.state = psutil.STATUS_STOPPED
    assert engine.look(1, has_work=has_work) == "its process has been stopped"


def test_processes_that_are_gone_do_not_hang():
    def gone(*_: object) -> None:
        raise psutil.NoSuchProcess(1)

    engine = Engine()
    engine.status = engine.cpu_times = gone  # type: ignore[method-assign,assignment]
    assert engine.look(1, has_work=False) is None
