import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable

import pytest

from adapters.vllm.inprocess.engine_log import ADDRESS, EngineLog
from app.telemetry.log import JSON, TEXT, set_up

PRINTS = """
import sys
from adapters.vllm.inprocess.engine_log import send_output_to_owner
send_output_to_owner()
print({text!r}, flush=True)
print("the end", file=sys.stderr)
"""
TRACEBACK = """(Worker pid=2) ERROR 11-23 17:51:59 [worker.py:1] Traceback (most recent call last):
(Worker pid=2) ERROR 11-23 17:51:59 [worker.py:1] ValueError: No memory is left.
Traceback (most recent call last):
RuntimeError: A worker failed."""


@pytest.fixture
def make_log(monkeypatch, capsys, logging_as_before) -> Callable[..., EngineLog]:
    # So that monkeypatch restores the address after the test.
    monkeypatch.setenv(ADDRESS, "")
    set_up("warning", TEXT)
    return lambda name, *, echo=False: EngineLog(echo=echo, find_name=lambda _pid: name)


def run(text: str) -> subprocess.CompletedProcess:
    """A process that prints as an engine does."""
    command = [sys.executable, "-c", PRINTS.format(text=text)]
    return subprocess.run(command, capture_output=True, text=True, check=True, env=dict(os.environ))


def eventually(condition: Callable[[], object]) -> None:
    """Output arrives in a thread of the log."""
    for _ in range(1000):
        if condition():
            return
        threading.Event().wait(0.005)
    raise AssertionError("the condition was not met in time")


def test_engine_output_is_logged_with_the_engines_name(make_log, capsys):
    make_log("small", echo=True)
    process = run("loading\nhalf\rwhole")
    output: list[str] = []
    eventually(lambda: output.append(capsys.readouterr().err) or "the end" in "".join(output))
    assert "".join(output) == "[small] loading\n[small] whole\n[small] the end\n"
    assert (process.stdout, process.stderr) == ("", "")


def test_json_lines_have_engine_and_level(make_log, capsys):
    make_log("small", echo=True)
    set_up("error", JSON)
    run(TRACEBACK.splitlines()[0] + "\n(EngineCore pid=7) DEBUG 11-23 17:51:59 [core.py:1] odd: %s {}")
    output: list[str] = []
    eventually(lambda: output.append(capsys.readouterr().err) or "the end" in "".join(output))
    lines = [json.loads(line) for line in "".join(output).splitlines()]
    assert [(line["level"], line["engine"], line["logger"]) for line in lines] == [
        (level, "small", "memoria.engine") for level in ("error", "debug", "info")
    ]
    assert lines[1]["message"].endswith("odd: %s {}")


def test_without_echo_nothing_is_logged(make_log, capsys):
    log = make_log("small")
    run("ValueError: wrong")
    eventually(lambda: log.reason("small"))
    assert capsys.readouterr().err == ""


def test_the_first_exception_is_the_reason(make_log):
    log = make_log("small")
    run(TRACEBACK)
    eventually(lambda: log.reason("small"))
    assert log.reason("small") == "No memory is left."


def test_waiting_for_the_end_takes_until_the_engine_disconnects(make_log, capsys):
    log = make_log("small", echo=True)
    script = PRINTS.format(text="ready") + f"sys.stdin.readline()\nprint({TRACEBACK!r})\n"
    with subprocess.Popen([sys.executable, "-c", script], stdin=subprocess.PIPE, text=True) as process:
        eventually(lambda: "the end" in capsys.readouterr().err)
        ended = threading.Event()
        waiter = threading.Thread(target=lambda: (log.wait_for_end("small", timeout_s=10), ended.set()))
        waiter.start()
        assert not ended.wait(0.05)
        process.communicate("go on\n")
    waiter.join()
    assert ended.is_set()
    assert log.reason("small") == "No memory is left."


def test_an_engine_that_never_connected_is_not_waited_for(make_log):
    make_log("small").wait_for_end("another", timeout_s=10)


def test_a_discarded_output_has_no_reason(make_log):
    log = make_log("small")
    run(TRACEBACK)
    eventually(lambda: log.reason("small"))
    log.forget("small")
    assert log.reason("small") is None


def test_an_engine_without_exception_has_no_reason(make_log):
    assert make_log("small").reason("small") is None


def test_output_of_an_unknown_process_is_kept(make_log):
    log = make_log(None)
    run(TRACEBACK)
    eventually(lambda: log.reason("engine"))


@pytest.mark.parametrize("address", [None, "no-listener"])
def test_without_a_log_output_is_not_redirected(monkeypatch, address):
    monkeypatch.delenv(ADDRESS, raising=False)
    if address is not None:
        monkeypatch.setenv(ADDRESS, address)
    process = run("hello")
    assert (process.stdout, process.stderr) == ("hello\n", "the end\n")
