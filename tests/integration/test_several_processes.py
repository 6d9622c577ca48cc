"""Metrics of several real processes: each reports the sum, and one exports it."""

import os
import signal
import subprocess
import sys
from ast import literal_eval
from collections.abc import Generator
from pathlib import Path

import pytest

from app.telemetry.several_processes import VARIABLE, began_ns, shared_folder
from tests.otlp_receiver import otlp_receiver


class CountingProcess:
    def __init__(self, name: str, folder: Path, endpoint: str = "") -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.integration.counting_process", name, str(folder), endpoint],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._line() == "started"

    def send(self, what: str) -> list[float]:
        """Send a command; returns running requests and counted calls as this process reports them."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{what}\n")
        self._process.stdin.flush()
        rows = {row.partition("{")[0]: float(row.rpartition(" ")[2]) for row in literal_eval(self._line())}
        return [rows["memoria_requests_running"], rows["gen_ai_server_request_duration_seconds_count"]]

    def kill(self) -> None:
        self._process.send_signal(signal.SIGKILL)
        self._end()

    def end(self) -> None:
        if self._process.poll() is None:
            assert self._process.stdin is not None
            self._process.stdin.close()
            self._process.stdin = None
            assert self._process.wait(30) == 0
            self._end()

    def _end(self) -> None:
        self._process.communicate()

    def _line(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline().strip()


@pytest.fixture
def folder() -> Generator[Path, None, None]:
    with shared_folder() as folder:
        yield folder


def test_the_folder_exists_while_it_is_needed():
    before = os.environ.get(VARIABLE)
    with shared_folder() as folder:
        assert os.environ[VARIABLE] == str(folder)
        assert began_ns(folder) > 0
    assert not folder.exists()
    assert os.environ.get(VARIABLE) == before


def test_each_process_reports_the_sum_of_all(folder: Path):
    first, second = CountingProcess("first", folder), CountingProcess("second", folder)
    first.send("count")
    first.send("count")
    assert second.send("count") == [2, 3]
    assert first.send("show") == [2, 3]
    second.kill()
    # Its running requests are gone; its counters are not.
    assert first.send("show") == [1, 3]
    third = CountingProcess("third", folder)
    assert third.send("count") == [2, 4]
    first.end()
    third.end()


def test_one_process_exports_the_sum_and_another_takes_over(folder: Path):
    with otlp_receiver() as receiver:
        first = CountingProcess("first", folder, receiver.http_url)
        receiver.wait_for(lambda: len(receiver.headers) >= 2)
        second = CountingProcess("second", folder, receiver.http_url)
        first.send("count")
        second.send("count")
        since = len(receiver.metrics)
        receiver.wait_for(lambda: len(receiver.headers) >= since + 4)
        assert {headers["x-process"] for headers in receiver.headers} == {"first"}
        (point,) = receiver.latest_metrics()["gen_ai.server.request.duration"].histogram.data_points
        assert point.count == 2
        first.kill()
        receiver.wait_for(lambda: any(headers["x-process"] == "second" for headers in receiver.headers))
        second.end()
        (after,) = receiver.latest_metrics()["gen_ai.server.request.duration"].histogram.data_points
        assert after.count == 2
        assert after.start_time_unix_nano == point.start_time_unix_nano == began_ns(folder)
        senders = {request.resource_metrics[0].resource.SerializeToString() for request in receiver.metrics}
        assert len(senders) == 1
