"""The group of API processes: how long it waits for one that does not answer."""

import signal
from types import SimpleNamespace

import pytest
from uvicorn import Config

from app import api_processes as processes


class Answering:
    """A process that records the timeout of its health check."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.waited: list[float] = []

    def is_alive(self, timeout: float) -> bool:
        self.waited.append(timeout)
        return True


@pytest.fixture
def group(monkeypatch):
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    clock = SimpleNamespace(now=1000.0)
    monkeypatch.setattr(processes.time, "monotonic", lambda: clock.now)
    made = processes._Group(Config("unused:app", workers=2), [])
    made.clock = clock
    made.processes = [Answering(1), Answering(2)]
    yield made
    for number, handler in before.items():
        signal.signal(number, handler)


def test_starting_processes_have_more_time_to_answer(group):
    for passed in (0, processes.STARTUP_HANG_S - 1, processes.STARTUP_HANG_S):
        group.clock.now = 1000.0 + passed
        group.keep_subprocess_alive()
    young, old = processes.STARTUP_HANG_S, processes.HANG_S
    assert group.processes[0].waited == [young, young, old]


def test_a_replacement_has_the_startup_time_again(group):
    group.keep_subprocess_alive()
    group.clock.now += processes.STARTUP_HANG_S
    group.keep_subprocess_alive()
    group.processes[1] = Answering(3)
    group.keep_subprocess_alive()
    assert group.processes[1].waited == [processes.STARTUP_HANG_S]
